"""Conversion of a published file: read, rename, compare with the arch, write, report."""
import os
import re
from collections import Counter
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmvssd.checkpoint import CheckpointError, Mismatch, compare, read_checkpoint
from mmvssd.converters.official import Conversion, convert
from mmvssd.models import VSSD
from mmvssd.models.backbones.vssd import ARCHS
from mmvssd.version import __version__

#: Entries of a published file that may hold the weights, in the order in which they are tried.
KEYS = ('model', 'state_dict', 'model_ema')

SHOWN = 20  # names listed of each kind


def convert_file(source: str, target: str, family: str, *, arch: Optional[str] = None,
                 key: Optional[str] = None) -> str:
    """Convert a published file and print what became of its entries.

    Args:
        source: Published file.
        target: File to write; it is written whole or not at all.
        family: Family of the model.
        arch: Arch that the file must fit; None finds it from the shapes.
        key: Entry that holds the weights; None takes the first of :data:`KEYS` there is, or
            the file itself where it is a plain state dict.

    Returns:
        The arch.

    Raises:
        CheckpointError: The file cannot be read, holds unknown names, or fits no arch; nothing
            is written.
    """
    checkpoint = read_checkpoint(source, weights_alone=True)
    conversion = convert(_weights(checkpoint, source, key), family)
    arch, mismatch = _best_arch(conversion.state, arch)
    # a classifier has the last norm alone, a plain backbone may have none
    fresh = [name for name in mismatch.missing if re.match(r'backbone\.norm\d\.', name)
             and not (_is_classifier(conversion.state) and name.startswith('backbone.norm3.'))]
    wrong = mismatch._replace(missing=[name for name in mismatch.missing if name not in fresh])
    _print_table(conversion, wrong, fresh, arch)
    if any(wrong) or conversion.unknown:
        raise CheckpointError(f'{source}: does not fit {family} {arch}, see the table; '
                              f'{target} is not written')
    _save(dict(state_dict=conversion.state, meta=_meta(checkpoint, source, family, arch)), target)
    Console().print(f'{target}: written, {family} {arch}', soft_wrap=True)
    return arch


def _weights(checkpoint: dict, source: str, key: Optional[str]) -> Dict[str, Tensor]:
    if key is None:
        key = next((name for name in KEYS if isinstance(checkpoint.get(name), dict)), None)
    elif not isinstance(checkpoint.get(key), dict):
        raise CheckpointError(f'{source}: has no weights under {key!r}; '
                              f'its entries: {", ".join(map(str, checkpoint))}')
    state = checkpoint if key is None else checkpoint[key]
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(f'{source}: holds no weights; '
                              f'its entries: {", ".join(map(str, checkpoint))}')
    return weights


def _is_classifier(state: Dict[str, Tensor]) -> bool:
    return any(name.startswith('head.fc.') for name in state)


def _best_arch(state: Dict[str, Tensor], wanted: Optional[str]) -> Tuple[str, Mismatch]:
    """Find the arch that differs least from the weights; aliases give the first of them."""
    if wanted is not None and wanted not in ARCHS:
        raise CheckpointError(f'--arch: unknown name {wanted!r}; known: {", ".join(ARCHS)}')
    ours = {name: value for name, value in state.items()
            if name.startswith(('backbone.', 'head.fc.'))}
    mismatches = {name: compare(ours, _expected(name, state))
                  for name in ([wanted] if wanted else ARCHS)}
    best = min(mismatches, key=lambda name: sum(map(len, mismatches[name])))
    return best, mismatches[best]


def _expected(arch: str, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Names and shapes of a model of this arch; of a classifier where the weights are one's."""
    with torch.device('meta'):
        model = VSSD(arch)
        expected = {f'backbone.{name}': value for name, value in model.state_dict().items()}
        if _is_classifier(state):
            classes = max(len(value) for name, value in state.items()
                          if name.startswith('head.fc.') and value.dim())
            expected['head.fc.weight'] = torch.empty(classes, model.dims[-1])
            expected['head.fc.bias'] = torch.empty(classes)
    return expected


def _print_table(conversion: Conversion, wrong: Mismatch, fresh: List[str], arch: str) -> None:
    table = Table('', 'entries', 'what', title=f'compared with {arch}')
    parts = Counter(re.match(r'(backbone\.(stages\.\d+|\w+)|\w+)', ours)[0]
                    for _, ours in conversion.taken)
    table.add_row('taken', str(len(conversion.taken)),
                  ', '.join(f'{part}: {count}' for part, count in parts.items()))
    for reason, count in Counter(reason for _, reason in conversion.dropped).items():
        table.add_row('dropped', str(count), reason)
    rows = (('left fresh', fresh), ('missing', wrong.missing), ('unknown', conversion.unknown),
            ('not in this arch', wrong.unexpected),
            ('wrong shape', [f'{name}: {given}, expected {expected}'
                             for name, given, expected in wrong.shapes]))
    for title, names in rows:
        if names:
            more = [f'... and {len(names) - SHOWN} more'] if len(names) > SHOWN else []
            table.add_row(title, str(len(names)), '\n'.join([*names[:SHOWN], *more]))
    Console().print(table)


def _meta(checkpoint: dict, source: str, family: str, arch: str) -> dict:
    meta = dict(mmvssd_version=__version__, source=Path(source).name, family=family, arch=arch)
    published = checkpoint.get('meta')
    if isinstance(published, dict) and 'dataset_meta' in published:
        meta['dataset_meta'] = published['dataset_meta']
    return meta


def _save(checkpoint: dict, target: str) -> None:
    file = Path(target)
    partial = file.with_name(file.name + '.partial')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, partial)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError for a missing folder
        raise CheckpointError(f'{target}: cannot be written ({error})') from error
    finally:
        partial.unlink(missing_ok=True)
