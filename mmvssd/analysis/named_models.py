"""Models by the names that command lines give: an arch of ours, a peer, a recipe, a model of timm.

Hosts are imported when a name asks for one of their models.
"""
import copy
import importlib.util
import logging
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.checkpoint import (
    load_pretrained,
    named_as,
    read_checkpoint,
    require_fit,
    without_compile,
)
from mmvssd.cli.launch import load_config
from mmvssd.errors import CheckpointError, ConfigError
from mmvssd.families import every_arch
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.phrases import similar, suggestion

Maker = Callable[[], nn.Module]

HOSTS = ('mmpretrain', 'mmdet', 'mmseg')
LONGEST_LABEL = 200  # bytes; file systems take 255, and a file's temporary name is longer
NUM_CLASSES = 1000  # of ImageNet, for which the peers' sizes are published


class Normalization(NamedTuple):
    """What a model expects of a picture: mean and std of each channel, 0 to 255, in its order."""

    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    rgb: bool = True


IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class Feature(NamedTuple):
    """Where a feature map is read in a model.

    Attributes:
        layer: Dotted name of the module; '' is the model itself.
        side: 'input' or 'output' of that module.
        layout: 'nchw' for (N, C, h, w), 'nhwc' for (N, h, w, C), 'tokens' for (N, L, C).
    """

    layer: str
    side: str
    layout: str


@dataclass(frozen=True)
class ModelName:
    """``NAME[@CHECKPOINT][=LABEL]``, taken apart.

    Attributes:
        name: An arch of ours such as ``vssd-tiny``, a peer such as ``resnet-50``, a recipe's path,
            ``mmpretrain::resnet/resnet50_8xb32_in1k.py``, or ``timm:NAME``.
        checkpoint: A file of weights; None leaves the weights fresh.
        label: What figures, tables and files call the model.
    """

    name: str
    checkpoint: Optional[str]
    label: str

    @classmethod
    def parse(cls, text: str) -> 'ModelName':
        """Take a name apart; without a label it gets one from its name and its checkpoint's.

        Raises:
            ConfigError: It is of another form, or its label would be no name of a file.
        """
        found = re.fullmatch(r'(.+?\.py(?=[@=]|$)|[^@=]+)(?:@(.+?))?(?:=([^=/]*))?', text)
        if found is None or not found[1].strip():
            raise ConfigError(f'model: got {text!r}, expected NAME, NAME@CHECKPOINT or '
                              'NAME@CHECKPOINT=LABEL')
        name, checkpoint, label = found.groups()
        if checkpoint and label is not None and Path(f'{checkpoint}={label}').is_file():
            checkpoint, label = f'{checkpoint}={label}', None
        if label is None:
            label = _plain(name) + (f'@{Path(checkpoint).stem}' if checkpoint else '')
        if (not label.strip() or label.startswith('.') or not label.isprintable()
                or len(label.encode()) > LONGEST_LABEL):
            raise ConfigError(f'model: got {text!r}, whose label {label!r} is not a name of a file')
        return cls(name, checkpoint, label)

    @property
    def is_recipe(self) -> bool:
        """Tell if the name is that of a recipe."""
        return '::' in self.name or self.name.endswith('.py')


def _plain(name: str) -> str:
    base = Path(name.rpartition('::')[2])
    return base.stem if base.suffix == '.py' else name.replace(':', '-').replace('/', '-')


@dataclass(frozen=True)
class NamedModel:
    """A model that was built by its name, in evaluation mode.

    Attributes:
        name: What was asked for.
        model: The recipe's whole model; of other names the backbone.
        backbone: Its backbone, (N, 3, H, W) -> tuple of features.
        normalization: What it expects of a picture.
    """

    name: ModelName
    model: nn.Module
    backbone: nn.Module
    normalization: Normalization


class Peer(NamedTuple):
    """A backbone of MMPreTrain to compare with.

    Attributes:
        settings: Its config.
        channels: Channels of its last feature.
        staged: Its outputs are chosen by ``out_indices`` from 0 to 3.
        divisor: What the side of its images must divide by.
    """

    settings: dict
    channels: int
    staged: bool = True
    divisor: int = 1


