"""Reading checkpoints, and telling whether one fits a model: all errors about them start here."""
import copy
import logging
import os
import re
import zipfile
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmvssd.compat import ENVIRONMENT_VARIABLE, left_out
from mmvssd.compat.checkpoint_classes import safe_globals
from mmvssd.compat.checkpoint_contents import inspect
from mmvssd.errors import CheckpointError, printable
from mmvssd.foreign_files import kind_of

SHOWN = 5  # names listed of each kind in an error
#: What a run goes on from, by its name in a checkpoint.
RESUMED = dict(state_dict=dict, optimizer=dict, message_hub=dict, meta=dict)


#: Modules of which no program's settings hold anything; PyTorch after 2.4 refuses them by itself.
MALICIOUS = ('nt', 'os', 'posix', 'sys')


class Mismatch(NamedTuple):
    """Differences of a state dict from a model's."""

    missing: List[str]
    unexpected: List[str]
    shapes: List[Tuple[str, tuple, tuple]]  # name, given, expected
    unusable: Sequence[Tuple[str, str]] = ()  # name, what is wrong with the values


def read_checkpoint(path: str, *, weights_alone: bool = False) -> dict:
    """Read a checkpoint to the CPU; nothing of the file is run.

    Args:
        path: A file, or any address that MMEngine's loader knows.
        weights_alone: Read a local file whose weights are all that matters: objects of classes
            that are not safe to load, such as a training program's settings, come back empty.

    Returns:
        The dict that the file holds. Its ``state_dict``, if it has one, is a dict of names.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, may not be read, holds
            objects that only unsafe loading would bring back, or is of another form.
    """
    path = _expanded(path)
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


def _expanded(path: str) -> str:
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
        if not path.strip() or '\0' in path:
            raise CheckpointError(f'{path!r} is no name of a checkpoint file; is a variable of '
                                  'your script not set?')
        if file.is_dir():
            raise CheckpointError(f'{path}: is a folder; name the checkpoint file in it')
        if file.is_symlink() and not file.exists():
            raise CheckpointError(f'{path}: no such checkpoint file; it is a link to '
                                  f'{os.readlink(file)}, which is not there')
        if not file.exists():
            raise CheckpointError(f'{path}: no such checkpoint file (seen from {Path.cwd()})')
        if not file.is_file():
            raise CheckpointError(f'{path}: is no ordinary file (a pipe or a device)')
        kind = kind_of(file)
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be read ({error.strerror})') from error
    if kind:
        raise CheckpointError(f'{path}: cannot be read as a checkpoint: it is {kind}')


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


def _require_form(path: str, checkpoint, weights_alone: bool) -> None:
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
            raise CheckpointError(f'{path}: {len(wrong)} of its names are no strings, such as '
                                  f'{wrong[0]!r}, a {type(wrong[0]).__name__}; it is no state dict')


def newest_checkpoint(work_dir: str, since: float = 0) -> Optional[str]:
    """Find the newest checkpoint of a work dir that a run can be resumed from.

    Newest by the time and the iteration that a checkpoint holds: copying changes a file's own time.
    A file that is cut short or damaged is reported, and the one before it taken. Best checkpoints
    are not looked at: they hold no optimizer. A checkpoint that is a folder (of a sharded model) is
    taken as it is, by its file's time and number.

    Args:
        work_dir: The run's folder.
        since: Leave out files that were written before this, in seconds since the epoch.

    Returns:
        The checkpoint's path, or None if there is none.

    Raises:
        CheckpointError: There are some, and none of them is whole.
    """
    found = sorted((path for path in checkpoints_of(work_dir) if path.stat().st_mtime >= since),
                   key=_age, reverse=True)
    for path in found:
        try:
            require_resumable(str(path), may_be_folder=True)
        except CheckpointError as error:
            print_log(f'{error}; the checkpoint before it is looked at', logger='current',
                      level=logging.WARNING)
        else:
            return str(path)
    if found:
        raise CheckpointError(f'{work_dir}: none of its {len(found)} checkpoints can be resumed '
                              'from; start anew in another work dir, without --resume')
    return None


def checkpoints_of(work_dir: str, *, best: bool = False) -> List[Path]:
    """List the checkpoints that trainings wrote into a work dir, or to where it points.

    Args:
        work_dir: The folder.
        best: List the best ones of evaluations as well.
    """
    folder = Path(work_dir)
    pointer = folder / 'last_checkpoint'  # MMEngine's; it may name another folder
    text = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    folders = {folder.resolve(), *([Path(text).resolve().parent] if text else [])}
    return [path for folder in folders for path in folder.glob('*.pth')
            if re.fullmatch(r'(best_.+_)?(epoch|iter)_\d+' if best else r'(epoch|iter)_\d+',
                            path.stem)]


