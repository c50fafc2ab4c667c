"""Parameters that get no gradient, which several processes cannot train, said by name."""
from functools import partial
from typing import Any, Dict, List, Optional, Set

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mmvssd.checkpoint import unwrapped
from mmvssd.errors import ConfigError
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.phrases import numbered, some
from mmvssd.registry import HOOKS

WAY_OUT = ('Or set find_unused_parameters=True at the top of the recipe, which looks for such '
           'parameters in every step')


@HOOKS.register_module()
class UnusedParametersHook(Hook):
    """Stop at the first step of several processes if parameters have got no gradient in it.

    DistributedDataParallel would stop at the second, and name only numbers. With
    ``find_unused_parameters=True`` or a static graph it takes such parameters, and nothing is
    looked at; nor in one process. Each process looks at its own: one whose gradients do not come
    keeps the others waiting.

    Raises:
        ConfigError: Some have none; it names them, and what to set.
    """

    # before FiniteCheckHook, whose processes wait for one another in a step
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._names: Dict[int, str] = {}
        self._used: Set[str] = set()
        self._handles: List[Any] = []
        self._has_looked = False

    def before_train(self, runner) -> None:
        """Watch the gradients of a model that cannot do without one."""
        model, wrapper = runner.model, runner.optim_wrapper
        if (not isinstance(model, DistributedDataParallel) or model.find_unused_parameters
                or model.static_graph or not isinstance(wrapper, OptimWrapper)
                or isinstance(wrapper, OptimWrapperDict)):
            return
        # of the model around which DDP lies: names as in a checkpoint
        trained = {name: parameter for name, parameter in model.module.named_parameters()
                   if parameter.requires_grad and name not in model.parameters_to_ignore}
        self._names = {id(parameter): name for name, parameter in trained.items()}
        self._has_looked = False
        self._handles = [parameter.register_post_accumulate_grad_hook(self._note)
                         for parameter in trained.values()]
        self._handles.append(wrapper.optimizer.register_step_pre_hook(
            partial(self._before_step, runner)))

    def before_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Forget earlier batches of a step: only the last one's gradients are exchanged."""
        self._used.clear()

    def after_train_iter(self, runner, batch_idx: int, data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        """Look at a step that the loss scaler left out; after the first step watch no more."""
        if self._handles and runner.optim_wrapper.should_update():
            self._look(runner)
        if self._has_looked:
            self._leave()

    def after_train(self, runner) -> None:
        """Leave the model as it was."""
        self._leave()

    def _note(self, parameter: Tensor) -> None:
        self._used.add(self._names[id(parameter)])

    def _before_step(self, runner, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        self._look(runner)

    def _look(self, runner) -> None:
        """Raise unless all have had a gradient; once, for the second step begins as it ends."""
        # in a step the optimizer goes through its hooks: none may be removed then
        if self._has_looked:
            return
        self._has_looked = True
        unused = [name for name in self._names.values() if name not in self._used]
        if unused:
            raise ConfigError(explain(unwrapped(runner.model), unused))

    def _leave(self) -> None:
        while self._handles:
            self._handles.pop().remove()


def explain(model: nn.Module, unused: List[str]) -> str:
    """Say which parameters get no gradient, why as far as that is known, and what to set.

    Args:
        model: The model.
        unused: Names of the parameters.
    """
    modules = list(dict.fromkeys(name.rpartition('.')[0] or name for name in unused))
    lines = [numbered('{} parameter[s] [gets|get] no gradient', len(unused))
             + ', and several processes cannot train such: '
             + some([f'model.{name}' for name in modules]) + '.']
    for name, backbone in model.named_modules():
        if isinstance(backbone, BaseBackbone):
            prefix = f'{name}.' if name else ''
            unread = [i for i in backbone.out_indices if f'{prefix}norm{i}' in modules]
            left = tuple(i for i in backbone.out_indices if i not in unread)
            modules = [name for name in modules if name not in {f'{prefix}norm{i}' for i in unread}]
            if unread and left:
                lines.append(
                    f'No head reads output {" and ".join(map(str, unread))} of model.{name}. Set '
                    f'model.{name}.out_indices={left}, and let what reads it count from the first '
                    'that is left, such as a neck (in_channels, start_level) or a head (in_index).')
    if modules:
        lines.append(f'The loss does not depend on {some([f"model.{name}" for name in modules])}: '
                     'leave out or freeze what is not used.')
    return '\n  '.join([*lines, f'{WAY_OUT}.'])