PEERS: Dict[str, Peer] = {
    'resnet-50': Peer(dict(type='ResNet', depth=50), 2048),
    'swin-tiny': Peer(dict(type='SwinTransformer', arch='tiny'), 768),
    'convnext-tiny': Peer(dict(type='ConvNeXt', arch='tiny', gap_before_final_norm=False), 768),
    'deit-small': Peer(dict(type='VisionTransformer', arch='deit-small', img_size=224,
                            patch_size=16, out_type='featmap'), 384, False, 16),
    'hivit-tiny': Peer(dict(type='HiViT', arch='tiny', ape=True, rpe=True), 384, False, 16),
    'replknet-31b': Peer(dict(type='RepLKNet', arch='31B'), 1024),
}


def backbones(size: int = 224, *, out_indices: Sequence[int] = (0, 1, 2, 3),
              swin_window: int = 7) -> Dict[str, Maker]:
    """Return makers of the backbones by name: all of ours, and mmpretrain's to compare with.

    Args:
        size: Side of the images in pixels; HiViT is built for one size.
        out_indices: Stages whose output is returned, if a backbone has stages.
        swin_window: Side of Swin's windows, in tokens.
    """
    makers: Dict[str, Maker] = {
        f'{family.name}-{arch}': partial(family.backbone, arch, out_indices=tuple(out_indices))
        for family, arch in every_arch()}
    for name in PEERS:
        makers[name] = partial(_build_peer, name, size, out_indices, swin_window)
    return makers


def peer_settings(name: str, size: int = 224, out_indices: Sequence[int] = (3, ),
                  swin_window: int = 7) -> dict:
    """Return the config of a peer's backbone, for MMPreTrain's registry.

    Raises:
        ConfigError: The peer does not take images of that size.
    """
    peer = PEERS[name]
    if size % peer.divisor:
        raise ConfigError(f'--size: got {size}, and {name} takes multiples of {peer.divisor}')
    settings = dict(peer.settings)
    if peer.staged:
        settings['out_indices'] = tuple(out_indices)
    if name == 'swin-tiny':
        # of maps larger than a window it would change nothing, of those as large the published net
        settings.update(window_size=swin_window, pad_small_map=-(-size // 32) < swin_window)
    if name == 'hivit-tiny':
        # MMPreTrain writes its own last block into the list
        settings.update(img_size=size, out_indices=[0])
    return settings


def _build_peer(name: str, size: int, out_indices: Sequence[int], swin_window: int) -> nn.Module:
    return _of_mmpretrain(peer_settings(name, size, out_indices, swin_window))


def _of_mmpretrain(settings: dict) -> nn.Module:
    _require_mmpretrain(settings['type'])
    import mmpretrain.models
    settings = copy.deepcopy(settings)
    return getattr(mmpretrain.models, settings.pop('type'))(**settings)


def _require_mmpretrain(what: str) -> None:
    if importlib.util.find_spec('mmpretrain') is None:
        raise ConfigError(f'{what}: comes with MMPreTrain: pip install mmpretrain')


def classifier_config(name: str, size: int = 224, swin_window: int = 7) -> dict:
    """Return the config of an arch's or a peer's ImageClassifier of 1000 classes, of MMPreTrain.

    Parameters and multiply-adds are published for these.

    Raises:
        ConfigError: There is no such arch or peer, or the peer does not take the size.
    """
    check_name(name)
    if name in PEERS:
        backbone = peer_settings(name, size, swin_window=swin_window)
        channels = PEERS[name].channels
    else:
        family, arch = next((family, arch) for family, arch in every_arch()
                            if f'{family.name}-{arch}' == name)
        backbone = dict(type=family.type, arch=arch, out_indices=(3, ))
        channels = family.backbone.archs[arch].dims[-1]
    head = dict(type='LinearClsHead', num_classes=NUM_CLASSES, in_channels=channels)
    neck: Optional[dict] = dict(type='GlobalAveragePooling')
    if name == 'deit-small':
        backbone['out_type'], neck = 'cls_token', None
        head['type'] = 'VisionTransformerClsHead'
    return dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)


def check_name(name: str) -> None:
    """Raise ConfigError, which lists the names, unless an arch or a peer is called so."""
    known = list(backbones())
    if name not in known:
        raise ConfigError(f'model: got {name!r}, expected a recipe (FILE.py, below configs/, or '
                          f'mmpretrain::PATH.py), timm:NAME, or one of {", ".join(known)}'
                          f'{suggestion(name, known, longer=True)}')


def check_models(names: Sequence[ModelName], size: int = 224) -> None:
    """Raise unless all models can be asked for, before work starts: labels, names, sizes, files.

    Raises:
        ConfigError: A label stands there twice, there is no such model, or a peer does not take
            images of ``size``.
        CheckpointError: A checkpoint cannot be read.
    """
    labels = [name.label for name in names]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f'model: {", ".join(twice)} stands there more than once; give each its '
                          'own label, NAME@CHECKPOINT=LABEL')
    for name in names:
        if name.is_recipe:
            recipe_of(name)
        elif name.name.startswith('timm:'):
            _require_timm(name.name)
        else:
            check_name(name.name)
            if name.name in PEERS:
                peer_settings(name.name, size)
        if name.checkpoint:
            read_checkpoint(name.checkpoint)