def _age(path: Path) -> tuple:
    """Return what sorts a checkpoint by when it was written; of a damaged one, its file's time."""
    written = datetime.fromtimestamp(path.stat().st_mtime)
    try:
        meta = inspect(path).value['meta']
        written = datetime.strptime(meta['time'], '%Y%m%d_%H%M%S')
        return written, int(meta['iter']), path.stat().st_mtime
    except Exception:  # of a damaged file, which may be anything
        return written, int(path.stem.rpartition('_')[2]), path.stat().st_mtime


def require_resumable(path: str, *, may_be_folder: bool = False) -> None:
    """Raise CheckpointError unless a checkpoint is undamaged and holds all that a run goes on from.

    PyTorch reads a damaged file without complaint: the checksums are looked at here.

    Args:
        path: The checkpoint.
        may_be_folder: Take a folder, as strategies for sharded models write them, as it is.
    """
    path = _expanded(path)
    if may_be_folder and path and os.path.isdir(path) and os.listdir(path):
        return
    checkpoint = read_checkpoint(path)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            damaged = str(error)
        if damaged:
            raise CheckpointError(f'{path}: damaged, its checksums do not fit ({damaged})')
    absent = RESUMED.keys() - checkpoint.keys()
    if absent:
        raise CheckpointError(f'{path}: holds no {", no ".join(sorted(absent))}; a run cannot be '
                              'resumed from it')
    for name, kind in RESUMED.items():
        if not isinstance(checkpoint[name], kind):
            raise CheckpointError(f'{path}: its {name} is a {type(checkpoint[name]).__name__}; a '
                                  'run cannot be resumed from it')
    require_progress(path, checkpoint)


def require_progress(source: str, checkpoint: dict) -> None:
    """Raise CheckpointError unless a checkpoint tells how far its training has come.

    Args:
        source: What the checkpoint is called in the error.
        checkpoint: What :func:`read_checkpoint` returned.
    """
    meta = checkpoint.get('meta') or {}
    for name in ('epoch', 'iter'):
        if not isinstance(meta.get(name), int) or meta[name] < 0:
            raise CheckpointError(f'{source}: its meta has {name}={meta.get(name)!r}, expected a '
                                  'count; a run cannot be resumed from it')
    if 'config' in meta and 'config_strings' in left_out():
        raise CheckpointError(f'{source}: its meta holds the text of a config, which MMEngine '
                              f'would run; {ENVIRONMENT_VARIABLE} leaves out the patch that '
                              'prevents it')


class _Inert:
    """Stands in for a class that is not loaded: making one gives an empty mapping.

    PyTorch's safe reader fills mappings of its own kinds only, so it has to be one of them.
    """

    def __new__(cls, *args):
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
    """Classes and functions of a file that PyTorch refuses to load."""
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


def state_dict_of(checkpoint: dict, prefix: str = '') -> Dict[str, Tensor]:
    """Take the weights out of a checkpoint, and of these the ones under ``prefix``.

    A plain state dict stands for itself; ``module.`` of a distributed wrapper is taken off.
    """
    return {name[len(prefix):]: value for name, value in _entries(checkpoint).items()
            if name.startswith(prefix) and isinstance(value, Tensor)}


def _entries(checkpoint: dict) -> Dict[str, Any]:
    """Return all that lies where the weights should, of whatever type."""
    state = checkpoint.get('state_dict', checkpoint)
    return {re.sub(r'^module\.', '', name): value for name, value in state.items()
            if isinstance(name, str)}


def without_compile(name: str) -> str:
    """Take the ``_orig_mod.`` of torch.compile out of an entry's name."""
    return re.sub(r'(^|\.)_orig_mod\.', r'\1', name)


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


