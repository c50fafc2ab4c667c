"""Effective receptive fields: the pixels that move the centre of a feature map.

The protocol is that of VMamba's Fig. 10 (arXiv 2401.10166), which is RepLKNet's (arXiv 2203.06717)
with another resizing and display. An image X has the feature map Y (C, h, w), and G is the gradient
of sum_k relu(Y[k, h // 2, w // 2]) to X. The map of an image is

    a = sum over channels of relu(G)        (H, W)

and that of a model the mean over images. Parameters keep their values; normalization layers run in
evaluation mode.
"""
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from mmvssd.analysis.complexity import TensorMode
from mmvssd.analysis.named_models import (
    Feature,
    ModelName,
    NamedModel,
    build_named,
    check_models,
    last_feature,
)
from mmvssd.analysis.photographs import check_size, each_picture, normalized
from mmvssd.errors import ConfigError, DataError
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.phrases import counted, numbered, similar

GRADIENTS = ('relu', 'abs')
LAYOUTS = ('nchw', 'nhwc', 'tokens')
FINAL_NORMS = ('published', 'on', 'off')
#: Shares of a map's sum for which the square around the centre is measured.
SHARES = (0.2, 0.3, 0.5, 0.99)
#: Share of a map's maximum from which a pixel counts as covered.
COVERED = 0.01
#: How a map is shown and measured; each takes and gives (H, W), not negative.
DISPLAYS: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'raw': lambda a: a,
    'log': lambda a: np.log10(a + 1),
    'power': lambda a: (a / a.max())**0.2,
}


class Settings(NamedTuple):
    """What is measured, the same for all models.

    Attributes:
        size: Side of the photographs in pixels.
        resize: 'crop' or 'squash', see :func:`mmvssd.analysis.photographs.open_picture`.
        gradient: 'relu' counts pixels that raise the feature, 'abs' those that lower it too.
        final_norm: 'published', 'on' or 'off', see
            :func:`mmvssd.analysis.named_models.last_feature`.
        layer: Dotted name of the module whose output is the feature map; None takes the
            backbone's last feature.
        layout: Of that output: 'nchw', 'nhwc' or 'tokens'; None if it is known.
        seed: Of random weights.
        device: A device of PyTorch.
    """

    size: int = 1024
    resize: str = 'crop'
    gradient: str = 'relu'
    final_norm: str = 'published'
    layer: Optional[str] = None
    layout: Optional[str] = None
    seed: int = 0
    device: str = 'cpu'


@dataclass
class ReceptiveField:
    """The mean map of some images.

    Attributes:
        map: (H, W) float64, not negative.
        grid: Height and width of the feature map.
        used: Number of images.
        left_out: Reasons by image: a map that is not finite, or zero everywhere.
    """

    map: np.ndarray
    grid: Tuple[int, int]
    used: int
    left_out: Dict[str, str] = field(default_factory=dict)


@dataclass
class Row:
    """A model in one state, and its receptive field.

    Attributes:
        model: The model's name.
        state: 'fresh', 'trained', or 'before' for the fresh one of a trained model.
        field: What was measured.
    """

    model: ModelName
    state: str
    field: ReceptiveField

    @property
    def title(self) -> str:
        """The model's label, in its state if that is 'before'."""
        return self.model.label + ' before' * (self.state == 'before')


