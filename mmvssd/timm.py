"""Registers the backbones as models of timm, under its classification head.

After ``import mmvssd.timm``, ``timm.create_model('vssd_tiny')`` and what takes a name of timm's,
such as the ``tu-`` encoders of segmentation-models-pytorch, find every arch of
:data:`mmvssd.families.FAMILIES`. A dash in an arch's name is an underscore there. Nothing of the
hosts is imported.
"""
import logging
import re
from numbers import Integral
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

import torch
from mmengine.logging import print_log
from packaging.version import Version
from torch import Tensor, nn

from mmvssd.checkpoint import compare, describe, first_convolution, without_compile
from mmvssd.converters import from_official
from mmvssd.converters.official import HOST_PARTS
from mmvssd.errors import CheckpointError, printable
from mmvssd.families import FAMILIES, every_arch
from mmvssd.models.arguments import (
    check_flag,
    check_integer,
    check_name,
    check_number,
    check_sequence,
    with_other_names,
)
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.models.layers import STEMS
from mmvssd.phrases import some

try:
    import timm
    if Version(timm.__version__).major < 1:
        raise ImportError(f'timm {timm.__version__} is installed', name='timm')
    from timm.layers import ClassifierHead
    from timm.models import (
        build_model_with_cfg,
        generate_default_cfgs,
        is_model,
        model_entrypoint,
        register_model,
    )
except ImportError as error:
    raise ImportError('mmvssd.timm needs timm 1.0.31 or later: '
                      f"pip install 'timm>=1.0.31' ({error})", name='timm') from error

#: How the head pools the grid; '' leaves it as it is.
POOLINGS = ('avg', 'max', 'avgmax', 'catavgmax', 'fast', 'fastavg', 'fastmax', 'fastavgmax',
            'fastcatavgmax', '')
#: Layouts of intermediate features.
FORMATS = ('NCHW', 'NHWC')
#: Decay rates, step sizes and skips of the state-space ops: to shrink them is no regularization.
WITHOUT_DECAY = ('A_log', 'A_logs', 'D', 'Ds', 'dt_bias', 'dt_projs_bias')

#: What this package's backbones and others call arguments, and what timm does.
OTHER_NAMES = {
    'in_channels': 'timm calls it in_chans',
    'drop_path': 'timm calls it drop_path_rate',
    **dict.fromkeys(('img_size', 'input_size'), 'images may be of any size'),
    **dict.fromkeys(('with_cp', 'use_checkpoint', 'grad_checkpointing'),
                    'call set_grad_checkpointing() of the model'),
    **dict.fromkeys(('init_cfg', 'checkpoint'), 'timm calls it checkpoint_path'),
}

Indices = Union[int, Sequence[int], None]

__all__ = ['ImageClassifier', 'adapted', 'model_name', 'own_names']  # and the models


