"""Learning rates that fall from layer to layer towards the image."""
import functools
import math
from collections import defaultdict
from typing import Dict, List, Optional, Tuple

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmvssd.models.arguments import check_integer, check_keys, check_name, check_number
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.registry import OPTIM_WRAPPER_CONSTRUCTORS

KINDS = ('layer_wise', 'stage_wise')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimizerConstructor(DefaultOptimWrapperConstructor):
    """Stand in for the constructors of this name of MMDetection and MMSegmentation.

    They know the layers of a few backbones, and stop at others. This one asks the backbone, and
    takes their settings as ``paramwise_cfg``:

    - ``decay_rate`` (float): Factor of the learning rate from each layer to the one before it.
    - ``decay_type`` (str): ``'layer_wise'``, the default, or ``'stage_wise'``, which counts stages.
    - ``num_layers`` (int): Layers of the backbone beside its stem, over which its blocks are spread
      evenly. Default: one for each block, or for each stage.

    The stem is layer 0. Output norms, and what lies behind the backbone, have the whole learning
    rate. Vectors and biases have no weight decay.
    """

    def add_params(self, params: List[dict], module: nn.Module) -> None:
        """Add a group of parameters for each layer, and one for its vectors and biases.

        Args:
            params: The groups; they are added to.
            module: A whole model, with one or more backbones of this package.

        Raises:
            ValueError: A setting does not fit, or the model has no such backbone.
        """
        backbones = {f'{name}.' if name else '': part for name, part in module.named_modules()
                     if isinstance(part, BaseBackbone)}
        if not backbones:
            raise ValueError(f'a {type(module).__name__} without a backbone of mmvssd has no '
                             "layers that this constructor knows; take the host's own")
        rate, count_layers = self._settings()
        groups: Dict[Tuple[int, bool], dict] = defaultdict(lambda: dict(params=[], param_names=[]))
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                distance = max(count_layers(name, prefix, backbone)
                               for prefix, backbone in backbones.items())
                group = groups[distance, parameter.ndim > 1 and not name.endswith('.bias')]
                group['params'].append(parameter)
                group['param_names'].append(name)
        for (distance, decays), group in groups.items():
            without = {} if decays else dict(weight_decay=0.)
            params.append(dict(group, lr=rate**distance * self.base_lr, lr_scale=rate**distance,
                               **without))
        deepest = max((distance for distance, _ in groups), default=0)
        print_log(f'Learning rates fall by {rate} a layer: {self.base_lr:g} behind the backbone, '
                  f'{rate**deepest * self.base_lr:g} at the {deepest}th layer before it',
                  logger='current')

    def _settings(self):
        """Return the factor, and what tells how many layers before the last a parameter lies."""
        settings = self.paramwise_cfg
        check_keys('paramwise_cfg', settings, ('decay_rate', 'decay_type', 'num_layers'),
                   needed=('decay_rate', ))
        rate = check_number('decay_rate', settings['decay_rate'], 'a number above 0, up to 1',
                            least=math.ulp(0.), below=math.nextafter(1., 2.))
        kind = check_name('decay_type', settings.get('decay_type', KINDS[0]), KINDS)
        number = settings.get('num_layers')
        if number is not None:
            number = check_integer('num_layers', number, least=1)
        count = _blocks_behind if kind == KINDS[0] else _stages_behind
        return rate, functools.partial(count, number=number)


def _blocks_behind(name: str, prefix: str, backbone: BaseBackbone, number: Optional[int]) -> int:
    """Return how many layers behind a parameter's the model has, counted in blocks."""
    layer, layers = backbone.get_layer_depth(name, prefix)
    blocks = layers - 2  # beside the stem, and what lies behind
    if layer > blocks:
        return 0
    number = number or blocks
    return number + 1 - math.ceil(layer * number / blocks)


def _stages_behind(name: str, prefix: str, backbone: BaseBackbone, number: Optional[int]) -> int:
    """Return how many layers behind a parameter's the model has, counted in stages."""
    stages = len(backbone.stages)
    number = number or stages
    if number < stages:
        raise ValueError(f'num_layers: got {number}, expected at least {stages}, the number of '
                         'stages')
    part, *indices = name[len(prefix):].split('.') if name.startswith(prefix) else ['']
    if part == 'stem':
        return number + 1
    return number - int(indices[0]) if part in ('stages', 'downsamples') else 0
