"""Cost of classifiers at rising resolution: multiply-adds, memory, speed and accuracy.

It is the comparison of VMamba's Table 4 and Fig. 11 (arXiv 2401.10166) and of Table 1 in VSSD's
appendix. With one size it is VMamba's Table 1.
"""
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from rich.progress import Progress, TaskID
from torch import nn

from mmvssd.analysis.complexity import count_model
from mmvssd.analysis.named_models import (
    PEERS,
    ModelName,
    build_classifier,
    check_models,
    classifier_config,
    classifier_recipe,
)
from mmvssd.analysis.published_speed import (
    AMP,
    Speed,
    measure_or_halve,
    out_of_memory,
    random_batch,
)
from mmvssd.analysis.throughput import MODES
from mmvssd.errors import ConfigError

MODELS = ('resnet-50', 'convnext-tiny', 'deit-small', 'swin-tiny', 'vmamba-tiny-s2l5',
          'vssd-tiny-iccv2025')
SIZES = ('224', '384', '512', '640', '768', '1024')

FAILED = 'failed'  # what a table shows of an error that is not of memory

Shape = Tuple[int, int]


class Settings(NamedTuple):
    """How models are measured, the same for all.

    Attributes:
        shapes: Heights and widths of the images.
        batches: Images of a step, for each shape.
        modes: Any of 'infer' and 'train'; none leaves speed and memory unmeasured.
        warmup: Steps before those that count.
        steps: Steps that count.
        train_amp: Type of autocast in training; None trains in float32.
        count: Count multiply-adds.
        halve: Halve a batch that does not fit into memory, until it does.
        seed: Of random weights and of images.
        device: A device of PyTorch.
    """

    shapes: Tuple[Shape, ...]
    batches: Tuple[int, ...]
    modes: Tuple[str, ...] = MODES
    warmup: int = 50
    steps: int = 30
    train_amp: Optional[str] = 'float16'
    count: bool = True  # type: ignore[assignment]  # it hides that of tuples
    halve: bool = False
    seed: int = 0
    device: str = 'cuda'


class Count(NamedTuple):
    """Parameters, and multiply-adds of one image in full and in the published convention."""

    params: int
    full: int
    published: int


class Missing(NamedTuple):
    """Say why there is no value.

    Attributes:
        reason: In words.
        text: What a table shows.
        final: Going on from the row does not try again.
    """

    reason: str
    text: str = '-'
    final: bool = True


@dataclass
class Row:
    """A model at a size.

    Attributes:
        model: The model's name.
        shape: Height and width of the images.
        batch: Images of a step as asked for.
        count: Parameters and multiply-adds, or why there are none; None if not asked for.
        speeds: By mode what was measured, or why nothing.
        top1: Accuracy in percent, or why there is none; None if not asked for.
    """

    model: ModelName
    shape: Shape
    batch: int
    count: Union[Count, Missing, None] = None
    speeds: Dict[str, Union[Speed, Missing]] = field(default_factory=dict)
    top1: Union[float, Missing, None] = None

    @property
    def size(self) -> str:
        """Side of a square, else height x width."""
        return size_text(self.shape)


Score = Callable[[ModelName, Shape], Union[float, Missing]]


def parse_size(text: str) -> Shape:
    """Read ``224`` or ``800x1280``, height x width.

    Raises:
        ConfigError: It is neither.
    """
    sides = text.split('x')
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side)
                                 for side in sides):
        raise ConfigError(f'--sizes: got {text!r}, expected a positive number of pixels such as '
                          '224, or HEIGHTxWIDTH such as 800x1280')
    return int(sides[0]), int(sides[-1])


def size_text(shape: Shape) -> str:
    """Write a shape as :func:`parse_size` reads it."""
    return 'x'.join(map(str, dict.fromkeys(shape)))