class ImageClassifier(nn.Module):
    """A backbone of this package under timm's classification head.

    The state dict has the names of MMPreTrain's ImageClassifier: ``backbone.*``, with the norm of
    the last stage only, and ``head.fc.*``. :meth:`load_state_dict` takes published names as well.

    Args:
        family: A name of :data:`mmvssd.families.FAMILIES`.
        arch: An arch of that family, by name or as a dict.
        num_classes: Classes; 0 for no classifier.
        in_chans: Channels of the image.
        global_pool: One of :data:`POOLINGS`.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Drop path rate of the last block; None takes the arch's own.
        device: Where parameters lie; None for PyTorch's default.
        dtype: Floating point of parameters; None for PyTorch's default.

    Attributes:
        num_features: Channels of :meth:`forward_features`.
        feature_info: Channels, stride and name of each stage's output.

    Raises:
        ValueError: An argument does not fit.
    """

    @with_other_names(OTHER_NAMES)
    def __init__(self, family: str, arch: Union[str, dict], *, num_classes: int = 1000,
                 in_chans: int = 3, global_pool: str = 'avg', drop_rate: float = 0.,
                 drop_path_rate: Optional[float] = None,
                 device: Union[str, torch.device, None] = None,
                 dtype: Optional[torch.dtype] = None) -> None:
        super().__init__()
        self.head: Any
        self.family = FAMILIES[check_name('family', family, FAMILIES)]
        self.in_chans = check_integer('in_chans', in_chans, 1)
        self.drop_rate = check_number('drop_rate', drop_rate, '0 <= drop_rate < 1', least=0,
                                      below=1)
        self.backbone = self.family.backbone(arch, in_channels=self.in_chans, out_indices=-1,
                                             drop_path_rate=drop_path_rate)
        dims = self.backbone.dims
        self.num_features = dims[-1]
        self.feature_info = [dict(num_chs=dim, reduction=4 * 2**i, module=f'backbone.stages.{i}')
                             for i, dim in enumerate(dims)]
        self.reset_classifier(num_classes, global_pool)
        self.to(device=device, dtype=dtype)

    @property
    def head_hidden_size(self) -> int:
        """Return the channels of the pooled features, which the classifier reads."""
        return self.num_features * self.head.global_pool.feat_mult()

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits of images (N, in_chans, H, W): (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last stage's output under its norm, (N, num_features, H', W')."""
        if self.backbone.out_indices:
            return self.backbone(x)[-1]
        return self.forward_intermediates(x, 1)[0]  # the norm was pruned

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features and classify them.

        Args:
            x: What :meth:`forward_features` returned.
            pre_logits: Return what the classifier would read, (N, head_hidden_size).
        """
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(self, x: Tensor, indices: Indices = None, norm: bool = False,
                              stop_early: bool = False, output_fmt: str = 'NCHW',
                              intermediates_only: bool = False
                              ) -> Union[List[Tensor], Tuple[Tensor, List[Tensor]]]:
        """Compute the outputs of stages, before any norm.

        Args:
            x: Images (N, in_chans, H, W).
            indices: Stages, a negative one counted from the last; a number for as many of the
                last; None for all.
            norm: Give the last stage's output under its norm.
            stop_early: Run no stage behind the last of ``indices``.
            output_fmt: Layout of the outputs, one of :data:`FORMATS`.
            intermediates_only: Return the outputs only.

        Returns:
            What :meth:`forward_features` returns, and a list of the stages' outputs in their order.
            With ``stop_early`` the former is the last output that was computed.

        Raises:
            ValueError: An argument does not fit.
        """
        check_name('output_fmt', output_fmt, FORMATS)
        count = len(self.backbone.stages)
        taken = _stages_of(indices, count)
        self.backbone.check_image(x)
        x = self.backbone.stem(x)
        intermediates = []
        for i in range(max(taken) + 1 if stop_early else count):
            x, _ = self.backbone.run_stage(i, x)
            normed = _normed(self.backbone, x) if i == count - 1 else x
            if i in taken:
                output = normed if norm else x
                intermediates.append(output if output_fmt == 'NHWC' else _channels_first(output))
            x = normed
        return intermediates if intermediates_only else (_channels_first(x), intermediates)

    def prune_intermediate_layers(self, indices: Indices = 1, prune_norm: bool = False,
                                  prune_head: bool = True) -> List[int]:
        """Drop what the outputs of some stages do not need.

        Args:
            indices: As in :meth:`forward_intermediates`.
            prune_norm: Drop the norm of the last stage. It goes with that stage, too.
            prune_head: Drop the classifier. It goes with the last stage, too.

        Returns:
            The stages, counted from the first.
        """
        backbone = self.backbone
        taken = _stages_of(indices, len(backbone.stages))
        kept = max(taken) + 1
        shortened = kept < len(backbone.stages)
        if prune_norm or shortened:
            for i in backbone.out_indices:
                delattr(backbone, f'norm{i}')
            backbone.out_indices = ()
        backbone.stages = backbone.stages[:kept]
        backbone.downsamples = backbone.downsamples[:kept - 1]
        backbone.dims = backbone.dims[:kept]
        self.num_features = backbone.dims[-1]
        if prune_head or shortened:
            self.reset_classifier(0, '')
        return taken

    def get_classifier(self) -> nn.Module:
        """Return the linear layer, or an identity in its place."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Make a new classifier.

        Args:
            num_classes: Classes; 0 for no classifier.
            global_pool: One of :data:`POOLINGS`; None for the one that is there.
        """
        if global_pool is None:
            global_pool = self.head.global_pool.pool_type
        self.num_classes = check_integer('num_classes', num_classes, 0)
        head = ClassifierHead(self.num_features, self.num_classes,
                              check_name('global_pool', global_pool, POOLINGS), self.drop_rate)
        if self.num_classes:
            nn.init.trunc_normal_(head.fc.weight, std=0.02)
            nn.init.zeros_(head.fc.bias)
        weight = next(self.backbone.parameters())
        self.head = head.to(weight.device, weight.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in backward instead of storing them, or do not."""
        self.backbone.with_cp = check_flag('enable', enable)

    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Return the layers of parameters, as patterns, for layer-wise decay of learning rates.

        They are those of the backbone's ``get_layer_depth``: the stem, each block with the
        downsample that may follow it, and the last norm with the head.

        Args:
            coarse: Make each stage a layer.
        """
        behind = (99999, )  # timm's mark of what belongs to the layer before
        return dict(
            stem=r'^backbone\.stem',
            blocks=r'^backbone\.(?:stages|downsamples)\.(\d+)' if coarse else [
                (r'^backbone\.stages\.(\d+)\.(\d+)', None),
                (r'^backbone\.downsamples\.(\d+)', behind)])

    def no_weight_decay(self) -> Set[str]:
        """Return the names of parameters of any dimension that are left without weight decay."""
        return {name for name, _ in self.named_parameters()
                if name.rpartition('.')[2] in WITHOUT_DECAY}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True,
                        assign: bool = False) -> Any:
        """Load weights under the names of this model, of a host's, or of the published code."""
        return super().load_state_dict(own_names(state_dict, self), strict=strict, assign=assign)


def own_names(state_dict: Mapping[str, Any], model: ImageClassifier) -> Mapping[str, Any]:
    """Return weights under the names of a model.

    The norms of outputs that a dense backbone has more, and a host's parts behind its backbone,
    are left out, which is logged.

    Args:
        state_dict: Weights of this package, of a host's model with its backbone, of a backbone
            without a model, or published ones.
        model: The model.

    Raises:
        ValueError: Names that are neither of this package nor of the family's published code.
    """
    expected = model.state_dict()
    if state_dict.keys() <= expected.keys():
        return state_dict
    state = {without_compile(re.sub(r'^module\.', '', name)): value
             for name, value in state_dict.items() if isinstance(value, Tensor)}
    if any(name.startswith('stem.') for name in state):
        state = {f'backbone.{name}': value for name, value in state.items()}
    elif not any(name.startswith('backbone.stem.') for name in state) and model.family.rules:
        state = from_official(state, model.family.name)
    left_out = [name for name in state if name not in expected
                and (re.match(r'backbone\.norm\d+\.', name) or re.fullmatch(HOST_PARTS, name))]
    if left_out:
        print_log(f'not loaded, since the model has no such parts: {printable(some(left_out))}',
                  logger='current')
    return {name: value for name, value in state.items() if name not in left_out}


def adapted(state_dict: Mapping[str, Any], model: ImageClassifier) -> Dict[str, Any]:
    """Return weights that timm is about to load, and tell it what they are.

    timm draws a new classifier for another number of classes, and makes the first convolution over
    for another number of channels. It reads the numbers of the weights in the model's
    ``pretrained_cfg``, where they are corrected. It may pass over any other difference, so there
    may be none.

    Raises:
        CheckpointError: Names or shapes are not the model's.
    """
    state = dict(own_names(state_dict, model))
    config = model.pretrained_cfg
    first, *head = f'{config["first_conv"]}.weight', 'head.fc.weight', 'head.fc.bias'
    mismatch = compare(state, model.state_dict())
    wrong = mismatch._replace(
        missing=[name for name in mismatch.missing if name not in head],
        unexpected=[name for name in mismatch.unexpected if name not in head],
        shapes=[entry for entry in mismatch.shapes if entry[0] not in (first, *head)])
    if any(wrong):
        raise CheckpointError(
            f'{config.get("file") or "pretrained weights"}: not the weights of a '
            f'{config["architecture"]}\n  {describe(wrong)}\nCheck that this is the model that the '
            'file was trained as.')
    config['input_size'] = (state[first].shape[1], *config['input_size'][1:])
    if head[0] in state:
        config['num_classes'] = len(state[head[0]])
    return state


def _stages_of(indices: Indices, count: int) -> List[int]:
    """Return stages counted from the first, of timm's way to name them."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, Integral):
        last = check_integer('indices', indices, 1, count)
        return list(range(count - last, count))
    stages = [check_integer('indices', index, -count, count - 1)
              for index in check_sequence('indices', indices, of='stages')]
    return [index + count if index < 0 else index for index in stages]


def _normed(backbone: BaseBackbone, x: Tensor) -> Tensor:
    """Apply the norm of the last stage, unless it was pruned."""
    for i in backbone.out_indices:
        x = getattr(backbone, f'norm{i}')(x)
    return x


def _channels_first(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), contiguous."""
    return x.permute(0, 3, 1, 2).contiguous()


def model_name(family: str, arch: str) -> str:
    """Return the name of an arch in timm, such as ``vmamba_tiny_s1l8``."""
    return f'{family}_{arch}'.replace('-', '_')


def _create(family: str, arch: str, pretrained: bool = False,
            pretrained_cfg_overlay: Optional[Mapping[str, Any]] = None, **options: Any
            ) -> nn.Module:
    """Build a model, or its features; ``options`` are timm's, and those of the model."""
    if options.get('features_only'):
        kind = options.setdefault('feature_cls', 'getter')
        if getattr(kind, '__name__', str(kind).lower()) not in ('getter', 'FeatureGetterNet'):
            raise ValueError(f"feature_cls: got {kind!r}, expected 'getter': a stage is not a "
                             'module that could run by itself or take a hook')
    stem = FAMILIES[family].backbone.archs[arch].stem
    return build_model_with_cfg(
        ImageClassifier, model_name(family, arch), pretrained, family=family, arch=arch,
        # whatever tells of the weights
        pretrained_cfg_overlay={**_layers(stem), **(pretrained_cfg_overlay or {})},
        pretrained_filter_fn=adapted, feature_cfg=dict(out_indices=(0, 1, 2, 3)), **options)


def _layers(stem: str) -> Dict[str, str]:
    """Return the names of the first convolution and of the classifier."""
    with torch.device('meta'):
        convolution = first_convolution(STEMS[stem](3, 2))
    return dict(first_conv=f'backbone.stem.{convolution}', classifier='head.fc')


def _config(stem: str) -> Dict[str, Any]:
    """Return what timm keeps of a model: how images are prepared, and two layers."""
    return dict(url='', num_classes=1000, input_size=(3, 224, 224), pool_size=(7, 7),
                crop_pct=0.875, interpolation='bicubic', mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225), **_layers(stem))


def _register(family: str, arch: str) -> None:
    name = model_name(family, arch)
    if is_model(name) and model_entrypoint(name).__module__ != __name__:
        print_log(f'timm has a model {name} of its own: that of mmvssd is not registered',
                  logger='current', level=logging.WARNING)
        return

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        return _create(family, arch, pretrained, **options)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f'Build the arch {arch!r} of {family}.'
    register_model(create)


#: What timm knows of each model; it looks for this name.
default_cfgs = generate_default_cfgs({
    model_name(family.name, arch): _config(family.backbone.archs[arch].stem)
    for family, arch in every_arch()})
for _family, _arch in every_arch():
    _register(_family.name, _arch)
