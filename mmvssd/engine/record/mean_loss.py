"""Logged losses of all processes."""
from numbers import Number
from typing import Dict, List, Optional

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from torch import Tensor

from mmvssd.registry import HOOKS


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Average what a training step reports over the processes, before it is recorded.

    MMEngine logs what the first process saw: with many processes a small and noisy part of the
    batch. Here a step costs one ``all_reduce`` of two numbers for each loss; gradients are left
    alone. A loss that some processes do not report is averaged over those that do.
    """

    # before RuntimeInfoHook, which records the losses
    priority = 'HIGHEST'

    def __init__(self):
        self._names: List[str] = []  # as all processes have agreed on

    def after_train_iter(self, runner, batch_idx: int, data_batch=None,
                         outputs: Optional[dict] = None) -> None:
        """Replace the scalars of ``outputs`` by their means."""
        if get_world_size() == 1 or not isinstance(outputs, dict):
            return
        own = {name: value for name, value in outputs.items() if _is_scalar(value)}
        means = self._means(own)
        if means is None:  # in every process, for the one that has others has told all
            reported = all_gather_object(list(own))
            self._names = sorted(set().union(*reported))
            means = self._means(own)
        outputs.update(means or {})

    def _means(self, own: Dict[str, Tensor]) -> Optional[Dict[str, Tensor]]:
        """Return means of the process's scalars; None if some process has others than agreed."""
        device = next((value.device for value in own.values() if isinstance(value, Tensor)), 'cpu')
        zero = torch.zeros((), dtype=torch.float64, device=device)
        values = [torch.as_tensor(own[name]).detach().to(zero).reshape(()) if name in own else zero
                  for name in self._names]
        reported = [zero + (name in own) for name in self._names]
        unknown = zero + bool(own.keys() - self._names)
        sums = torch.stack([*values, *reported, unknown])
        all_reduce(sums)
        values, reported, unknown = sums.split([len(self._names), len(self._names), 1])
        if unknown:
            return None
        means = dict(zip(self._names, values / reported))
        return {name: _like(value, means[name]) for name, value in own.items()}


def _is_scalar(value) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Number)


def _like(value, mean: Tensor):
    """Return the mean as a tensor of that shape, dtype and device, or as a number."""
    if isinstance(value, Tensor):
        return mean.to(value).reshape(value.shape)
    return mean.item()
