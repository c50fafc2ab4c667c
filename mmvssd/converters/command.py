"""Conversion of a file: read, rename, compare with the archs, write, report."""
import re
from collections import Counter
from pathlib import Path
from typing import Dict, Optional

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mmvssd.checkpoint import choose_weights, read_checkpoint
from mmvssd.converters.fit import Fit, candidates, closest_fit
from mmvssd.errors import CheckpointError, printable
from mmvssd.files import written_whole
from mmvssd.phrases import counted
from mmvssd.version import __version__

#: Entries of a published file that may hold the weights, in the order in which they are tried.
KEYS = ('model', 'state_dict', 'model_ema')

SHOWN = 20  # names listed of each kind


def convert_file(source: str, target: str, family: Optional[str] = None, *,
                 arch: Optional[str] = None, key: Optional[str] = None) -> str:
    """Convert a published file and print what became of its entries.

    Args:
        source: Published file.
        target: File to write; it is written whole or not at all.
        family: Family that the file must fit; None finds it from the names.
        arch: Arch that the file must fit; None finds it from the shapes.
        key: Entry that holds the weights; None takes the first of :data:`KEYS` there is, or
            the file itself if it is a plain state dict.

    Returns:
        The arch.

    Raises:
        CheckpointError: The file cannot be read, holds unknown names, or fits no arch; nothing
            is written.
    """
    try:
        among = candidates(family, arch)
    except ValueError as error:
        raise CheckpointError(f'--{error}') from error
    checkpoint = read_checkpoint(source, weights_alone=True)
    weights = _weights(checkpoint, source, key)
    try:
        fit = closest_fit(weights, among)
    except ValueError as error:
        raise CheckpointError(f'{source}: {error}{_advice(checkpoint)}') from error
    _print_table(fit)
    if fit.differences:
        raise CheckpointError(f'{source}: does not fit {fit.family} {fit.arch}, see the table; '
                              f'{target} is not written')
    _save(dict(state_dict=fit.conversion.state, meta=_meta(checkpoint, source, fit)), target)
    twins = f', as {", ".join(fit.twins)} would be' if fit.twins and arch is None else ''
    others = ''.join(f', {name}={value!r}' for name, value in fit.conversion.settings.items())
    _say(f'{target}: written, {fit.family} {fit.arch}{others}{twins}')
    return fit.arch


def take_weights(source: str, target: str, kind: str) -> None:
    """Write one kind of the weights of a training with a moving average as a plain checkpoint.

    Args:
        source: Checkpoint of a training with MMEngine's EMAHook.
        target: File to write; it is written whole or not at all.
        kind: 'ema' or 'raw'.

    Raises:
        CheckpointError: The file cannot be read or holds one kind only; nothing is written.
    """
    checkpoint = read_checkpoint(source, weights_alone=True)
    state = choose_weights(source, checkpoint, kind)
    meta = dict(mmvssd_version=__version__, source=Path(source).name, weights=kind,
                **_dataset_meta(checkpoint))
    _save(dict(state_dict=state, meta=meta), target)
    _say(f'{target}: written, {counted(len(state), "entry")} of the {kind} weights')


def _say(text: str) -> None:
    # brackets in a name are no markup
    Console().print(printable(text), soft_wrap=True, markup=False)


def _advice(checkpoint: dict) -> str:
    if isinstance(checkpoint.get('ema_state_dict'), dict):
        return ('. It is of a training with a moving average: --weights ema or --weights raw '
                'takes one kind of its weights')
    return ''


def _weights(checkpoint: dict, source: str, key: Optional[str]) -> Dict[str, Tensor]:
    if key is None:
        key = next((name for name in KEYS if isinstance(checkpoint.get(name), dict)), None)
    elif not isinstance(checkpoint.get(key), dict):
        raise CheckpointError(f'{source}: has no weights under {key!r}; '
                              f'its entries: {", ".join(map(str, checkpoint))}')
    state = checkpoint if key is None else checkpoint[key]
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f'{source}: holds no weights; its entries: '
                              f'{", ".join(map(str, checkpoint)) or "none, or a pickled model"}. '
                              'Have its author save the state_dict() of the model')
    empty = [name for name, value in weights.items()
             if value.is_meta or value.layout is not torch.strided]
    if empty:
        raise CheckpointError(f'{source}: {counted(len(empty), "entry")} without values: '
                              f'sparse, or shapes (of the meta device), such as {empty[0]}')
    return weights


def _print_table(fit: Fit) -> None:
    table = Table('', 'entries', 'what', title=f'compared with {fit.family} {fit.arch}')
    conversion, wrong = fit.conversion, fit.mismatch
    parts = Counter(re.findall(r'^(?:backbone\.(?:stages\.\d+|\w+)|\w+)', ours)[0]
                    for _, ours in conversion.taken)
    table.add_row('taken', str(len(conversion.taken)),
                  ', '.join(f'{part}: {count}' for part, count in parts.items()))
    for reason, count in Counter(reason for _, reason in conversion.dropped).items():
        table.add_row('dropped', str(count), reason)
    rows = (('left fresh', fit.fresh), ('missing', wrong.missing), ('unknown', conversion.unknown),
            ('not in this arch', wrong.unexpected),
            ('wrong shape', [f'{name}: {given}, expected {expected}'
                             for name, given, expected in wrong.shapes]),
            ('unusable', [f'{name}: {what}' for name, what in wrong.unusable]))
    for title, names in rows:
        if names:
            more = [f'... and {len(names) - SHOWN} more'] if len(names) > SHOWN else []
            # brackets in a name are no markup
            listed = Text(printable('\n'.join([*names[:SHOWN], *more])))
            table.add_row(title, str(len(names)), listed)
    Console().print(table)


def _meta(checkpoint: dict, source: str, fit: Fit) -> dict:
    return dict(mmvssd_version=__version__, source=Path(source).name, family=fit.family,
                arch=fit.arch, **fit.conversion.settings, **_dataset_meta(checkpoint))


def _dataset_meta(checkpoint: dict) -> dict:
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and 'dataset_meta' in meta:
        return dict(dataset_meta=meta['dataset_meta'])
    return {}


def _save(checkpoint: dict, target: str) -> None:
    file = Path(target)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file, durable=True) as partial:
            torch.save(checkpoint, partial)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError for a missing folder
        raise CheckpointError(f'{target}: cannot be written ({error})') from error