def _require_timm(name: str) -> None:
    if not re.fullmatch(r'timm:[\w.]+', name):
        raise ConfigError(f'model: got {name!r}, expected timm:NAME, NAME of timm.list_models()')
    if importlib.util.find_spec('timm') is None:
        raise ConfigError(f'{name}: timm is not installed: pip install timm')
    import timm
    wanted = name.partition(':')[2]
    if not timm.is_model(wanted.partition('.')[0]):
        raise ConfigError(f'{name}: timm {timm.__version__} has no such model'
                          f'{suggestion(wanted, timm.list_models())}')


def recipe_of(name: ModelName) -> Config:
    """Read the recipe that a name is.

    Raises:
        ConfigError: There is none, its host is not installed, or it has no model with a backbone.
    """
    cfg = _of_host(name.name) if '::' in name.name else load_config(name.name)
    if not cfg.get('model', {}).get('backbone'):
        raise ConfigError(f'{name.name}: its model has no backbone; give a recipe of a classifier, '
                          'detector or segmentor')
    return cfg


def _of_host(path: str) -> Config:
    """Read a recipe of an installed host; never install one, as MMEngine's hub would."""
    host, _, inside = path.partition('::')
    if host not in HOSTS or importlib.util.find_spec(host) is None:
        raise ConfigError(f'{path}: no installed host is called {host!r}; hosts: '
                          f'{", ".join(HOSTS)}')
    from mmengine.hub import get_config
    try:
        return get_config(path)
    except Exception as error:  # a config is code: whatever it raises
        package: Any = importlib.util.find_spec(host)
        root = Path(package.submodule_search_locations[0], '.mim/configs')
        recipes = {file.stem: str(file.relative_to(root)) for file in root.rglob('*.py')}
        close = [recipes[stem] for stem in similar(Path(inside).stem, recipes, cutoff=0.3)]
        raise ConfigError(f'{path}: cannot be read as a recipe of {host} ({type(error).__name__}); '
                          f'similar: {", ".join(close) or "none"}') from error


def build_named(name: ModelName, *, size: int = 224, seed: int = 0,
                fresh: bool = False) -> NamedModel:
    """Build a model by its name, in evaluation mode, on the CPU.

    Weights are the checkpoint's; without one they are drawn, whatever weights a recipe names to
    start from.

    Args:
        name: The model.
        size: Side of the images in pixels, for peers that are built for one size.
        seed: Of the weights that are drawn.
        fresh: Leave the checkpoint unread.

    Raises:
        ConfigError: There is no such model, or its recipe cannot be built.
        CheckpointError: The checkpoint cannot be read, or is another model's.
    """
    with _seeded(seed):
        if name.is_recipe:
            model, normalization = _build_recipe(recipe_of(name))
        else:
            model, normalization = _build_backbone(name.name, size), IMAGENET
        _give_weights(model, None if fresh else name.checkpoint)
    return NamedModel(name, model, model.backbone if name.is_recipe else model, normalization)