def compare(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Mismatch:
    """List the names, shapes and kinds of values in which ``given`` differs from ``expected``.

    What is given beside the weights and is no tensor, such as a count of epochs, is passed over.
    """
    typed = [name for name in given if isinstance(expected.get(name), Tensor)]
    common = [name for name in typed if isinstance(given[name], Tensor)]
    others = [name for name in typed if not isinstance(given[name], Tensor)]
    fitting = [name for name in common if given[name].shape == expected[name].shape]
    wrong = [(name, _type_of(given[name])) for name in others]
    wrong += ((name, _what_is_wrong(given[name], expected[name])) for name in fitting)
    return Mismatch(
        missing=[name for name in expected if name not in given],
        unexpected=[name for name, value in given.items()
                    if name not in expected and isinstance(value, Tensor)],
        shapes=[(name, tuple(given[name].shape), tuple(expected[name].shape))
                for name in common if name not in fitting],
        unusable=[(name, what) for name, what in wrong if what])


def _type_of(value: Any) -> str:
    kind = 'None' if value is None else f'of type {type(value).__name__}'
    return f'{kind}, expected a tensor'


def _what_is_wrong(given: Tensor, expected: Tensor) -> Optional[str]:
    """Say why values cannot stand for a model's own of the same shape; None if they can."""
    if given.is_meta and not expected.is_meta:
        return 'a shape without values (of the meta device)'
    if given.layout is not torch.strided:
        return f'a sparse tensor ({given.layout})'
    if given.is_quantized and not expected.is_quantized:
        return f'quantized ({given.dtype})'
    if given.is_complex() and not expected.is_complex():
        return f'complex numbers ({given.dtype})'
    if given.dtype != expected.dtype and _is_packed(given.dtype):
        return f'packed numbers ({given.dtype}), which PyTorch converts to no other kind'
    if expected.is_floating_point() and not given.is_floating_point():
        kind = 'truth values' if given.dtype == torch.bool else 'whole numbers'
        return f'{kind} ({given.dtype}), expected {expected.dtype}'
    given, expected = _computable(given), _computable(expected)
    if _is_finite(given) or (_is_infinite_by_design(given) and not _is_finite(expected)):
        return None
    return f'{int((~torch.isfinite(given)).sum())} of {given.numel()} values are not finite'


def _is_packed(dtype: torch.dtype) -> bool:
    """Tell a kind of several numbers, or of bits, in a byte: it can be kept, but not converted."""
    if dtype.is_complex:
        return False
    try:
        torch.empty(1, dtype=dtype).to(torch.float32)
    except RuntimeError:  # torch is asked: it has other kinds in each version
        return True
    return False


def _computable(value: Tensor) -> Tensor:
    """Widen numbers of 8 bits, which PyTorch keeps but does not compute with."""
    narrow = value.is_floating_point() and value.dtype.itemsize == 1
    return value.float() if narrow and not _is_packed(value.dtype) else value


def _is_finite(value: Tensor) -> bool:
    if value.is_meta or not (value.is_floating_point() or value.is_complex()):
        return True
    if _is_packed(value.dtype):
        return True  # their 4 bits have no place for an infinity
    return bool(torch.isfinite(value).all())


def _is_infinite_by_design(value: Tensor) -> bool:
    """Tell a mask of zeros and infinities, or a limit that is not set, from broken weights.

    A model that has loaded its weights is as broken as they are, so it cannot tell.
    """
    finite = value[torch.isfinite(value)]
    is_mask = len(finite) > 0 and not finite.any()
    return not value.isnan().any() and (is_mask or value.numel() == 1)


def describe(mismatch: Mismatch) -> str:
    """Say in a few lines what differs."""
    shapes = [f'{name}: {given}, expected {expected}' for name, given, expected in mismatch.shapes]
    unusable = [f'{name}: {what}' for name, what in mismatch.unusable]
    parts = [('missing', mismatch.missing), ('unknown', mismatch.unexpected),
             ('of another shape', shapes), ('unusable', unusable)]
    return '\n  '.join(f'{len(names)} {kind}: {_shortened(names)}'
                       for kind, names in parts if names)


def _shortened(names: List[str]) -> str:
    return printable('; '.join(names[:SHOWN])) + (' ...' if len(names) > SHOWN else '')


def unwrapped(model: nn.Module) -> nn.Module:
    """Take off what distributed training and test-time augmentation lay around a model."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def weights_of(model: nn.Module) -> Dict[str, torch.Tensor]:
    """Names and values of a model's weights; of a sharded one, in all processes at once."""
    from torch.distributed.fsdp import FullStateDictConfig, StateDictType
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    if not isinstance(model, FSDP):
        return unwrapped(model).state_dict()
    # PyTorch crashes where it moves weights from the CPU to the CPU
    whole = FullStateDictConfig(offload_to_cpu=get_device() != 'cpu', rank0_only=False)
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, whole):
        return model.state_dict()


