"""From a folder of data to a recipe: look, say what was found, write."""
import itertools
import json
import os
import shlex
import shutil
import textwrap
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config

from mmvssd.cli.command_line import show
from mmvssd.cli.launch import check_output_file, check_seed
from mmvssd.compat.devices import accelerator
from mmvssd.datasets.formats import FORMATS, MARK, SEGMENTATION, TRAIN, VAL
from mmvssd.engine.checkpoints.work_dir import checkpoints_of
from mmvssd.engine.data.names import doubled
from mmvssd.errors import ConfigError, printable
from mmvssd.files import NO_ROOM
from mmvssd.new_recipe.bands import Bands
from mmvssd.new_recipe.conversion import convert
from mmvssd.new_recipe.models import Arch, archs, find_arch, find_checkpoint, unknown_arch
from mmvssd.new_recipe.schedule import Schedule, choose
from mmvssd.new_recipe.survey import LISTED, TASKS, Survey, survey
from mmvssd.new_recipe.text import recipe_text
from mmvssd.paths import real_path
from mmvssd.phrases import counted, emptiness, numbered, quoted, some

#: What a first try without a GPU takes: the smallest backbone, and a few epochs.
FIRST_ARCH, FIRST_EPOCHS = 'vssd-nano', 5
#: Archs that are small enough for it.
NANOS = (FIRST_ARCH, 'vmamba-nano')


def new_recipe(data: str, out: str, *, arch: str = 'vssd-tiny', task: Optional[str] = None,
               form: Optional[str] = None, val: Optional[str] = None, val_fraction: float = 0.2,
               seed: int = 0, classes: Optional[Sequence[str]] = None,
               ignore_zero: Optional[bool] = None, checkpoint: Optional[str] = None,
               epochs: Optional[int] = None, batch_size: Optional[int] = None,
               overwrite: bool = False) -> Path:
    """Look at data, say what they are, and write a recipe that trains on them.

    What the recipe's host cannot read as it lies is written anew into a folder beside the recipe,
    ``<recipe>_data``. Nothing of the data is changed.

    Args:
        data: A folder of data, or an annotation file.
        out: The recipe to write, a ``.py``.
        arch: The backbone, such as 'vssd-tiny'.
        task: 'det', 'seg' or 'cls'; None takes what the data tell.
        form: One of :data:`mmvssd.datasets.formats.FORMATS`; None finds it out.
        val: Data for validation, in the same format; None takes those of ``data``, or sets some
            images aside.
        val_fraction: Share of the images that are set aside.
        seed: Of that choice.
        classes: Names of the classes, by index, for data that do not name them.
        ignore_zero: Whether 0 of a label map is not labelled; None finds it out.
        checkpoint: A converted checkpoint of the backbone; None takes the arch's usual one if it
            is there.
        epochs: Passes over the images; None chooses.
        batch_size: Images of a step on one device; None chooses.
        overwrite: Whether to replace a recipe that is there.

    Returns:
        The recipe, absolute.

    Raises:
        ConfigError: An option does not fit, or the recipe cannot be written.
        DataError: The data have faults, which are all listed.
        CheckpointError: The checkpoint is not that of the backbone.
    """
    _check_options(data, out, arch, val_fraction, seed, epochs, batch_size)
    if classes is not None and (doubled(classes) or not all(map(str.strip, classes))):
        raise ConfigError(f'--classes: got {" ".join(map(repr, classes))}, expected names that '
                          'differ, none of them empty')
    recipe = Path(os.path.abspath(out))
    folder = recipe.with_name(f'{recipe.stem}_data')
    _check_output(recipe, folder, [data, *([val] if val is not None else [])], overwrite)
    found = survey(data, task=task, form=form, val=val, classes=classes, ignore_zero=ignore_zero,
                   fraction=val_fraction, seed=seed)
    if found.data.task == SEGMENTATION and batch_size == 1:
        raise ConfigError('--batch-size: got 1; segmentation takes at least 2, over which a layer '
                          'of the head normalizes')
    model = find_arch(arch, found.data.task)
    weights = find_checkpoint(model, checkpoint)
    schedule = choose(found.data.task, len(found.data.parts[TRAIN].items),
                      pretrained=weights is not None, rate=model.rate,
                      rate_batch=model.batch, epochs=epochs, batch=batch_size)
    _say([*_report(found, model, schedule, weights), *_without_gpu(arch, schedule)])
    try:
        written = _write(recipe, folder, found, model, schedule, weights, data)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise ConfigError(f'--out: {recipe} and {folder.name} cannot be written '
                              f'({error.strerror}); make room, or name another folder') from error
        raise
    for line in (f'Written: {recipe}', *([f'Converted data: {folder}'] if written else []),
                 f'Train with: {_training(out)}'):
        show(printable(line))  # on one line each, to be copied
    return recipe


