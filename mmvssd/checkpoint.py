"""Reading checkpoints, and telling whether one fits a model: all errors about them start here."""
import copy
import logging
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmvssd.compat import ENVIRONMENT_VARIABLE, left_out
from mmvssd.errors import CheckpointError

SHOWN = 5  # names listed of each kind in an error


class Mismatch(NamedTuple):
    """Differences of a state dict from a model's."""

    missing: List[str]
    unexpected: List[str]
    shapes: List[Tuple[str, tuple, tuple]]  # name, given, expected


def read_checkpoint(path: str, *, weights_alone: bool = False) -> dict:
    """Read a checkpoint to the CPU, as PyTorch's default has it: from 2.6 on without running code.

    Args:
        path: A file, or any address that MMEngine's loader knows.
        weights_alone: Read a local file whose weights are all that matters: objects of classes
            that are not safe to load, such as a training program's settings, come back empty.

    Returns:
        The dict that the file holds.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, may not be read, or
            holds objects that only unsafe loading would bring back.
    """
    path = str(path)
    try:
        if weights_alone:
            checkpoint = _load_weights_alone(path)
        else:
            checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    except FileNotFoundError as error:
        raise CheckpointError(f'{path}: no such checkpoint file') from error
    except (IsADirectoryError, PermissionError) as error:
        raise CheckpointError(f'{path}: cannot be read ({error.strerror})') from error
    except Exception as error:  # torch raises half a dozen types for a broken file
        raise CheckpointError(
            f'{path}: cannot be read as a checkpoint; it is truncated, of another kind, or holds '
            f'objects that are not safe to load ({type(error).__name__}: '
            f'{str(error).splitlines()[0] if str(error) else "no details"}){_allowed_less()}'
            ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path}: holds a {type(checkpoint).__name__}, expected a dict')
    return checkpoint


def _allowed_less() -> str:
    if 'checkpoint' not in left_out():
        return ''
    return (f'. {ENVIRONMENT_VARIABLE} leaves out the patch that allows what MMEngine writes into '
            'its checkpoints')


def newest_checkpoint(work_dir: str, since: float = 0) -> Optional[str]:
    """Find the newest checkpoint of a work dir that a run can be resumed from.

    A file that is cut short or damaged is reported, and the one before it taken. Best checkpoints
    are not looked at: they hold no optimizer. By time of writing, since a work dir may hold files
    of an earlier, longer run; a checkpoint that is a folder (of a sharded model) is taken as it is.

    Args:
        work_dir: The run's folder.
        since: Leave out what was written before this, in seconds since the epoch.

    Returns:
        The checkpoint's path, or None if there is none.

    Raises:
        CheckpointError: There are some, and none of them is whole.
    """
    written = {path: path.stat().st_mtime for path in _checkpoints(Path(work_dir))}
    found = sorted((path for path in written if written[path] >= since), key=written.get,
                   reverse=True)
    for path in found:
        try:
            require_resumable(str(path))
        except CheckpointError as error:
            print_log(f'{error}; the checkpoint before it is looked at', logger='current',
                      level=logging.WARNING)
        else:
            return str(path)
    if found:
        raise CheckpointError(f'{work_dir}: none of its {len(found)} checkpoints can be resumed '
                              'from; start anew in another work dir, or without --resume')
    return None


def _checkpoints(work_dir: Path) -> Iterator[Path]:
    pointer = work_dir / 'last_checkpoint'  # MMEngine's; it may name another folder
    text = pointer.read_text().strip() if pointer.is_file() else ''
    folders = {work_dir.resolve(), *([Path(text).resolve().parent] if text else [])}
    for folder in folders:
        for path in folder.glob('*.pth'):
            if re.fullmatch(r'(epoch|iter)_\d+', path.stem):
                yield path


def require_resumable(path: str) -> None:
    """Raise CheckpointError unless a checkpoint is undamaged and holds all that a run goes on from.

    PyTorch reads a damaged file without complaint: the checksums are looked at here.
    """
    if Path(path).is_dir():
        return
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            damaged = str(error)
        if damaged:
            raise CheckpointError(f'{path}: damaged, its checksums do not fit ({damaged})')
    absent = {'state_dict', 'optimizer', 'message_hub', 'meta'} - set(read_checkpoint(path))
    if absent:
        raise CheckpointError(f'{path}: holds no {", no ".join(sorted(absent))}; a run cannot be '
                              'resumed from it')


class _Inert:
    """Stands in for a class that is not loaded: making one gives an empty mapping.

    PyTorch's safe reader fills mappings of its own kinds only, so it has to be one of them.
    """

    def __new__(cls, *args):
        return OrderedDict()


def _load_weights_alone(path: str) -> dict:
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):  # before 2.5
        return torch.load(path, map_location='cpu', weights_only=True)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([_stand_in(name) for name in names]):
        return torch.load(path, map_location='cpu', weights_only=True)