def build_classifier(name: ModelName, *, size: int = 224, swin_window: int = 7,
                     seed: int = 0) -> nn.Module:
    """Build a whole classifier of MMPreTrain by its name, in evaluation mode, on the CPU.

    An arch, a peer or a model of timm gets the head of :func:`classifier_config`. Weights are as
    :func:`build_named` has them. A checkpoint of ``swin-tiny`` with windows of 7 fits those of
    another size: its tables of position biases are resized, bicubic, as in Swin's own code.

    Args:
        name: The model; a recipe has to be one of a classifier.
        size: Side of the images in pixels, for peers that are built for one size.
        swin_window: Side of the windows of ``swin-tiny``, in tokens.
        seed: Of the weights that are drawn.

    Returns:
        (N, 3, H, W) -> (N, classes), with the number of classes as ``num_classes``.

    Raises:
        ConfigError: There is no such model, it is no classifier, or it cannot be built.
        CheckpointError: The checkpoint cannot be read, or is another model's.
    """
    with _seeded(seed):
        if name.is_recipe:
            model = _build_recipe(classifier_recipe(name))[0]
        elif name.name.startswith('timm:'):
            _require_timm(name.name)
            model = _of_mmpretrain(dict(type='TimmClassifier', num_classes=NUM_CLASSES,
                                        model_name=name.name.partition(':')[2]))
        else:
            settings = classifier_config(name.name, size, swin_window)
            _require_mmpretrain(name.name)
            init_default_scope('mmpretrain')
            model = MODELS.build(settings)
        try:
            _give_weights(model, name.checkpoint)
        except CheckpointError:
            if name.name != 'swin-tiny' or swin_window == 7:
                raise
            _load_windows(build_classifier(name, seed=seed).state_dict(), model)
    head = getattr(model, 'head', None)
    model.num_classes = NUM_CLASSES if head is None else getattr(head, 'num_classes', None)
    if model.num_classes is None:
        raise ConfigError(f'{name.name}: its {type(head).__name__} has no number of classes; give '
                          'a recipe of a classifier')
    return model


def _load_windows(state: Dict[str, Tensor], model: nn.Module) -> None:
    """Load a Swin's weights into one with other windows.

    MMPreTrain's own hook for this calls what SciPy has no longer.
    """
    wanted = model.state_dict()
    for name, value in state.items():
        if name.endswith('relative_position_index'):
            state[name] = wanted[name]
        elif value.shape != wanted[name].shape:
            before, after = (math.isqrt(len(table)) for table in (value, wanted[name]))
            table = F.interpolate(value.T.view(1, -1, before, before), (after, after),
                                  mode='bicubic')
            state[name] = table.view(-1, after**2).T
    model.load_state_dict(state)


