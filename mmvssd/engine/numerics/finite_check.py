"""Keeps losses and gradients that are not finite away from the weights."""
import logging
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from mmengine.dist import all_gather_object, all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.cuda.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mmvssd.checkpoint import unwrapped
from mmvssd.engine.numerics.fault_trace import FaultTrace, Finding, losses_of
from mmvssd.engine.randomness import RandomState
from mmvssd.errors import ConfigError, NumericalFault
from mmvssd.phrases import counted, numbered
from mmvssd.registry import HOOKS

ACTIONS = ('stop', 'skip')
#: Steps in a row that a loss scaler may leave out; it halves its scale at each, and from 65,536
#: comes to a sixteenth, with which no gradient of a sound model overflows.
SCALER_PATIENCE = 20
#: Where the message hub, and with it a checkpoint, keeps the skipped steps.
SKIPPED, IN_A_ROW = 'finite_check/skipped', 'finite_check/skipped_in_a_row'


@dataclass
class Batch:
    """What is kept of a batch until the optimizer has taken it in."""

    iteration: int
    data: object
    random: Any = None  # a RandomState, before the data preprocessor, which may draw mixtures
    fields: Sequence[dict] = ()  # of the data samples, which the data preprocessor may change
    losses: List[Tensor] = field(default_factory=list)

    @property
    def samples(self) -> list:
        """Its data samples."""
        samples = self.data.get('data_samples') if isinstance(self.data, dict) else None
        return [sample for sample in samples or () if isinstance(sample, BaseDataElement)]

    def begin(self) -> None:
        """Remember what the step is about to change, for :meth:`rewind`."""
        self.random = RandomState()
        self.fields = [dict(sample.items()) for sample in self.samples]

    def rewind(self) -> None:
        """Give the data samples back the fields that they came with."""
        for sample, fields in zip(self.samples, self.fields):
            for name in set(sample.keys()) - set(fields):
                delattr(sample, name)
            sample.set_data(fields)

    def names(self) -> List[str]:
        """Return paths of its images, as far as the data samples have them."""
        return [str(sample.get('img_path', f'image {index}'))
                for index, sample in enumerate(self.samples)]


class BackwardAlone:
    """Stands in for an optimizer wrapper in a step that shall change nothing.

    Args:
        wrapper: The optimizer wrapper of the training.
    """

    def __init__(self, wrapper: OptimWrapper):
        self.optim_context = wrapper.optim_context
        self._scaler = _scaler_of(wrapper)

    def update_params(self, loss: Tensor) -> None:
        """Compute gradients, scaled as in the training."""
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        if loss.requires_grad:
            loss.backward()