def mismatch_with(checkpoint: dict, model: nn.Module) -> Mismatch:
    """List what of a checkpoint does not fit a model, once its modules have adapted it.

    Some modules of the hosts rename entries of older versions, or resize position embeddings, while
    they load. So where names or shapes differ, loading is tried; a model that cannot take the
    weights may be left with some of them.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        model: A whole model, wrapped or not.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    given = state_dict_of(checkpoint)
    mismatch = compare(_entries(checkpoint), weights_of(model))
    if not any(mismatch[:3]) or isinstance(model, FSDP):
        return mismatch
    state = copy.copy(checkpoint.get('state_dict', checkpoint))  # with its modules' versions
    if state.keys() != given.keys():
        state = given
    try:
        missing, unexpected = unwrapped(model).load_state_dict(state, strict=False)
    except (RuntimeError, KeyError):  # shapes; and a module may miss what it would rename
        return mismatch
    told = dict(mismatch.unusable)
    return Mismatch([name for name in missing if name not in told], list(unexpected), [],
                    mismatch.unusable)


def require_fit(source: str, checkpoint: dict, model: nn.Module) -> None:
    """Raise CheckpointError unless every name and shape of a checkpoint is the model's.

    Args:
        source: What the checkpoint is called in the error.
        checkpoint: What :func:`read_checkpoint` returned.
        model: A whole model, wrapped or not.
    """
    mismatch = mismatch_with(checkpoint, model)
    if any(mismatch):
        raise CheckpointError(
            f'{source}: not the weights of this model\n  {describe(mismatch)}\n'
            f'{place_of_weights(checkpoint, model) or _advice_for_model(mismatch)}')


def place_of_weights(checkpoint: dict, model: nn.Module) -> str:
    """Say where in a checkpoint a model's weights lie, if it is not where they should; or ''."""
    given, expected = state_dict_of(checkpoint), weights_of(model)
    if given.keys() & expected.keys():
        return ''
    prefix = _prefix_that_fits(given, expected)
    if prefix and '_orig_mod.' not in prefix:  # that one has an advice of its own
        return (f'The names fit without {prefix!r} before them: save these weights without it, as '
                'state_dict.')
    part = _prefix_that_fits(expected, given)
    if part:
        return (f'The names fit with {part!r} before them: the file holds only that part of the '
                'model, which a training can begin from, by init_cfg.')
    return _other_place(checkpoint)


def _other_place(checkpoint: dict) -> str:
    """Say under which names of a checkpoint weights lie, if not under state_dict; or ''."""
    path = _path_of_weights(checkpoint)
    if not path or path == ['state_dict']:
        return ''
    inside = ''.join(f'[{name!r}]' for name in path)
    return (f"The weights lie under {'.'.join(path)}. If the file is a published one, "
            'tools/model_converters/convert_checkpoint.py makes a checkpoint of it. If not, save '
            f'dict(state_dict=checkpoint{inside}).')


def _path_of_weights(entries: dict, depth: int = 3) -> List[str]:
    """Return the names that lead to the first dict of tensors within others; [] if none does."""
    inside = {name: value for name, value in entries.items()
              if isinstance(name, str) and isinstance(value, dict) and name != 'optimizer'}
    for name, value in inside.items():
        if any(isinstance(key, str) and isinstance(entry, Tensor) for key, entry in value.items()):
            return [name]
    for name, value in inside.items() if depth > 1 else ():
        rest = _path_of_weights(value, depth - 1)
        if rest:
            return [name, *rest]
    return []