def classifier_recipe(name: ModelName) -> Config:
    """Read a recipe that has to be one of a classifier of MMPreTrain.

    Raises:
        ConfigError: There is none, or its model is no classifier.
    """
    cfg = recipe_of(name)
    if cfg.get('default_scope') != 'mmpretrain' or not cfg.model.get('head'):
        raise ConfigError(f'{name.name}: its {cfg.model.type} is not a classifier; '
                          'tools/benchmarks/backbone_speed.py times backbones, and the log of a '
                          "training a detector's or segmentor's own steps")
    return cfg


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw weights from a seed, quietly, and leave the random state as it was."""
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        yield


def _give_weights(model: nn.Module, checkpoint: Optional[str]) -> None:
    """Draw a model's weights, whatever its config starts from; load a checkpoint's if there is."""
    for module in model.modules():
        if 'Pretrained' in _kinds(getattr(module, 'init_cfg', None)):
            module.init_cfg = None
    model.init_weights()
    if checkpoint:
        load_weights(checkpoint, model)
    model.eval()


def _build_backbone(name: str, size: int) -> nn.Module:
    if name.startswith('timm:'):
        _require_timm(name)
        return _of_mmpretrain(dict(type='TIMMBackbone', model_name=name.partition(':')[2]))
    check_name(name)
    return backbones(size, out_indices=(3, ))[name]()


def _build_recipe(cfg: Config) -> Tuple[nn.Module, Normalization]:
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    settings = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):  # as MMEngine's Runner hands it over
        settings.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    try:
        model = MODELS.build(settings)
    except Exception as error:  # each part of each host checks in its own way
        raise ConfigError(f'{cfg.filename}: its model cannot be built ({type(error).__name__}: '
                          f'{error})') from error
    return model, normalization_of(settings.get('data_preprocessor'))


def normalization_of(preprocessor: Optional[dict]) -> Normalization:
    """Return what a recipe's ``data_preprocessor`` does to pictures; ImageNet's if it has no mean.

    Hosts read pictures as BGR, so a recipe that does not turn them has its mean in that order.
    """
    if not preprocessor or preprocessor.get('mean') is None:
        return IMAGENET
    rgb = bool(preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb'))
    std = preprocessor.get('std')
    mean = tuple(preprocessor['mean'])
    return Normalization(mean, (1., ) * len(mean) if std is None else tuple(std), rgb)


def _kinds(init_cfg) -> List[str]:
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]
    return [entry.get('type', '') for entry in entries]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MMEngine from printing a line for each parameter that is drawn or loaded."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_weights(source: str, model: nn.Module) -> None:
    """Load a checkpoint into a whole model, or into a backbone from behind ``backbone.``.

    Args:
        source: The checkpoint.
        model: A whole model of a host, or a backbone.

    Raises:
        CheckpointError: It cannot be read, or its names or shapes are not the model's.
    """
    checkpoint = read_checkpoint(source)
    state = {without_compile(name): value
             for name, value in checkpoint.get('state_dict', checkpoint).items()}
    prefix = 'backbone.' if any(name.startswith('backbone.') for name in state) else ''
    if isinstance(model, BaseBackbone):
        load_pretrained(model, source, prefix)
        return
    if prefix and not hasattr(model, 'backbone'):
        checkpoint = {name[len(prefix):]: value for name, value in state.items()
                      if name.startswith(prefix)}
    require_fit(source, checkpoint, model)
    state = checkpoint.get('state_dict', checkpoint)
    model.load_state_dict(named_as(state, model.state_dict()), strict=False)


def last_feature(backbone: nn.Module, final_norm: str = 'published') -> Feature:
    """Say where a backbone's last feature map is read.

    Args:
        backbone: One of ours or of a host's.
        final_norm: ``'on'`` takes the backbone's output. ``'off'`` takes the input of its last
            norm, if it has one. ``'published'`` is as in VMamba's figure: off for ours and
            ConvNeXt, on for Swin and DeiT.
    """
    kind = 'ours' if isinstance(backbone, BaseBackbone) else type(backbone).__name__
    if kind == 'TIMMBackbone':
        return Feature('', 'output', _layout_of_timm(backbone.timm_model))
    last = next(iter(reversed(tuple(getattr(backbone, 'out_indices', ())))), None)
    norms = {'ours': (f'norm{last}', 'nhwc'), 'ConvNeXt': (f'norm{last}', 'nchw'),
             'SwinTransformer': (f'norm{last}', 'tokens'), 'VisionTransformer': ('ln1', 'tokens')}
    published_on = ('SwinTransformer', 'VisionTransformer')
    if final_norm == 'on' or kind not in norms or (final_norm == 'published'
                                                   and kind in published_on):
        return Feature('', 'output', 'nchw')
    layer, layout = norms[kind]
    return Feature(layer, 'input', layout)


def _layout_of_timm(model: nn.Module) -> str:
    """Say in which layout a model of timm gives its features; many give channels last."""
    if hasattr(model, 'num_prefix_tokens'):
        return 'tokens'
    return str(getattr(model, 'output_fmt', 'NCHW')).lower().replace('nlc', 'tokens')