def _training(out: str) -> str:
    """Return the command that trains; one beside a former training that took the same place."""
    command = ['python', 'tools/train.py', out]
    usual = Path('work_dirs') / Path(out).stem
    if checkpoints_of(str(usual), best=True):
        names = (f'{usual}_{number}' for number in itertools.count(2))
        command += ['--work-dir', next(name for name in names if not os.path.lexists(name))]
    return shlex.join(command)


def _check_options(data: str, out: str, arch: str, fraction: float, seed: int,
                   epochs: Optional[int], batch_size: Optional[int]) -> None:
    for name, text in (('DATA', data), ('--out', out)):
        if emptiness(text):
            raise ConfigError(f'{name}: {emptiness(text)}')
    if Path(out).suffix != '.py':
        raise ConfigError(f'--out: got {out}, expected a name that ends with .py')
    if arch not in archs():
        raise ConfigError(unknown_arch(arch))
    if not 0 < fraction < 1:
        raise ConfigError(f'--val-fraction: got {fraction}, expected a share between 0 and 1')
    check_seed(seed)
    for name, value in (('--epochs', epochs), ('--batch-size', batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f'{name}: got {value}, expected a whole number from 1 on')


def _check_output(recipe: Path, folder: Path, data: Sequence[str], overwrite: bool) -> None:
    if os.path.lexists(recipe) and not overwrite:
        raise ConfigError(f'--out: {recipe} is there already; name another file, or replace it '
                          'with --overwrite')
    for path in data:
        if real_path(folder) in (real_path(path), *real_path(path).parents):
            raise ConfigError(f'--out: converted data would replace {path}; name another file')
    if os.path.lexists(folder):
        if not (folder / MARK).is_file() or folder.is_symlink():
            raise ConfigError(f'--out: {folder}, into which data would be converted, is there '
                              'already and not made by this command; name another recipe')
        if not overwrite:
            raise ConfigError(f'--out: {folder} holds converted data of {_owner(folder)}, which '
                              'recipes that were renamed may still read; name another file, or '
                              'replace them with --overwrite')
    check_output_file(str(recipe), '--out')


def _owner(folder: Path) -> str:
    """Return the name of the recipe that converted data were made for."""
    try:
        return str(json.loads((folder / MARK).read_bytes())['recipe'])
    except (OSError, ValueError, KeyError, TypeError):
        return 'another recipe'


def _report(found: Survey, arch: Arch, schedule: Schedule, weights: Optional[Path]) -> List[str]:
    """Return what was found and what is made of it, each a line."""
    data, form = found.data, FORMATS[found.format]
    files = f' ({some([os.path.relpath(f, found.root) for f in found.found.files])})'
    kind = TASKS[data.task]
    if data.task == 'det':
        with_mask, objects = found.masked
        kind += ' with masks' if found.masks else ', boxes only' + (
            numbered(f', since only {{}} of {counted(objects, "object")} [has a mask|have masks]',
                     with_mask) if with_mask else '')
    sizes = sorted(found.sizes, key=lambda size: size[0] * size[1])
    short, long = found.median_size
    parts = ', '.join(f'{len(part.items)} {name}' for name, part in data.parts.items())
    lines = [f'Format: {form.title}, {found.found.sureness}: {found.found.reason}'
             + files * bool(found.found.files),
             f'Task: {kind}',
             f'Images: {parts}; validation {found.split}',
             f'Sizes: {_range(sizes)}; median sides {short} and {long}',
             *_band_lines(found.bands),
             _class_line(found)]
    background = sum(not item.classes for item in data.parts[TRAIN].items)
    if data.task == 'det' and background:
        lines.append(numbered('Background: {} image[s] of training [has|have] no object, and '
                              '[is|are] trained on as such', background))
    lines += [f'Note: {note}' for note in data.notes]
    lines += [f'Doubtful: {doubt}' for doubt in found.doubts]
    start = f'from {weights}' if weights else (
        f'from random weights, since {arch.checkpoint} is missing; a converted checkpoint, named '
        'with --checkpoint, scores far better')
    lines.append(f'Training: {arch.name} {start}; {counted(schedule.epochs, "epoch")} of '
                 f'{counted(schedule.steps_per_epoch, "step")}, {counted(schedule.batch, "image")} '
                 f'each, learning rate {schedule.rate:g}')
    return lines


def _without_gpu(arch: str, schedule: Schedule) -> List[str]:
    """Return what makes a first try short on a machine without an accelerator."""
    options = ['--arch', FIRST_ARCH] * (arch not in NANOS)
    options += ['--epochs', str(FIRST_EPOCHS)] * (schedule.epochs > FIRST_EPOCHS)
    if accelerator() or not options:
        return []
    return [f'No GPU here, where this takes long. For a first try: {" ".join(options)} --overwrite']


def _range(sizes: Sequence[Tuple[int, int]]) -> str:
    first, last = (f'{width} x {height}' for width, height in (sizes[0], sizes[-1]))
    return f'all {first} pixels' if len(set(sizes)) == 1 else f'{first} to {last} pixels'


def _band_lines(bands: Optional[Bands]) -> List[str]:
    if bands is None:
        return []
    told = (f' Bands {some(bands.left_out)} have one value throughout and are left out.'
            if bands.left_out else '')
    told += (f' Values that stand for no data: {some(list(map(str, bands.nodata)))}.'
             if bands.nodata else '')
    return [f'Bands: {bands.kind.bands} of {bands.kind.dtype}, no photographs: mmvssd.LoadBands '
            f'reads them, with mean and std of {bands.images} images of training.{told}']


def _class_line(found: Survey) -> str:
    names = found.data.classes
    trained, validated = found.counts(TRAIN), found.counts(VAL)
    entries = [f'{quoted(name)} {trained[index]} + {validated[index]}'
               for index, name in enumerate(names) if trained[index] or validated[index]]
    counted = 'objects' if found.data.task == 'det' else 'images'
    more = f', and {len(entries) - LISTED} more' if len(entries) > LISTED else ''
    absent = len(names) - len(entries)
    more += numbered('; {} never [occurs|occur]', absent) if absent else ''
    return (f'Classes: {len(names)} ({counted} in training + validation): '
            f'{", ".join(entries[:LISTED])}{more}')


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        show(textwrap.fill(printable(line), 100, subsequent_indent='    ', break_long_words=False,
                           break_on_hyphens=False))


def _write(recipe: Path, folder: Path, found: Survey, arch: Arch, schedule: Schedule,
           weights: Optional[Path], origin: str) -> bool:
    """Write the recipe and what it needs, both or none; tell whether data were converted."""
    with _beside(folder) as stage, _beside(folder) as former, _beside(recipe) as partial:
        stage.mkdir()
        settings = convert(found, stage, folder)
        partial.write_bytes(recipe_text(found, arch, schedule, weights, settings, recipe,
                                        origin).encode())
        Config.fromfile(partial)  # it is a config
        converted = any(stage.iterdir())
        if converted:
            (stage / MARK).write_text(json.dumps(dict(recipe=recipe.name, data=str(found.root))))
        if folder.exists():  # of a former recipe; it is removed last
            os.replace(folder, former)
        try:
            if converted:
                os.replace(stage, folder)
            os.replace(partial, recipe)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if former.exists():
                os.replace(former, folder)
            raise
    return converted


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give out a temporary name beside a path; what is still there in the end is removed."""
    partial = path.with_name(f'{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}')
    try:
        yield partial
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