def _prefix_that_fits(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Optional[str]:
    """Find what stands before all expected names in the given ones; None if nothing does.

    Shapes have to be the expected ones as well. It is empty if the names fit as they are.
    """
    first = next(iter(expected), '')
    prefixes = [name[:-len(first)] for name in given if first and name.endswith(first)]
    for prefix in prefixes:
        if prefix[-1:] in ('', '.') and all(
                prefix + name in given and given[prefix + name].shape == value.shape
                for name, value in expected.items()):
            return prefix
    return None


def _advice_for_model(mismatch: Mismatch) -> str:
    if any('_orig_mod.' in name for name in mismatch.unexpected):
        return ('The names have the _orig_mod. of torch.compile: save the state_dict() of the '
                'model that was compiled, its _orig_mod.')
    if mismatch.shapes and not any(mismatch[:2]) and all(
            given[1:] == expected[1:] for _, given, expected in mismatch.shapes):
        return ('Only numbers of outputs differ: num_classes of the config is another one than '
                'that of the checkpoint.')
    if mismatch.unusable and not any(mismatch[:3]):
        return ('The values are of no use: take an earlier checkpoint, or find out how the file '
                'was written.')
    return 'Check that the config is the one that the checkpoint was trained with.'


def class_names(checkpoint: dict) -> Optional[List[str]]:
    """Names of the classes that a checkpoint's model was trained on; None if it has none."""
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


def load_pretrained(backbone: nn.Module, path: str, prefix: str = '') -> None:
    """Load a pretrained backbone; stop if the checkpoint is another's.

    Output norms may be absent on either side: a classifier has the last one only, and a
    backbone keeps fresh ones for its other outputs. What the checkpoint has beyond the
    backbone's last stage is left out. Both are logged.

    Raises:
        CheckpointError: The file cannot be read, or names or shapes don't fit.
    """
    checkpoint = read_checkpoint(path)
    if not state_dict_of(checkpoint):
        raise CheckpointError(f'{path}: holds no weights; its entries: '
                              f'{_shortened(list(checkpoint)) or "none"}. '
                              f'{_other_place(checkpoint)}'.rstrip())
    whole = {without_compile(name): value for name, value in _entries(checkpoint).items()}
    given = {name[len(prefix):]: value for name, value in whole.items() if name.startswith(prefix)}
    expected = backbone.state_dict()
    if not any(isinstance(value, Tensor) for value in given.values()):
        raise CheckpointError(f'{path}: has no weights under the prefix {prefix!r}. '
                              f'{_other_prefix(whole, expected)}'.rstrip())
    mismatch = compare(given, expected)
    dropped = [name for name in mismatch.unexpected if _is_beyond(name, len(backbone.stages))]
    fresh = [name for name in mismatch.missing if is_output_norm(name)]
    wrong = Mismatch([name for name in mismatch.missing if name not in fresh],
                     [name for name in mismatch.unexpected if name not in dropped],
                     mismatch.shapes, mismatch.unusable)
    if any(wrong):
        raise CheckpointError(f'{path}: not the weights of this {type(backbone).__name__}\n  '
                              f'{describe(wrong)}\n{_advice(whole, given, expected, checkpoint)}')
    loaded = {name: value for name, value in given.items() if name in expected}
    backbone.load_state_dict(loaded, strict=False)
    print_log(printable(f'{path}: loaded {len(loaded)} entries; '
                        f'kept fresh: {", ".join(fresh) or "none"}; '
                        f'left out: {", ".join(dropped) or "none"}'), logger='current')


def is_output_norm(name: str) -> bool:
    """Tell if a backbone's entry belongs to the norm of an output, which may be fresh."""
    return re.match(r'norm\d+\.', name) is not None


def _is_beyond(name: str, num_stages: int) -> bool:
    part = re.match(r'(stages|downsamples)\.(\d+)\.', name)
    return is_output_norm(name) or (
        part is not None and int(part[2]) >= num_stages - (part[1] == 'downsamples'))


def _other_prefix(whole: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str:
    """Say under which prefix a backbone's weights lie in a checkpoint; '' if they don't."""
    needed = {name: value for name, value in expected.items() if not is_output_norm(name)}
    weights = {name: value for name, value in whole.items() if isinstance(value, Tensor)}
    prefix = _prefix_that_fits(weights, needed)
    if prefix is None:
        return ''
    return (f'The weights lie under {prefix!r}: set prefix={prefix!r} in init_cfg.' if prefix else
            'The names fit without a prefix: leave prefix out of init_cfg.')


def _advice(whole: Mapping[str, Any], given: Mapping[str, Any], expected: Mapping[str, Tensor],
            checkpoint: dict) -> str:
    if any(re.match(r'(backbone\.)?layers\.\d+\.', name) for name in given):
        return ("The names are the published code's: convert the file first with "
                'tools/model_converters/convert_checkpoint.py.')
    if any(name.startswith('backbone.') for name in given):
        return "The file holds a whole model: set prefix='backbone.' in init_cfg."
    if not given.keys() & expected.keys():
        elsewhere = _other_prefix(whole, expected) or _other_place(checkpoint)
        if elsewhere:
            return elsewhere
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and {'family', 'arch'} <= set(meta):  # of a converted file
        return f"The file holds a {meta['family']} of arch {meta['arch']!r}: check type and arch."
    return 'Check that type and arch name the model that the checkpoint was trained as.'