@HOOKS.register_module()
class FiniteCheckHook(Hook):
    """Notice a loss or gradients that are not finite before the optimizer takes the step.

    It then runs the step's batches again to find the first module whose output is not finite. If
    all outputs are finite, it looks at gradients. It says which module it is, on which images, and
    what to do. All processes do so together, since they share their gradients.

    A gradient that overflows in float16 is a loss scaler's business: it leaves the step out and
    lowers its scale. A fault there is a loss that is not finite, or more than
    :data:`SCALER_PATIENCE` steps in a row that the scaler leaves out.

    The check is a sum over the gradients and one transfer from the device at each step.

    Args:
        action: 'stop' raises :class:`NumericalFault`. 'skip' leaves weights, optimizer state and
            buffers as they were before the step, and goes on; the iteration counts as done.
        max_skips: Steps in a row that 'skip' may leave out; at one more it stops. A single bad
            image comes back each epoch and is skipped each time, a training that has diverged
            fails at every step.

    Raises:
        ConfigError: An argument does not fit.
    """

    # before hooks that average weights or write checkpoints
    priority = 'VERY_HIGH'

    def __init__(self, action: str = 'stop', max_skips: int = 10):
        if action not in ACTIONS:
            raise ConfigError(f'FiniteCheckHook: action is {action!r}, expected '
                              f'{" or ".join(map(repr, ACTIONS))}')
        if not isinstance(max_skips, int) or max_skips < 1:
            raise ConfigError(f'FiniteCheckHook: max_skips is {max_skips!r}, expected a whole '
                              'number of steps, 1 or more')
        self.action, self.max_skips = action, max_skips
        self._batches: List[Batch] = []  # since the last step of the optimizer
        self._current: Optional[Batch] = None  # None outside a training step
        self._looked = False
        self._left_out_by_scaler = 0

    def before_train(self, runner) -> None:
        """Watch the model's losses and the optimizer's steps.

        With several optimizers, or an optimizer wrapper that is not MMEngine's, there is no one
        step to look at: a warning says so.
        """
        wrapper = runner.optim_wrapper
        self._is_on = (isinstance(wrapper, OptimWrapper)
                       and not isinstance(wrapper, OptimWrapperDict))
        if not self._is_on:
            print_log(f'FiniteCheckHook: got a {type(wrapper).__name__}, expected an OptimWrapper '
                      'of one optimizer. Losses and gradients are NOT checked', logger='current',
                      level=logging.WARNING)
            return
        model = unwrapped(runner.model)
        self._preprocessor = getattr(model, 'data_preprocessor', None)
        self._handles = [
            model.register_forward_hook(_uncompiled(self._keep_losses)),
            wrapper.optimizer.register_step_pre_hook(
                partial(_uncompiled(self._before_step), runner))]
        if self._preprocessor is not None:
            self._handles.append(self._preprocessor.register_forward_pre_hook(
                _uncompiled(self._before_preprocessing)))

    def after_train(self, runner) -> None:
        """Leave the model as it was, and say how many steps were skipped."""
        if not self._is_on:
            return
        for handle in self._handles:
            handle.remove()
        if self.action == 'skip':
            skipped = _count(runner, SKIPPED)
            steps = f'{{}} of {counted(runner.max_iters, "step")} [was|were] skipped'
            print_log(f'FiniteCheckHook: {numbered(steps, skipped)} for numbers that are not '
                      'finite', logger='current',
                      level=logging.WARNING if skipped else logging.INFO)

    def before_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Keep the batch, and what it may change, until the optimizer has taken its step."""
        if not self._is_on:
            return
        if not self._batches and self.action == 'skip':
            self._buffers = _copies(unwrapped(runner.model).buffers())
        self._current = Batch(runner.iter, data_batch)
        self._batches.append(self._current)
        if self._preprocessor is None:
            self._current.begin()

    def _before_preprocessing(self, preprocessor: nn.Module, arguments: tuple) -> None:
        if self._current is not None and self._current.random is None:
            self._current.begin()

    def _keep_losses(self, model: nn.Module, arguments: tuple, outputs) -> None:
        if self._current is not None and isinstance(outputs, Mapping):
            self._current.losses += [loss.detach().sum() for loss in losses_of(outputs)]

    def _before_step(self, runner, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        """Look at a step that the optimizer is about to take."""
        self._looked = True
        loss, gradients = self._not_finite(optimizer)
        if gradients and not loss and _scaler_of(runner.optim_wrapper) is not None:
            self._count_scaler(runner)  # a fused optimizer leaves the step out itself
        elif loss or gradients:
            self._meet_fault(runner, loss, gradients)
        else:
            self._left_out_by_scaler = 0
            if _count(runner, IN_A_ROW):
                runner.message_hub.update_info(IN_A_ROW, 0)

    def after_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Forget the batches after a step, and look at one that the loss scaler left out."""
        if not self._is_on:
            return
        self._current = None
        if not runner.optim_wrapper.should_update():
            return
        if not self._looked:
            loss, _ = self._not_finite()
            if loss:
                self._meet_fault(runner, loss, gradients=True)
            else:
                self._count_scaler(runner)
        self._looked = False
        self._batches.clear()

    def _count_scaler(self, runner) -> None:
        self._left_out_by_scaler += 1
        if self._left_out_by_scaler > SCALER_PATIENCE:
            self._meet_fault(runner, loss=False, gradients=True)

    def _not_finite(self, optimizer: Optional[Optimizer] = None) -> Tuple[bool, bool]:
        """Return whether losses, and whether gradients, are not finite in any of the processes."""
        losses = [loss for batch in self._batches for loss in batch.losses]
        gradients = _gradients(optimizer) if optimizer is not None else []
        norms = torch._foreach_norm(gradients) if gradients else []
        loss, gradient = _across_processes(losses, norms)
        if gradient and not loss:  # a sum of squares may overflow where its numbers do not
            largest = [t.abs().max() for t in gradients if t.numel()]
            loss, gradient = _across_processes(losses, largest)
        return loss, gradient

    def _meet_fault(self, runner, loss: bool, gradients: bool) -> None:
        """Say what is wrong, then stop or leave the step out.

        Raises:
            NumericalFault: in all processes, once the first has said what is wrong.
        """
        message = self._report(runner, loss, gradients)
        if self.action == 'stop':
            self._stop(message)
        in_a_row = _count(runner, IN_A_ROW) + 1
        if in_a_row > self.max_skips:
            self._stop(f'{message}\nFiniteCheckHook: {counted(self.max_skips, "step")} in a row '
                       + numbered('[was|were]', self.max_skips)
                       + ' skipped before this one, as many as max_skips allows')
        runner.message_hub.update_info(IN_A_ROW, in_a_row)
        runner.message_hub.update_info(SKIPPED, _count(runner, SKIPPED) + 1)
        if is_main_process():
            print_log(f'{message}\nThe step is skipped; {_count(runner, SKIPPED)} so far',
                      logger='current', level=logging.WARNING)

    def _stop(self, message: str) -> None:
        if is_main_process():
            print_log(message, logger='current', level=logging.WARNING)
        barrier()  # a launcher ends all processes with the first
        what, where, *_ = message.splitlines()
        raise NumericalFault(f'{what}\n{where}\n  The log above names the images, and what to do')

    def _report(self, runner, loss: bool, gradients: bool) -> str:
        """Describe what is not finite, where it arose, on which images, and what to do."""
        own = [(batch.iteration, self._run_again(runner, batch), batch.names())
               for batch in self._batches]
        what = ' and '.join(name for name, wrong in (('loss', loss), ('gradients', gradients))
                            if wrong)
        lr = max(runner.optim_wrapper.get_lr()['lr'])
        lines = [f'Iteration {runner.iter + 1} of {runner.max_iters} (epoch {runner.epoch + 1}, '
                 f'learning rate {lr:.4g}): {what} not finite; the optimizer did not take this '
                 'step.']
        processes = all_gather_object(own)
        found = False
        for rank, batches in enumerate(processes):
            for iteration, finding, names in batches:
                if finding is not None:
                    found = True
                    where = f'process {rank}, ' * (len(processes) > 1)
                    where += f'iteration {iteration + 1}, ' * (len(batches) > 1)
                    lines += _lines_of(where, finding, names)
        if not found:
            lines += ['  Run again, the step gave finite numbers in every module and gradient: '
                      'an operation that is not deterministic, a fault of the hardware, or a sum '
                      'over processes that overflows']
            lines += [f'  Batch: {", ".join(names)}' for batches in processes
                      for _, _, names in batches]
        return '\n'.join([*lines, f'  What to do: {_advice(runner.optim_wrapper, self.action)}'])

    def _run_again(self, runner, batch: Batch) -> Optional[Finding]:
        """Compute a batch once more, watching each module; nothing is left changed.

        Every process runs all its batches to their ends, for layers and losses may talk to those
        of the others.
        """
        model = unwrapped(runner.model)
        buffers = self._buffers if self.action == 'skip' else _copies(model.buffers())
        _put_back(model.buffers(), buffers)
        model.zero_grad(set_to_none=True)
        batch.rewind()
        try:
            with FaultTrace(model, len(batch.samples)) as trace, batch.random.repeated(), _eager():
                _computing(runner.model).train_step(
                    batch.data, optim_wrapper=BackwardAlone(runner.optim_wrapper))
        finally:
            # an optimizer passes over parameters without gradients, and over their state
            model.zero_grad(set_to_none=True)
            _put_back(model.buffers(), buffers)
        return trace.finding


