"""Tell whether a checkpoint fits a whole model, and if not, where its weights lie."""
import copy
from typing import Dict, List, Mapping, Optional

import torch
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmvssd.checkpoint.comparison import Mismatch, compare, describe
from mmvssd.checkpoint.contents import entries_of, named_as, state_dict_of
from mmvssd.checkpoint.input_channels import differing_channels
from mmvssd.compat import in_effect
from mmvssd.errors import CheckpointError


def unwrapped(model: nn.Module) -> nn.Module:
    """Take off what distributed training and test-time augmentation lay around a model."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def weights_of(model: nn.Module) -> Dict[str, torch.Tensor]:
    """Return a model's weights by name; of a sharded one, in all processes at once."""
    from torch.distributed.fsdp import FullStateDictConfig, StateDictType
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    if not isinstance(model, FSDP):
        return unwrapped(model).state_dict()
    # PyTorch crashes if it moves weights from the CPU to the CPU
    whole = FullStateDictConfig(offload_to_cpu=get_device() != 'cpu', rank0_only=False)
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, whole):
        return model.state_dict()


def mismatch_with(checkpoint: dict, model: nn.Module) -> Mismatch:
    """List what of a checkpoint does not fit a model, once its modules have adapted it.

    Some modules of the hosts rename entries of older versions, or resize position embeddings, while
    they load. So if names or shapes differ, loading is tried; a model that cannot take the
    weights may be left with some of them.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        model: A whole model, wrapped or not.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    given, entries = state_dict_of(checkpoint), entries_of(checkpoint)
    expected = weights_of(model)
    if 'compiled_names' in in_effect() and not isinstance(model, FSDP):
        given, entries = named_as(given, expected), named_as(entries, expected)
    mismatch = compare(entries, expected)
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
    """Say where in a checkpoint the model's weights are, if they are not in their place, or ''."""
    given, expected = state_dict_of(checkpoint), weights_of(model)
    if given.keys() & expected.keys():
        return ''
    prefix = prefix_that_fits(given, expected)
    if prefix and '_orig_mod.' not in prefix:  # that one has an advice of its own
        return (f'The names fit without {prefix!r} before them: save these weights without it, as '
                'state_dict.')
    part = prefix_that_fits(expected, given)
    if part:
        return (f'The names fit with {part!r} before them: the file holds only that part of the '
                'model, which a training can begin from, by init_cfg.')
    return other_place(checkpoint)


def other_place(checkpoint: dict) -> str:
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


def prefix_that_fits(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Optional[str]:
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
        return ('Only numbers of outputs differ: num_classes of the recipe is not that '
                'of the checkpoint.')
    if differing_channels(mismatch):
        return advice_on_channels(mismatch)
    if mismatch.unusable and not any(mismatch[:3]):
        return ('The values are of no use: take an earlier checkpoint, or find out how the file '
                'was written.')
    return 'Check that the recipe is the one that the checkpoint was trained with.'


def advice_on_channels(mismatch: Mismatch) -> str:
    """Say that a file's images have another number of channels, if only that differs; or ''."""
    channels = differing_channels(mismatch)
    if not channels:
        return ''
    return (f"in_channels is {channels[1]}, the file's is {channels[0]}: a training "
            "can begin from it by the backbone's init_cfg with adapt_stem.")
