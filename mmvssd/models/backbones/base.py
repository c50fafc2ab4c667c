"""The base class of the hierarchical backbones."""
import os
from numbers import Integral
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Type, Union

import numpy as np
import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmvssd.checkpoint import ADAPTATIONS, load_pretrained
from mmvssd.models.arguments import (
    check_flag,
    check_integer,
    check_keys,
    check_name,
    with_other_names,
)
from mmvssd.models.backbones.arch import Arch, check_drop_path_rate, resolve_arch
from mmvssd.models.layers import DOWNSAMPLES, STEMS, Padding
from mmvssd.models.valid_sizes import follow_hosts, valid_sizes

_ANY_SIZE = 'images may be of any size'
_NO_CLASSIFIER = ('a backbone has no classifier: take a model of mmvssd.timm, or the '
                  'ImageClassifier of MMPreTrain')
_WEIGHTS = ("weights are loaded with init_cfg=dict(type='Pretrained', checkpoint=FILE, "
            "prefix='backbone.') and init_weights()")
_OF_ARCH = 'arch=dict(...) has it, with the other sizes of the model'
#: What timm, the published codes and other backbones call arguments, and what to give here.
OTHER_NAMES = {
    **dict.fromkeys(('in_chans', 'in_chs', 'input_channels', 'channels'),
                    'it is called in_channels here'),
    **dict.fromkeys(('drop_path', 'dpr'), 'it is called drop_path_rate here'),
    **dict.fromkeys(('use_checkpoint', 'grad_checkpointing', 'gradient_checkpointing'),
                    'it is called with_cp here'),
    **dict.fromkeys(('model', 'model_name', 'name', 'variant'), 'it is called arch here'),
    **dict.fromkeys(('img_size', 'image_size', 'imgsize', 'input_size'), _ANY_SIZE),
    **dict.fromkeys(('num_classes', 'global_pool', 'drop_rate'), _NO_CLASSIFIER),
    **dict.fromkeys(('pretrained', 'checkpoint', 'checkpoint_path', 'weights'), _WEIGHTS),
    'features_only': 'a backbone always returns features, those of out_indices',
    **dict.fromkeys(('dims', 'embed_dim', 'embed_dims', 'depths', 'num_heads', 'd_state',
                     'ssm_d_state', 'ssm_ratio', 'mlp_ratio'), _OF_ARCH),
}


