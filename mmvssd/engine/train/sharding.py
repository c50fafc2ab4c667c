"""Training of a model whose parameters are spread over the processes (FSDP)."""
from typing import Optional, Union

import torch
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper, OptimWrapper, build_optim_wrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from mmvssd.host_internals import FSDPStrategy
from mmvssd.models.layers import Block
from mmvssd.registry import FUNCTIONS, STRATEGIES


@FUNCTIONS.register_module()
def each_block(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Policy of what is sharded as a unit: each block of a backbone; the rest is one more.

    Arguments are those of FSDP's ``auto_wrap_policy``.
    """
    return recurse or isinstance(module, Block)


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """MMEngine's FSDPStrategy, computing what training without it computes, on today's PyTorch.

    MMEngine's own sees the flat shards of weights as 1-D parameters, and takes their weight decay
    away if 1-D ones have none. It clips each process's shards by their own norm. It passes the
    optimizer's state in an order of arguments that PyTorch 2.1 changed. And it takes a GPU for
    granted. A checkpoint is one ordinary file, written by the first process, for any other way of
    training and testing.

    Args:
        model_wrapper: Settings of MMEngine's MMFullyShardedDataParallel; ``auto_wrap_policy`` is
            :func:`each_block` unless set.
        settings: Others of MMEngine's FSDPStrategy.
    """

    def __init__(self, *, model_wrapper: Optional[dict] = None, **settings):
        wrapper = dict(dict(type='MMFullyShardedDataParallel',
                            auto_wrap_policy='mmvssd.each_block'), **(model_wrapper or {}))
        on_cpu = get_device() == 'cpu'
        if on_cpu:
            wrapper.setdefault('device_id', torch.device('cpu'))
        # PyTorch crashes where it moves weights from the CPU to the CPU
        whole = dict(rank0_only=True, offload_to_cpu=not on_cpu)
        settings.setdefault('state_dict_cfg', dict(
            state_dict_type='FULL_STATE_DICT',
            state_dict_config=dict(type='FullStateDictConfig', **whole),
            optim_state_dict_config=dict(type='FullOptimStateDictConfig', **whole)))
        super().__init__(model_wrapper=wrapper, **settings)

    def prepare(self, model: Union[nn.Module, dict], *,
                optim_wrapper: Union[BaseOptimWrapper, dict, None] = None, **settings):
        """Build all parts; the optimizer from the parameters as they are before they are sharded.

        FSDP keeps the parameters themselves and changes their data.
        """
        if not self._prepared:
            # FSDP keeps an optimizer's state as if weights were contiguous
            model = self.build_model(model).to(memory_format=torch.contiguous_format)
            if isinstance(optim_wrapper, dict):
                optim_wrapper = build_optim_wrapper(model, optim_wrapper)
        return super().prepare(model, optim_wrapper=optim_wrapper, **settings)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper, model: nn.Module) -> OptimWrapper:
        """Have an optimizer wrapper clip gradients by the norm over all processes."""
        if optim_wrapper.clip_grad_kwargs and optim_wrapper.grad_name == 'grad_norm':
            optim_wrapper.clip_func = lambda _parameters, **limits: model.clip_grad_norm_(**limits)
        return optim_wrapper

    def optim_state_dict(self) -> dict:
        """Return the state of the whole optimizer, in the first process."""
        state = FSDP.optim_state_dict(self.model, self.optim_wrapper.optimizer)
        own = self.optim_wrapper.state_dict()
        return {**{name: own[name] for name in own.keys() - {'state', 'param_groups'}}, **state}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Take each process's part of the state of a whole optimizer."""
        state = FSDP.optim_state_dict_to_load(
            self.model, self.optim_wrapper.optimizer,
            {name: state_dict[name] for name in ('state', 'param_groups')})
        self.optim_wrapper.load_state_dict({**state_dict, **state})