def gradient_map(net: Callable[[Tensor], Tensor], image: Tensor,
                 gradient: str = 'relu') -> Tuple[np.ndarray, Tuple[int, int]]:
    """Measure which pixels move the centre of a feature map.

    Args:
        net: (1, 3, H, W) -> (1, C, h, w).
        image: (1, 3, H, W), of any floating-point type.
        gradient: 'relu' or 'abs'.

    Returns:
        The map (H, W) float64, and (h, w).
    """
    x = image.detach().requires_grad_()
    y = net(x)
    h, w = y.shape[2:]
    centre = y[0, :, h // 2, w // 2].relu().sum()
    slope, = torch.autograd.grad(centre, x, allow_unused=True)
    slope = torch.zeros_like(x) if slope is None else slope  # the feature sees no pixel
    slope = slope.abs() if gradient == 'abs' else slope.relu()
    return slope[0].double().sum(0).cpu().numpy(), (h, w)


def mean_map(net: Callable[[Tensor], Tensor], images: Iterable[Tuple[str, Tensor]],
             gradient: str = 'relu') -> ReceptiveField:
    """Average the maps of some images; those without one are left out.

    Args:
        net: (1, 3, H, W) -> (1, C, h, w).
        images: Names, and images (1, 3, H, W) of one size.
        gradient: 'relu' or 'abs'.

    Raises:
        DataError: No image is left.
    """
    total: Any = 0
    used, grid, left_out = 0, (0, 0), {}
    for name, image in images:
        one, grid = gradient_map(net, image, gradient)
        if not np.isfinite(one).all():
            left_out[name] = 'its gradient is not finite'
        elif not one.any():
            left_out[name] = 'its gradient is zero everywhere, no centre feature is above 0'
        else:
            total, used = total + one, used + 1
    if not used:
        raise DataError('no image has a map: '
                        + '; '.join(f'{name}: {why}' for name, why in left_out.items()))
    return ReceptiveField(total / used, grid, used, left_out)


def square_sides(values: np.ndarray, shares: Sequence[float] = SHARES) -> List[Optional[int]]:
    """Return the side of the smallest square around the centre that holds each share of a map.

    Args:
        values: (H, W), not negative.
        shares: Shares of the map's sum; a square holds one if it has more.

    Returns:
        Odd sides 2 i + 1 of the squares of rows H // 2 - i .. H // 2 + i, columns alike, that lie
        in the map; None if no square holds so much.
    """
    H, W = values.shape
    rows, columns = np.ogrid[:H, :W]
    ring = np.maximum(abs(rows - H // 2), abs(columns - W // 2))
    sums = np.bincount(ring.ravel(), weights=values.ravel()).cumsum()
    held = sums[:max(min(H, W) // 2, 1)] / sums[-1]
    return [2 * int(np.argmax(held > share)) + 1 if (held > share).any() else None
            for share in shares]


def cross_share(values: np.ndarray, grid: Tuple[int, int]) -> float:
    """Return the share of a map in the rows and columns of pixels that hold the centre's cell.

    Args:
        values: (H, W), not negative.
        grid: Height and width of the feature map.
    """
    spans = []
    for side, cells in zip(values.shape, grid):
        start = side * (cells // 2) // cells
        spans.append(slice(start, max(side * (cells // 2 + 1) // cells, start + 1)))
    inside = np.zeros(values.shape, bool)
    inside[spans[0]] = inside[:, spans[1]] = True
    return float(values[inside].sum() / values.sum())


def coverage(values: np.ndarray) -> float:
    """Return the share of the pixels whose value is above a hundredth of the largest."""
    return float((values > COVERED * values.max()).mean())


def numbers(receptive_field: ReceptiveField) -> dict:
    """Return a map's numbers.

    Returns:
        ``sides`` and ``areas`` (side^2 / (H W)) by display and share; ``cross`` and, for a uniform
        map, ``cross_uniform``; ``coverage``. None stands for a share that is not reached.
    """
    values, grid = receptive_field.map, receptive_field.grid
    sides = {display: dict(zip(map(str, SHARES), square_sides(shown(values))))
             for display, shown in DISPLAYS.items()}
    areas = {display: {share: side and side**2 / values.size for share, side in by_share.items()}
             for display, by_share in sides.items()}
    return dict(sides=sides, areas=areas, cross=cross_share(values, grid),
                cross_uniform=cross_share(np.ones(values.shape), grid), coverage=coverage(values))


class _Reached(Exception):
    """Ends a forward pass at the layer whose map is wanted."""


def feature_reader(model: nn.Module, feature: Feature) -> Callable[[Tensor], Tensor]:
    """Return a function from images to a feature map; the pass ends where the map is.

    Args:
        model: A backbone, or a host's whole model.
        feature: Where the map is read; of a layer that is called more than once, the first call.

    Returns:
        (N, 3, H, W) -> (N, C, h, w). It raises ConfigError if what it reads is no map.
    """
    whole = TensorMode(model) if hasattr(model, 'backbone') else model
    if not feature.layer:
        return lambda x: as_map(_last(whole(x)), feature, model)
    module = model.get_submodule(feature.layer)

    def read(x: Tensor) -> Tensor:
        found = []

        def keep(value) -> None:
            found.append(value)
            raise _Reached

        hook = (module.register_forward_pre_hook(lambda _module, inputs: keep(inputs[0]))
                if feature.side == 'input' else
                module.register_forward_hook(lambda _module, _inputs, output: keep(output)))
        try:
            whole(x)
        except _Reached:
            return as_map(found[0], feature, model)
        finally:
            hook.remove()
        raise ConfigError(f'--layer: {feature.layer} is not called in a forward pass of '
                          f'{type(model).__name__}; name another layer')

    return read


def _last(outputs) -> Tensor:
    return outputs[-1] if isinstance(outputs, (list, tuple)) else outputs


def as_map(value, feature: Feature, model: nn.Module) -> Tensor:
    """Bring what a layer gives into (N, C, h, w).

    Raises:
        ConfigError: It is not one tensor of a map, or not of the layout.
    """
    where = f'--layer: the {feature.side} of {feature.layer or type(model).__name__}'
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value, = value
    if not isinstance(value, Tensor):
        raise ConfigError(f'{where} is a {type(value).__name__}, expected one tensor; name a layer '
                          'that gives one')
    shape = tuple(value.shape)
    if value.dim() == 4 and feature.layout in ('nchw', 'nhwc'):
        return value if feature.layout == 'nchw' else value.permute(0, 3, 1, 2)
    if value.dim() == 3 and feature.layout in ('tokens', ''):
        return _grid_of_tokens(value, where, model)
    fits = ('--layout nchw or --layout nhwc' if value.dim() == 4 else '--layout tokens'
            if value.dim() == 3 else 'a layer that gives a map')
    raise ConfigError(f'{where} has the shape {shape}'
                      + f' and the layout {feature.layout}' * bool(feature.layout)
                      + f'; expected {fits}')


def _grid_of_tokens(tokens: Tensor, where: str, model: nn.Module) -> Tensor:
    backbone = getattr(model, 'backbone', model)
    # a class token comes first
    extra = getattr(getattr(backbone, 'timm_model', None), 'num_prefix_tokens',
                    getattr(backbone, 'num_extra_tokens', 0))
    side = math.isqrt(tokens.shape[1] - extra)
    if side**2 != tokens.shape[1] - extra:
        raise ConfigError(f'{where} has {counted(tokens.shape[1], "token")}, {extra} of them '
                          'no part of the grid; the rest fills no square')
    return tokens[:, extra:].mT.unflatten(2, (side, side))


def find_feature(named: NamedModel, settings: Settings) -> Tuple[nn.Module, Feature]:
    """Return the module to run, and where in it the feature map is read.

    Raises:
        ConfigError: There is no such layer; those with a similar name are listed.
    """
    if settings.layer is None:
        return named.backbone, last_feature(named.backbone, settings.final_norm)
    modules = dict(named.model.named_modules())
    if not settings.layer or settings.layer not in modules:
        close = similar(settings.layer, filter(None, modules), cutoff=0.3)
        raise ConfigError(f'--layer: {named.name.label} has no {settings.layer!r}; similar: '
                          f'{", ".join(close)}')
    inside = settings.layer
    if named.model is not named.backbone and inside.startswith('backbone.'):
        inside = inside.partition('.')[2]
        model = named.backbone
    else:
        model = named.model
    ours = isinstance(model, BaseBackbone) and _gives_rows(inside)
    return model, Feature(inside, 'output', 'nhwc' if ours else settings.layout or '')


def _gives_rows(layer: str) -> bool:
    """Tell if a layer of our backbones gives (N, H, W, C), as all do but those inside a stem."""
    top, _, inside = layer.partition('.')
    return top == 'stages' or top.startswith('norm') or not inside or (
        top == 'downsamples' and '.' not in inside)


def measure(models: Sequence[ModelName], files: Sequence[Path], settings: Settings, *,
            before: bool = False, failures: Optional[Dict[Path, str]] = None,
            done: Sequence[Row] = (),
            each: Callable[[List[Row]], None] = lambda rows: None) -> List[Row]:
    """Measure the receptive fields of some models on the same photographs.

    Args:
        models: The models; each label stands there once.
        files: The photographs.
        settings: What is measured.
        before: Measure each model that has a checkpoint without it as well.
        failures: Gets the photographs that cannot be read, with the reason.
        done: Rows of an earlier run with these settings, which are not measured again.
        each: Is given the rows so far after each of them.

    Returns:
        A row for each model, behind that of its state before.

    Raises:
        ConfigError: A setting or a model does not fit; before anything is measured.
        CheckpointError: A checkpoint cannot be read, or is another model's.
        DataError: No photograph can be read, or a model has no map of any.
    """
    failures = {} if failures is None else failures
    check_settings(settings)
    check_models(models, settings.size)
    runs = _runs(models, before)
    pictures = _read(files, settings, failures)
    for name in models:  # weights, layers and shapes are wrong before a minute is spent
        probe(name, settings)
    known = {(row.model, row.state): row for row in done}
    rows: List[Row] = []
    with Progress() as progress:
        task = progress.add_task('receptive fields', total=len(runs) * len(pictures))
        for run in runs:
            progress.update(task, description=run[0].label)
            rows.append(known.get(run) or _measure_one(
                *run, pictures, settings, lambda: progress.advance(task)))
            progress.update(task, completed=len(rows) * len(pictures))
            each(rows)
    return rows


def _measure_one(name: ModelName, state: str, pictures: Sequence[Tuple[Path, np.ndarray]],
                 settings: Settings, advance: Callable[[], None]) -> Row:
    named = _build(name, settings, fresh=state != 'trained')
    net = feature_reader(*find_feature(named, settings))

    def images() -> Iterator[Tuple[str, Tensor]]:
        for file, picture in pictures:
            yield str(file), normalized(picture, named.normalization).to(settings.device)
            advance()

    try:
        measured = mean_map(net, images(), settings.gradient)
    except DataError as error:
        raise DataError(f'{name.label} ({state}): {error}') from error
    # as it is written, so that a run that goes on from the file has the same numbers
    measured.map = measured.map.astype(np.float32).astype(np.float64)
    return Row(name, state, measured)


def check_settings(settings: Settings) -> None:
    """Raise ConfigError for a setting that does not fit."""
    check_size(settings.size, settings.resize)
    for option, value, known in (('gradient', settings.gradient, GRADIENTS),
                                 ('final-norm', settings.final_norm, FINAL_NORMS),
                                 ('layout', settings.layout, (None, *LAYOUTS))):
        if value not in known:
            raise ConfigError(f'--{option}: got {value!r}, expected '
                              f'{" or ".join(filter(None, known))}')
    if settings.layout and not settings.layer:
        raise ConfigError('--layout: goes with --layer only; of the last feature it is known')


def _runs(models: Sequence[ModelName], before: bool) -> List[Tuple[ModelName, str]]:
    trained = [name for name in models if name.checkpoint]
    if before and not trained:
        raise ConfigError('--before: no model has a checkpoint; name one as MODEL@CHECKPOINT')
    return [(name, state) for name in models
            for state in (['before'] * before + ['trained'] if name.checkpoint else ['fresh'])]


def _read(files: Sequence[Path], settings: Settings,
          failures: Dict[Path, str]) -> List[Tuple[Path, np.ndarray]]:
    pictures = list(each_picture(files, settings.size, settings.resize, failures))
    if not pictures:
        raise DataError('--images: none can be read: '
                        + '; '.join(f'{file}: {why}' for file, why in failures.items()))
    small = sum(picture.enlarged for _, picture in pictures)
    if small:
        print(numbered(f'{{}} of {counted(len(pictures), "photograph")} [is|are] smaller '
                       f'than {settings.size} pixels and [is|are] enlarged', small))
    return [(file, picture.image) for file, picture in pictures]


def probe(name: ModelName, settings: Settings) -> None:
    """Build a model and run it once, without a gradient.

    Raises:
        ConfigError: The layer is missing or gives no map, or another's model does not take the
            size.
        CheckpointError: The checkpoint is another model's.
    """
    named = _build(name, settings, fresh=False)
    reader = feature_reader(*find_feature(named, settings))
    try:
        with torch.no_grad():
            reader(torch.zeros(1, 3, settings.size, settings.size, device=settings.device))
    except ConfigError:
        raise
    except Exception as error:  # each model checks its input in its own way
        if isinstance(named.backbone, BaseBackbone):
            raise
        first = (str(error).strip() or 'no message').splitlines()[0]
        raise ConfigError(f'{name.label}: does not run on {settings.size} x {settings.size} pixels '
                          f'({type(error).__name__}: {first})') from error


def _build(name: ModelName, settings: Settings, fresh: bool) -> NamedModel:
    named = build_named(name, size=settings.size, seed=settings.seed, fresh=fresh)
    named.model.to(settings.device).requires_grad_(False)
    return named
