"""Read a checkpoint safely: nothing of the file is run."""
import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, List

import torch
from mmengine.runner import CheckpointLoader

from mmvssd.compat import ENVIRONMENT_VARIABLE, left_out
from mmvssd.compat.checkpoint_classes import safe_globals
from mmvssd.compat.checkpoint_contents import inspect
from mmvssd.errors import CheckpointError
from mmvssd.foreign_files import kind_of
from mmvssd.paths import seen_from
from mmvssd.phrases import emptiness, numbered, some

#: Modules of which no program's settings hold anything; PyTorch after 2.4 refuses them by itself.
MALICIOUS = ('nt', 'os', 'posix', 'sys')


def read_checkpoint(path: str, *, weights_alone: bool = False) -> dict:
    """Read a checkpoint to the CPU; nothing of the file is run.

    Args:
        path: A file, or any address that MMEngine's loader knows.
        weights_alone: Read a local file for its weights only. Objects of classes that are not safe
            to load, such as a training program's settings, come back empty.

    Returns:
        The dict that the file holds. Its ``state_dict``, if it has one, is a dict of names.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, of another form, or may
            not be read. Or it holds objects that only unsafe loading would bring back.
    """
    path = expanded(path)
    if is_local_file(path):
        _require_file(path)
    try:
        if weights_alone:
            checkpoint = _load_weights_alone(path)
        else:
            checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    except Exception as error:  # torch raises half a dozen types for a broken file
        raise CheckpointError(f'{path}: cannot be read as a checkpoint: {_reason(path, error)}'
                              f'{_allowed_less()}') from error
    _require_form(path, checkpoint, weights_alone)
    return checkpoint


def expanded(path: str) -> str:
    """Return a path with the home folder that ``~`` stands for."""
    try:
        return os.path.expanduser(str(path)) if is_local_file(str(path)) else str(path)
    except RuntimeError:  # there is no such user
        return str(path)


def is_local_file(path: str) -> bool:
    """Tell a file's path from an address such as ``https://...``."""
    return '://' not in path


def _require_file(path: str) -> None:
    """Raise CheckpointError unless a path is that of a file that may be a checkpoint."""
    file = Path(path)
    try:
        if emptiness(path):
            raise CheckpointError(f'checkpoint: {emptiness(path)}')
        if '\0' in path:
            raise CheckpointError(f'{path!r} is not a name of a checkpoint file')
        if file.is_dir():
            raise CheckpointError(f'{path}: is a folder; name the checkpoint file in it')
        if file.is_symlink() and not file.exists():
            raise CheckpointError(f'{path}: no such checkpoint file; it is a link to '
                                  f'{os.readlink(file)}, which is missing')
        if not file.exists():
            raise CheckpointError(f'{path}: no such checkpoint file{seen_from(path)}'
                                  f'{_others(file)}')
        if not file.is_file():
            raise CheckpointError(f'{path}: is not an ordinary file (a pipe or a device)')
        kind = kind_of(file)
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be read ({error.strerror})') from error
    if kind:
        raise CheckpointError(f'{path}: cannot be read as a checkpoint: it is {kind}')


def _others(file: Path) -> str:
    """Say which checkpoints are there, newest first, and why no best one may be."""
    best = ('; a best_*.pth is there only after a validation that found something'
            if file.name.startswith('best_') else '')
    others = sorted((other for other in file.parent.glob('*.pth') if other.is_file()),
                    key=lambda other: -other.stat().st_mtime)
    names = some([str(other) for other in others])
    return best + (f'; there are, the newest first: {names}' if names else '')


def _reason(path: str, error: Exception) -> str:
    lines = str(error).removeprefix(f'{path}: ').splitlines()
    if isinstance(error, UnpicklingError) and lines:
        # in the words of mmvssd.compat.checkpoint; without it PyTorch's, up to their advice
        return lines[0] if 'eights only' not in lines[0] else lines[0].partition('.')[0]
    return ('it is truncated, damaged, or of another kind '
            f'({type(error).__name__}: {lines[0] if lines else "no details"})')


def _allowed_less() -> str:
    if 'checkpoint' not in left_out():
        return ''
    return (f'. {ENVIRONMENT_VARIABLE} leaves out the patch that allows what MMEngine writes into '
            'its checkpoints')


def _require_form(path: str, checkpoint: Any, weights_alone: bool) -> None:
    """Raise CheckpointError unless what a file holds has the form of a checkpoint."""
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path}: holds a {type(checkpoint).__name__}, expected a dict of '
                              'weights by name, or one with a state_dict')
    if 'state_dict' in checkpoint and not isinstance(checkpoint['state_dict'], dict):
        raise CheckpointError(f'{path}: its state_dict is a '
                              f'{type(checkpoint["state_dict"]).__name__}, expected a dict of '
                              'weights by name')
    if not isinstance(checkpoint.get('meta', {}), dict) and not weights_alone:
        raise CheckpointError(f'{path}: its meta is a {type(checkpoint["meta"]).__name__}, '
                              'expected a dict; save the file anew without it')
    states = (checkpoint.get(key) for key in ('state_dict', 'model', 'model_ema',
                                              'ema_state_dict'))
    for names in (checkpoint, *(state for state in states if isinstance(state, dict))):
        wrong = [name for name in names if not isinstance(name, str)]
        if wrong:
            what = numbered('{} of its names [is not a string|are not strings]', len(wrong))
            raise CheckpointError(f'{path}: {what}, such as {wrong[0]!r}, a '
                                  f'{type(wrong[0]).__name__}; it is not a state dict')


class _Inert:
    """Stands in for a class that is not loaded: making one gives an empty mapping.

    PyTorch's safe reader fills mappings of its own kinds only, so it has to be one of them.
    """

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()


def _load_weights_alone(path: str) -> dict:
    allowed = torch.serialization.get_safe_globals()
    try:
        # PyTorch 2.4 has no context manager for it
        torch.serialization.add_safe_globals([
            _stand_in(name) for name in _unsafe_names(path)
            if name.partition('.')[0] not in MALICIOUS])
        return torch.load(path, map_location='cpu', weights_only=True)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _unsafe_names(path: str) -> List[str]:
    """Return the classes and functions of a file that PyTorch refuses to load."""
    contents = inspect(path)
    if zipfile.is_zipfile(path) and hasattr(torch.serialization,
                                            'get_unsafe_globals_in_checkpoint'):
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    # PyTorch tells it from 2.6 on, and not of the format before 1.6
    known = {*safe_globals(), 'builtins.set', 'builtins.bytearray', 'builtins.complex'}
    return [name for name in contents.names - known
            if not name.startswith(('torch.', 'collections.', '_codecs.'))]


def _stand_in(path: str) -> type:
    module, _, name = path.rpartition('.')
    # PyTorch looks a pickle's classes up by these attributes
    return type(name, (_Inert, ), dict(__module__=module, __qualname__=name))