class BaseBackbone(BaseModule):
    """A stem, stages of blocks, a downsample between stages, a LayerNorm on each output.

    This class builds and runs them, and owns output indices, freezing, norm evaluation and
    activation checkpointing. A family gives its archs and its block. Parts behind the last output
    are not kept.

    Args:
        arch: A name of :attr:`archs`, or a dict with the keys of :attr:`arch_type`; None takes
            the family's :attr:`default_arch`.
        in_channels: Channels of the image.
        out_indices: Stages whose output is returned, in rising order, each under a LayerNorm
            ``norm{i}``. A negative one counts from the last; a number stands for a list of one.
        drop_path_rate: Drop path rate of the last block, growing linearly from 0 at the first;
            None takes the arch's own.
        frozen_stages: -1 freezes nothing, 0 the stem, k >= 1 also the first k stages with their
            output norms and downsamples. What is frozen stays in evaluation mode.
        norm_eval: Keep every BatchNorm in evaluation mode while training.
        with_cp: Recompute each block's activations in backward instead of storing them.
        mask_padding: Keep the padding of a batch out of its images' features, see
            :meth:`forward`; the host's data samples say what is padding.
        init_cfg: As in MMEngine, an entry or several; ``dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')`` loads weights and stops if they are not this backbone's. With
            ``adapt_stem`` it takes weights for images of another number of channels, see
            :func:`~mmvssd.checkpoint.input_channels.adapt_channels`.

    Attributes:
        archs: Settings by name.
        arch_type: Class of the settings.
        default_arch: Name of an arch.

    Raises:
        ValueError: An unknown arch or key, or settings that don't fit together.
    """

    archs: Mapping[str, Arch]
    arch_type: Type[Arch]
    default_arch: str
    init_cfg: Any  # MMEngine's

    @with_other_names(OTHER_NAMES)
    def __init__(self,
                 arch: Union[str, dict, None] = None,
                 in_channels: int = 3,
                 out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
                 drop_path_rate: Optional[float] = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 mask_padding: bool = False,
                 init_cfg: Union[dict, Sequence[dict], None] = None) -> None:
        super().__init__(_check_init_cfg(init_cfg))
        arch = resolve_arch(self.default_arch if arch is None else arch, self.archs,
                            self.arch_type)
        self.in_channels = check_integer('in_channels', in_channels, 1)
        self.out_indices = _check_out_indices(out_indices, len(arch.depths))
        self.norm_eval = check_flag('norm_eval', norm_eval)
        self.with_cp = check_flag('with_cp', with_cp)
        self.mask_padding = check_flag('mask_padding', mask_padding)
        if self.mask_padding:
            follow_hosts()
        used = self.out_indices[-1] + 1
        self.frozen_stages = check_integer('frozen_stages', frozen_stages, -1, used)
        self.dims = arch.dims[:used]
        self.stem = STEMS[arch.stem](self.in_channels, arch.embed_dims)
        rates = _drop_path_rates(arch, drop_path_rate)
        # all are drawn, so that the weights of those kept do not depend on the others
        stages = [nn.ModuleList(self.build_block(arch, i, rate) for rate in stage)
                  for i, stage in enumerate(rates)]
        downsamples = [DOWNSAMPLES[arch.downsample](*pair)
                       for pair in zip(arch.dims, arch.dims[1:])]
        self.stages = nn.ModuleList(stages[:used])
        self.downsamples = nn.ModuleList(downsamples[:used - 1])
        for i, dim in enumerate(self.dims):
            if i in self.out_indices:
                self.add_module(f'norm{i}', nn.LayerNorm(dim))
        self.apply(_init_linear)
        for module in self._frozen_modules():
            module.requires_grad_(False)

    @staticmethod
    def build_block(arch: Any, stage: int, drop_path: float) -> nn.Module:
        """Make a block of a stage: (N, H, W, C) and a padding or None -> (N, H, W, C)."""
        raise NotImplementedError

    def forward(self, x: Tensor,
                sizes: Optional[Sequence[Tuple[int, int]]] = None) -> Tuple[Tensor, ...]:
        """Compute features of an image batch of any size.

        With ``sizes``, each image gets the features that it gets in a batch of one, and zeros
        beside them. Padding adds nothing to a state or an attention. Every convolution sees the
        same zeros at an image's border as at the border of a batch. In training mode BatchNorm's
        statistics still run over the whole grid, as in training without it.

        Args:
            x: Images (N, in_channels, H, W), padded at the right and below.
            sizes: (height, width) of each image before padding. None takes those of the data
                samples that the host's model was called with if ``mask_padding`` is set;
                else, and without a host, every image fills the batch.

        Returns:
            One (N, C_i, H_i, W_i) tensor for each output index, contiguous: hosts hand them to
            compiled ops that read memory in that order.

        Raises:
            ValueError: A shape or a size that does not fit, or, with ``mask_padding``, a data
                sample without a size.
        """
        self.check_image(x)
        if sizes is None and self.mask_padding:
            sizes = valid_sizes(x)
        padding = _padding_of(x, sizes)
        outputs = []
        x = self.stem(x, padding)
        padding = None if padding is None else self.stem.after(padding)
        for i in range(len(self.stages)):
            x, padding = self.run_stage(i, x, padding)
            if i in self.out_indices:
                outputs.append(self._output(i, x, padding))
        return tuple(outputs)

    def run_stage(self, stage: int, x: Tensor, padding: Optional[Padding] = None
                  ) -> Tuple[Tensor, Optional[Padding]]:
        """Run the downsample before a stage, if it is not the first, and the stage's blocks.

        Args:
            stage: Which stage, from 0.
            x: What the stem or the stage before gave, (N, H, W, C).
            padding: What of it is padding, None for nothing.

        Returns:
            The stage's output (N, H', W', C') before its norm, and what of it is padding.
        """
        if stage > 0:
            x = self.downsamples[stage - 1](x, padding)
            padding = None if padding is None else padding.strided(2)
        for block in self.stages[stage]:
            x = self._run_block(block, x, padding)
        return x, padding

    def check_image(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is a batch of images (N, in_channels, H, W)."""
        # texts only if a check failed: a size that torch.compile left open has none
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise ValueError(f'{name}: got an input of type {type(x).__name__}, expected a tensor '
                             f'(N, {self.in_channels}, H, W)')
        if x.dim() != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) == 0:
            raise ValueError(f'{name}: got an input of shape {tuple(x.shape)}, expected '
                             f'(N, {self.in_channels}, H, W)')
        # of which kind is left to PyTorch: sharding and autocast change it between here and there
        if not x.is_floating_point():
            raise ValueError(f'{name}: got an input of {x.dtype}, expected floating point; the '
                             "host's data_preprocessor turns pixels into it, and normalizes them")

    def _run_block(self, block: nn.Module, x: Tensor, padding: Optional[Padding]) -> Tensor:
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, padding, use_reentrant=False)
        return block(x, padding)

    def _output(self, stage: int, x: Tensor, padding: Optional[Padding]) -> Tensor:
        y = getattr(self, f'norm{stage}')(x).permute(0, 3, 1, 2)
        if padding is not None:
            y = padding.clear(y)
        return y.contiguous()

    def init_weights(self) -> None:
        """Do what ``init_cfg`` says, pretrained weights last; the rest is drawn already."""
        given = self.init_cfg
        entries = given if isinstance(given, (list, tuple)) else [given] if given else []
        pretrained = [entry for entry in entries if _is_pretrained(entry)]
        if len(pretrained) < len(entries) or not entries:
            # MMEngine would load pretrained weights as well, and pass over what does not fit
            self.init_cfg = [entry for entry in entries if entry not in pretrained]
            try:
                super().init_weights()
            finally:
                self.init_cfg = given
        for entry in pretrained:
            load_pretrained(self, entry['checkpoint'], entry.get('prefix') or '',
                            entry.get('adapt_stem'))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Return how deep a parameter lies, for layer-wise decay of learning rates.

        The stem is layer 0, each block a layer, with it what follows up to the next one. Output
        norms, and what comes behind the backbone, are the last layer.

        Args:
            param_name: The parameter's name in a model.
            prefix: What the names of the backbone's parameters start with there, ``'backbone.'``.

        Returns:
            The layer, and the number of layers.
        """
        depths = [len(blocks) for blocks in self.stages]
        last = sum(depths) + 1
        if not param_name.startswith(prefix):
            return last, last + 1
        part, *indices = param_name[len(prefix):].split('.')
        if part == 'stages':
            return sum(depths[:int(indices[0])]) + int(indices[1]) + 1, last + 1
        if part == 'downsamples':
            return sum(depths[:int(indices[0]) + 1]), last + 1
        return 0 if part == 'stem' else last, last + 1

    def train(self, mode: bool = True) -> 'BaseBackbone':
        """Set the training mode, and keep in evaluation mode what is frozen."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f'norm{i}') for i in self.out_indices if i < self.frozen_stages]
        return [self.stem, *self.stages[:self.frozen_stages],
                *self.downsamples[:self.frozen_stages], *norms]


def _check_init_cfg(init_cfg: Any) -> Union[dict, List[dict], None]:
    """Return a checked entry, or a list of them."""
    if isinstance(init_cfg, (list, tuple)):
        for entry in init_cfg:
            _check_entry(entry)
        return list(init_cfg)
    if init_cfg is None:
        return None
    _check_entry(init_cfg)
    return init_cfg


def _check_entry(entry: dict) -> None:
    if not isinstance(entry, Mapping) or 'type' not in entry:
        raise ValueError(f"init_cfg: got {entry!r}, expected dict(type='Pretrained', "
                         "checkpoint=FILE, prefix='backbone.'), or another of MMEngine's types")
    kind = entry['type']
    if isinstance(kind, str) and WEIGHT_INITIALIZERS.get(kind) is None:
        check_name('init_cfg: type', kind, WEIGHT_INITIALIZERS.module_dict)
    if not _is_pretrained(entry):
        return
    check_keys('init_cfg', entry, ('type', 'checkpoint', 'prefix', 'map_location', 'adapt_stem'),
               ('checkpoint', ))
    for name in ('checkpoint', 'prefix'):
        value = entry.get(name)
        if not isinstance(value, (str, os.PathLike)) and (name, value) != ('prefix', None):
            raise ValueError(f'init_cfg: {name}: got {value!r}, expected a string')
    if entry.get('adapt_stem') is not None:
        check_name('init_cfg: adapt_stem', entry['adapt_stem'], ADAPTATIONS)


def _is_pretrained(entry: Mapping) -> bool:
    """Tell an entry that loads a checkpoint, whether it names the class or is given it."""
    kind = entry['type']
    return (WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind) is PretrainedInit


def _check_out_indices(out_indices: Union[int, Sequence[int]], num_stages: int) -> Tuple[int, ...]:
    """Return stages counted from the first, of a list or of one number."""
    fits = (f'expected a stage or stages in rising order, each from 0 to {num_stages - 1}, or from '
            f'-{num_stages} to -1 counted from the last')
    given = [out_indices] if isinstance(out_indices, Integral) else out_indices
    if not isinstance(given, (list, tuple, range, np.ndarray)) or not len(given):
        raise ValueError(f'out_indices: got {out_indices!r}, {fits}')
    indices = tuple(check_integer('out_indices', index, -num_stages) for index in given)
    indices = tuple(index + num_stages if index < 0 else index for index in indices)
    if list(indices) != sorted(set(indices) & set(range(num_stages))):
        raise ValueError(f'out_indices: got {out_indices}, {fits}')
    return indices


def _drop_path_rates(arch: Arch, rate: Optional[float]) -> List[List[float]]:
    """Return the rate of each block of each stage, from 0 linearly to ``rate``."""
    rate = arch.drop_path_rate if rate is None else check_drop_path_rate('drop_path_rate', rate)
    last = max(sum(arch.depths) - 1, 1)
    rates = iter([rate * i / last for i in range(sum(arch.depths))])
    return [[next(rates) for _ in range(depth)] for depth in arch.depths]


def _padding_of(x: Tensor, sizes: Optional[Sequence[Tuple[int, int]]]) -> Optional[Padding]:
    """Return the padding of a batch (N, C, H, W), or None."""
    grid = tuple(x.shape[2:])
    if sizes is None or _fill(sizes, len(x), grid):
        return None
    try:
        valid = torch.as_tensor(sizes)
    except (TypeError, ValueError, RuntimeError):
        valid = torch.empty(0)
    if (valid.shape != (len(x), 2) or valid.is_floating_point() or valid.dtype == torch.bool
            or not ((valid > 0) & (valid <= torch.tensor(grid, device=valid.device))).all()):
        raise ValueError(f'sizes: got {sizes}, expected (height, width) of each of the {len(x)} '
                         f'images, at most {grid}')
    return Padding(valid.to(x.device), grid)


def _fill(sizes: Sequence[Tuple[int, int]], count: int, grid: Tuple[int, int]) -> bool:
    """Tell, without a tensor, if all of ``count`` images fill the grid."""
    try:
        return len(sizes) == count and all(tuple(size) == grid for size in sizes)
    except TypeError:  # no sizes at all
        return False


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