def _stand_in(path: str) -> type:
    module, _, name = path.rpartition('.')
    # PyTorch looks a pickle's classes up by these attributes
    return type(name, (_Inert, ), dict(__module__=module, __qualname__=name))


def state_dict_of(checkpoint: dict, prefix: str = '') -> Dict[str, Tensor]:
    """Take the weights out of a checkpoint, and of these the ones under ``prefix``.

    A plain state dict stands for itself; ``module.`` of a distributed wrapper is taken off.
    """
    state = checkpoint.get('state_dict', checkpoint)
    state = {re.sub(r'^module\.', '', name): value for name, value in state.items()
             if isinstance(value, Tensor)}
    return {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}


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


def compare(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mismatch:
    """List the names and shapes in which ``given`` differs from ``expected``."""
    return Mismatch(
        missing=[name for name in expected if name not in given],
        unexpected=[name for name in given if name not in expected],
        shapes=[(name, tuple(value.shape), tuple(expected[name].shape))
                for name, value in given.items()
                if name in expected and value.shape != expected[name].shape])


def describe(mismatch: Mismatch) -> str:
    """Say in a few lines what differs."""
    shapes = [f'{name}: {given}, expected {expected}' for name, given, expected in mismatch.shapes]
    parts = [('missing', mismatch.missing), ('unknown', mismatch.unexpected),
             ('of another shape', shapes)]
    return '\n  '.join(f'{len(names)} {kind}: {_shortened(names)}'
                       for kind, names in parts if names)


def _shortened(names: List[str]) -> str:
    return '; '.join(names[:SHOWN]) + (' ...' if len(names) > SHOWN else '')


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
    mismatch = compare(given, weights_of(model))
    if not any(mismatch) or isinstance(model, FSDP):
        return mismatch
    state = copy.copy(checkpoint.get('state_dict', checkpoint))  # with its modules' versions
    if state.keys() != given.keys():
        state = given
    try:
        missing, unexpected = unwrapped(model).load_state_dict(state, strict=False)
    except (RuntimeError, KeyError):  # shapes; and a module may miss what it would rename
        return mismatch
    return Mismatch(list(missing), list(unexpected), [])


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
            'Check that the config is the one that the checkpoint was trained with.')


def load_pretrained(backbone: nn.Module, path: str, prefix: str = '') -> None:
    """Load a pretrained backbone; stop if the checkpoint is another's.

    Output norms may be absent on either side: a classifier has the last one only, and a
    backbone keeps fresh ones for its other outputs. What the checkpoint has beyond the
    backbone's last stage is left out. Both are logged.

    Raises:
        CheckpointError: The file cannot be read, or names or shapes don't fit.
    """
    checkpoint = read_checkpoint(path)
    given = state_dict_of(checkpoint, prefix)
    if not given:
        raise CheckpointError(f'{path}: has no weights under the prefix {prefix!r}')
    expected = backbone.state_dict()
    mismatch = compare(given, expected)
    dropped = [name for name in mismatch.unexpected if _is_beyond(name, len(backbone.stages))]
    fresh = [name for name in mismatch.missing if is_output_norm(name)]
    wrong = Mismatch([name for name in mismatch.missing if name not in fresh],
                     [name for name in mismatch.unexpected if name not in dropped],
                     mismatch.shapes)
    if any(wrong):
        raise CheckpointError(f'{path}: not the weights of this {type(backbone).__name__}\n  '
                              f'{describe(wrong)}\n{_advice(given, checkpoint)}')
    backbone.load_state_dict({name: value for name, value in given.items() if name in expected},
                             strict=False)
    print_log(f'{path}: loaded {len(given) - len(dropped)} entries; '
              f'kept fresh: {", ".join(fresh) or "none"}; '
              f'left out: {", ".join(dropped) or "none"}', logger='current')


def is_output_norm(name: str) -> bool:
    """Tell if a backbone's entry belongs to the norm of an output, which may be fresh."""
    return re.match(r'norm\d+\.', name) is not None


def _is_beyond(name: str, num_stages: int) -> bool:
    part = re.match(r'(stages|downsamples)\.(\d+)\.', name)
    return is_output_norm(name) or (
        part is not None and int(part[2]) >= num_stages - (part[1] == 'downsamples'))


def _advice(given: Mapping[str, Tensor], checkpoint: dict) -> str:
    if any(re.match(r'(backbone\.)?layers\.\d+\.', name) for name in given):
        return ("The names are the published code's: convert the file first with "
                'tools/model_converters/convert_checkpoint.py.')
    if any(name.startswith('backbone.') for name in given):
        return "The file holds a whole model: set prefix='backbone.' in init_cfg."
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and {'family', 'arch'} <= set(meta):  # of a converted file
        return f"The file holds a {meta['family']} of arch {meta['arch']!r}: check type and arch."
    return 'Check that type and arch name the model that the checkpoint was trained as.'