def _computing(model: nn.Module) -> nn.Module:
    """Return what runs a step without syncing gradients; sharded weights keep their wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _lines_of(where: str, finding: Finding, names: Sequence[str]) -> List[str]:
    lines = [f'  First {where}{finding.text}']
    if finding.images and names:
        those = [names[index] for index in finding.images]
        if len(those) == len(names) > 1:
            those = ['all of the batch']
        lines.append(f'  Images with such numbers: {", ".join(those)}')
    lines.append(f'  Batch: {", ".join(names) or "its data samples have no img_path"}')
    return lines


def _advice(wrapper: OptimWrapper, action: str) -> str:
    ways = ['look at the images named', 'lower the learning rate or lengthen its warm-up']
    if not wrapper.clip_grad_kwargs:
        ways.append('clip gradients (optim_wrapper.clip_grad.max_norm=5.0)')
    if hasattr(wrapper, 'loss_scaler'):
        ways.append('train without --amp')
    if action == 'stop':
        ways.append('go on without such steps (default_hooks.finite_check.action=skip)')
    return '; '.join(ways)


def _scaler_of(wrapper: OptimWrapper) -> Optional[GradScaler]:
    """Return the loss scaler of mixed precision, if it scales."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _across_processes(*groups: Sequence[Tensor]) -> Tuple[bool, ...]:
    """Return for each group of scalars whether one is not finite, in any of the processes."""
    device = next((group[0].device for group in groups if group), 'cpu')
    finite = torch.ones(len(groups), device=device)
    for index, group in enumerate(groups):
        if group:
            finite[index] = torch.stack([t.to(device) for t in group]).isfinite().all()
    all_reduce(finite, 'min')
    return tuple(not number for number in finite.tolist())


def _gradients(optimizer: Optimizer) -> List[Tensor]:
    return [parameter.grad for group in optimizer.param_groups for parameter in group['params']
            if parameter.grad is not None]


def _count(runner, name: str) -> int:
    hub = runner.message_hub
    return hub.get_info(name) if name in hub.runtime_info else 0


def _copies(tensors: Iterator[Tensor]) -> List[Tensor]:
    return [t.detach().clone() for t in tensors]


def _put_back(tensors: Iterator[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for t, value in zip(tensors, values):
            t.copy_(value)


def _uncompiled(function: Callable) -> Callable:
    """Keep torch.compile, where it has been used, out of a hook of the step that it compiles."""
    return torch.compiler.disable(function) if 'torch._dynamo' in sys.modules else function


def _eager():
    """Run a compiled model as it was written, for compiled code calls no hooks."""
    set_stance = getattr(torch.compiler, 'set_stance', None)  # from PyTorch 2.6 on
    return nullcontext() if set_stance is None else set_stance('force_eager')
