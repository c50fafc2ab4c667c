"""Take out of a checkpoint what it holds: weights, a moving average, what is said of the data."""
import re
from collections import OrderedDict
from typing import Any, Dict, Iterable, List, Mapping, Optional

from torch import Tensor

from mmvssd.errors import CheckpointError


def state_dict_of(checkpoint: dict, prefix: str = '') -> Dict[str, Tensor]:
    """Take the weights out of a checkpoint, and of these the ones under ``prefix``.

    A plain state dict stands for itself; ``module.`` of a distributed wrapper is taken off.
    """
    return {name[len(prefix):]: value for name, value in entries_of(checkpoint).items()
            if name.startswith(prefix) and isinstance(value, Tensor)}


def entries_of(checkpoint: dict) -> Dict[str, Any]:
    """Return all entries in the place of the weights, of whatever type."""
    state = checkpoint.get('state_dict', checkpoint)
    return {re.sub(r'^module\.', '', name): value for name, value in state.items()
            if isinstance(name, str)}


def without_compile(name: str) -> str:
    """Take the ``_orig_mod.`` of torch.compile out of an entry's name."""
    return re.sub(r'(^|\.)_orig_mod\.', r'\1', name)


def named_as(state: Mapping[str, Any], expected: Iterable[str]) -> Mapping[str, Any]:
    """Give entries of a compiled model the names that a model has, which may be compiled, too.

    Args:
        state: Weights, with the versions of modules if they are a state dict of PyTorch's.
        expected: Names of the model's entries.

    Returns:
        The weights, those without a place in the model under their names without ``_orig_mod.``.
    """
    places = {without_compile(name): name for name in expected}
    renamed: Any = OrderedDict((places.get(plain, plain), value) for plain, value in
                          ((without_compile(name), value) for name, value in state.items()))
    versions = getattr(state, '_metadata', None)
    if versions is not None:
        # of modules: the compiled one has a dot less than its entries
        renamed._metadata = OrderedDict(
            (without_compile(f'{name}.')[:-1], value) for name, value in versions.items())
    return renamed


def choose_weights(source: str, checkpoint: dict, kind: str) -> Dict[str, Tensor]:
    """Take one kind of weights out of a checkpoint of a training with a moving average.

    MMEngine's EMAHook saves the average as ``state_dict``, where any reader finds it, and the raw
    weights as the average's.

    Args:
        source: What the checkpoint is called in the error.
        checkpoint: What :func:`read_checkpoint` returned.
        kind: 'ema' or 'raw'.

    Raises:
        CheckpointError: It holds one kind only.
    """
    if not isinstance(checkpoint.get('ema_state_dict'), dict):
        raise CheckpointError(
            f'{source}: holds no moving average beside the raw weights (no ema_state_dict): it was '
            'trained without EMAHook, published, or converted. It has one kind of weights')
    if kind == 'ema':
        return state_dict_of(checkpoint)
    average = checkpoint['ema_state_dict']  # with a count of its steps
    return state_dict_of({name: value for name, value in average.items()
                          if name.startswith('module.')})


def class_names(checkpoint: dict) -> Optional[List[str]]:
    """Return the names of the classes that a model was trained on; None if there are none."""
    try:
        named = dataset_meta('', checkpoint).get('classes')
    except CheckpointError:
        return None
    return None if named is None else list(named)


def dataset_meta(source: str, checkpoint: dict) -> dict:
    """Return what a checkpoint says of the data that its model was trained on.

    Args:
        source: What the checkpoint is called in the error.
        checkpoint: What :func:`read_checkpoint` returned.

    Returns:
        Entries by names in lower case, as MMEngine writes them; older versions had capitals. Empty
        if there are none. Its ``classes``, if it has any, are a list or a tuple.

    Raises:
        CheckpointError: It is of another form, or its classes are.
    """
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    data = meta.get('dataset_meta')
    if not isinstance(data, (dict, type(None))):
        raise CheckpointError(f'{source}: its meta.dataset_meta is a {type(data).__name__}, '
                              'expected a dict with the names of the classes')
    data = data or {'classes': meta.get('CLASSES')}  # the latter before 1.0
    data = {str(name).lower(): value for name, value in data.items() if value is not None}
    named = data.get('classes', ())
    if hasattr(named, 'tolist'):  # an array
        named = data['classes'] = named.tolist()
    if not isinstance(named, (list, tuple)):
        raise CheckpointError(f'{source}: the classes of its meta.dataset_meta are a '
                              f'{type(named).__name__} ({named!r:.60}), expected a list of names')
    return data