def spread_batches(batches: Sequence[int], shapes: Sequence[Shape]) -> Tuple[int, ...]:
    """Give each size its batch; one number is for all.

    Raises:
        ConfigError: Their numbers differ, or one is not positive.
    """
    if len(batches) not in (1, len(shapes)) or min(batches) < 1:
        raise ConfigError(f'--batch: got {" ".join(map(str, batches))}, expected a positive number '
                          f'for all sizes, or one for each of the {len(shapes)}')
    return tuple(batches) * (len(shapes) // len(batches))


def check(names: Sequence[ModelName], settings: Settings) -> None:
    """Raise unless all can be measured as asked for, before work starts.

    Raises:
        ConfigError: A setting or a model does not fit.
        CheckpointError: A checkpoint cannot be read, or is another model's.
    """
    twice = [f'{height}x{width}' for height, width in set(settings.shapes)
             if settings.shapes.count((height, width)) > 1]
    if twice:
        raise ConfigError(f'--sizes: {", ".join(twice)} stands there more than once')
    spread_batches(settings.batches, settings.shapes)
    for option, number, least in (('--warmup', settings.warmup, 0), ('--steps', settings.steps, 1)):
        if number < least:
            raise ConfigError(f'{option}: got {number}, expected {least} or more')
    if settings.train_amp not in (None, *AMP) or set(settings.modes) - set(MODES):
        raise ConfigError(f'got modes {", ".join(settings.modes)} and autocast to '
                          f'{settings.train_amp}; expected of {", ".join(MODES)}; {", ".join(AMP)} '
                          'or None')
    check_models(names)
    for name in names:
        if name.is_recipe:
            classifier_recipe(name)
        elif name.name in PEERS:
            for shape in settings.shapes:
                check_peer(name.name, shape)
    for name in filter(lambda name: name.checkpoint or name.is_recipe, names):
        # what cannot be built is found before an hour is spent; HiViT's weights differ by size
        for shape in settings.shapes[:None if name.name == 'hivit-tiny' else 1]:
            _build(name, shape, settings)


def check_peer(name: str, shape: Shape) -> None:
    """Raise ConfigError unless a peer takes images of a shape."""
    for side in set(shape):
        classifier_config(name, side, swin_window(name, shape))
    if name == 'hivit-tiny' and len(set(shape)) > 1:
        raise ConfigError(f'--sizes: got {size_text(shape)}, and {name} takes squares')


def swin_window(name: str, shape: Shape) -> int:
    """Return the side of Swin's windows in tokens: a 32nd of a square's, as published, else 7.

    Raises:
        ConfigError: The model is Swin, and a square's side is no multiple of 32.
    """
    height, width = shape
    if height != width:
        return 7
    if name == 'swin-tiny' and height % 32:
        raise ConfigError(f'--sizes: got {height}, and {name} takes multiples of 32: its windows '
                          "are a 32nd of the image's side")
    return max(height // 32, 1)


def _say(progress: Progress, task: TaskID, row: Row, what: str) -> None:
    progress.update(task, description=f'{row.model.label} {row.size} {what}')


def measure(names: Sequence[ModelName], settings: Settings, *, done: Sequence[Row] = (),
            score: Optional[Score] = None,
            each: Callable[[List[Row]], None] = lambda rows: None) -> List[Row]:
    """Count and time classifiers at each size.

    A failure of a model at a size is noted in its row, and the others go on.

    Args:
        names: The models; each label stands there once.
        settings: How.
        done: Rows of an earlier run; what they have is not measured again. A count holds for any
            batch.
        score: Measures the accuracy of a model at a size; None leaves it out.
        each: Is given the rows so far after each of them.

    Returns:
        A row for each model and size, and behind them the others of ``done``.

    Raises:
        ConfigError: A setting or a model does not fit; before anything is measured.
        CheckpointError: A checkpoint cannot be read, or is another model's.
    """
    check(names, settings)
    batches = spread_batches(settings.batches, settings.shapes)
    asked = [Row(name, shape, batch) for name in names
             for shape, batch in zip(settings.shapes, batches)]
    counts = {(row.model, row.shape): row.count for row in done if row.count}
    for row in asked:
        row.count = counts.pop((row.model, row.shape), None)
        same = next((other for other in done if _key(other) == _key(row)), row)
        row.speeds, row.top1 = same.speeds, same.top1
    others = [row for row in done if _key(row) not in map(_key, asked)
              and (row.speeds or row.top1 is not None or (row.model, row.shape) in counts)]
    with Progress() as progress:
        task = progress.add_task('scaling', total=len(asked))
        for number, row in enumerate(asked, 1):
            _fill(row, settings, score, partial(_say, progress, task, row))
            progress.advance(task)
            each(asked[:number] + others)
    return asked + others


def _key(row: Row) -> Tuple[ModelName, Shape, int]:
    return row.model, row.shape, row.batch


def _fill(row: Row, settings: Settings, score: Optional[Score],
          tell: Callable[[str], None]) -> None:
    """Measure what a row lacks."""
    modes = [mode for mode in settings.modes if _lacks(row.speeds.get(mode))]
    count = settings.count and _lacks(row.count)
    if count or modes:
        model = _build(row.model, row.shape, settings)
        if count:
            tell('counting')
            row.count = _count(model, row.shape)
        for mode in modes:
            tell(mode)
            row.speeds[mode] = _time(model, row, mode, settings)
    if score and _lacks(row.top1):
        tell('top-1')
        try:
            row.top1 = score(row.model, row.shape)
        except ConfigError:
            raise  # what the user can mend holds for every row
        except Exception as error:  # of a model, a data set or the memory
            row.top1 = _failure(error)


def _build(name: ModelName, shape: Shape, settings: Settings) -> nn.Module:
    return build_classifier(name, size=shape[0], seed=settings.seed,
                            swin_window=swin_window(name.name, shape))


def _lacks(value) -> bool:
    return value is None or (isinstance(value, Missing) and not value.final)


def _count(model: nn.Module, shape: Shape) -> Union[Count, Missing]:
    try:
        counted = count_model(model, shape)
    except Exception as error:  # each model fails in its own way
        return _failure(error)
    return Count(counted.params, counted.full, counted.published)


def _time(model: nn.Module, row: Row, mode: str,
          settings: Settings) -> Union[Speed, Missing]:
    draw = partial(random_batch, shape=row.shape, classes=model.num_classes, seed=settings.seed,
                   device=settings.device)
    try:
        model.to(settings.device)
        speed = measure_or_halve(model, draw, row.batch, mode, halve=settings.halve,
                                 warmup=settings.warmup, steps=settings.steps,
                                 amp=settings.train_amp)
    except Exception as error:  # each model fails in its own way
        return _failure(error)
    return speed or Missing('out of memory' + ', also with one image' * settings.halve, 'OOM')


def _failure(error: Exception) -> Missing:
    if out_of_memory(error):
        return Missing('out of memory', 'OOM')
    first = (str(error).strip() or 'no message').splitlines()[0]
    return Missing(f'{type(error).__name__}: {first}', FAILED, final=False)


def failures(rows: Sequence[Row]) -> List[str]:
    """Return a line for each value that failed for another reason than memory."""
    return [f'{row.model.label} at {row.size}, {what}: {value.reason}' for row in rows
            for what, value in _values(row)
            if isinstance(value, Missing) and value.text == FAILED]


def measured_nowhere(rows: Sequence[Row]) -> List[str]:
    """Return a line for each quantity that was tried and that no model has at any size.

    Memory that does not suffice for a large size is a result, a column of nothing else is none.
    Why there is no top-1 beside other results, ``notes`` says.
    """
    values: Dict[str, list] = {}
    for row in rows:
        for what, value in _values(row):
            if value is not None:
                values.setdefault(what, []).append(value)
    if len(values) > 1:
        values.pop('top-1', None)
    return [f'{what}: {found[0].reason}' for what, found in values.items()
            if all(isinstance(value, Missing) for value in found)]


def _values(row: Row) -> List[tuple]:
    return [('count', row.count), *row.speeds.items(), ('top-1', row.top1)]
