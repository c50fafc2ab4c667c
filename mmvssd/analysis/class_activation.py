"""Grad-CAM: the places of a photograph that speak for a class (arXiv 1610.02391).

With the activations A (C, h, w) of a stage, and the class's score y before softmax,

    w_c = mean over the grid of dy / dA_c        map = relu(sum_c w_c A_c)        (h, w)
"""
import io
import json
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from mmvssd.analysis import map_figures, result_files
from mmvssd.analysis.activation_maps import folder_names
from mmvssd.analysis.named_models import (
    IMAGENET,
    ModelName,
    Normalization,
    build_classifier,
    normalization_of,
    recipe_of,
)
from mmvssd.analysis.op_maps import scaled
from mmvssd.analysis.photographs import Picture, check_size, each_picture, normalized
from mmvssd.checkpoint import read_checkpoint
from mmvssd.errors import ConfigError, NumericalFault
from mmvssd.files import strict_json
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.paths import real_path
from mmvssd.phrases import some, suggestion

FILE = 'class_activation.json'
CAPTION = ('Red: places whose features speak for the class. A map says what moves this one score, '
           'not why the class was chosen.')
FRESH = 'Random weights: no class has been learned, and the map shows none.'


class Settings(NamedTuple):
    """Which maps are drawn.

    Attributes:
        size: Side of the photographs in pixels.
        stage: Stage whose activations are taken, from 0; None takes the last that the backbone
            returns.
        category: Number of the class; None takes the one with the best score.
        seed: Of random weights.
        device: A device of PyTorch.
    """

    size: int = 224
    stage: Optional[int] = None
    category: Optional[int] = None
    seed: int = 0
    device: str = 'cpu'


class Activations(NamedTuple):
    """Where activations are read.

    Attributes:
        module: Module whose output they are.
        index: Which of several outputs.
        rows: They are (N, h, w, C), not (N, C, h, w).
        what: What errors, figures and files call them.
    """

    module: nn.Module
    index: int  # type: ignore[assignment]  # it hides that of tuples
    rows: bool
    what: str


class Subject(NamedTuple):
    """A classifier that is looked into.

    Attributes:
        name: What was asked for.
        model: A classifier of MMPreTrain in evaluation mode.
        activations: Where its activations are read.
        normalization: What it expects of a picture.
        classes: Names of its classes; empty if they are not known.
    """

    name: ModelName
    model: nn.Module
    activations: Activations
    normalization: Normalization
    classes: Sequence[str]

    def class_name(self, category: int) -> str:
        """Name a class; by its number if it has no other name."""
        known = len(self.classes) > category
        return f'{self.classes[category]} ({category})' if known else f'class {category}'


class ClassActivation(NamedTuple):
    """What a photograph gave.

    Attributes:
        map: (h, w) float32, not negative, on the CPU.
        category: The class that the map is of.
        predicted: The class with the best score.
        scores: Of all classes, after softmax.
    """

    map: Tensor
    category: int
    predicted: int
    scores: Tensor


def check_settings(settings: Settings) -> None:
    """Raise ConfigError, which names the option, if a setting does not fit any model."""
    check_size(settings.size)
    for option, number in (('--stage', settings.stage), ('--category', settings.category)):
        if number is not None and number < 0:
            raise ConfigError(f'{option}: got {number}, expected 0 or more')


def category_of(text: str, name: ModelName) -> int:
    """Return the number of a class that is given by its number, or by its name.

    Raises:
        ConfigError: The model's checkpoint knows no class of this name.
        CheckpointError: The checkpoint cannot be read.
    """
    try:
        return int(text)
    except ValueError:
        classes = list(map(str, _classes(name)))
    if text in classes:
        return classes.index(text)
    if not classes:
        raise ConfigError(f'--category: got {text!r}, and {name.label} has no names of classes; '
                          'give the number')
    raise ConfigError(f'--category: got {text!r}, and the classes of {name.label} '
                      f'are {some(classes)}{suggestion(text, classes)}')


def find_subject(name: ModelName, settings: Settings) -> Subject:
    """Build a classifier and find its activations; run it once to see that they are a map.

    Raises:
        ConfigError: There is no such model, class or stage; the model is no classifier, or does
            not take the size; or the stage has no map that the scores depend on.
        CheckpointError: The checkpoint cannot be read, or is another model's.
    """
    normalization = IMAGENET
    if name.is_recipe:
        cfg = recipe_of(name)
        if cfg.get('default_scope') != 'mmpretrain' or not cfg.model.get('head'):
            raise ConfigError(f'{name.name}: its {cfg.model.get("type")} gives no scores of '
                              'classes; give a recipe of a classifier, or look at this model '
                              'with activation_maps.py or receptive_field.py')
        normalization = normalization_of(cfg.model.get('data_preprocessor')
                                         or cfg.get('data_preprocessor'))
    model = build_classifier(name, size=settings.size, seed=settings.seed)
    model.to(settings.device).requires_grad_(False)
    subject = Subject(name, model, find_activations(model, name.label, settings.stage),
                      normalization, _classes(name))
    _probe(subject, settings)
    return subject


def _classes(name: ModelName) -> Sequence[str]:
    """Read the names of the classes that a training of this project's has put into its file."""
    content = read_checkpoint(name.checkpoint) if name.checkpoint else {}
    meta = content.get('meta')
    facts = meta.get('dataset_meta') if isinstance(meta, dict) else None
    classes = facts.get('classes') if isinstance(facts, dict) else None
    return classes if isinstance(classes, (list, tuple)) else ()


def find_activations(model: nn.Module, label: str, stage: Optional[int]) -> Activations:
    """Find the activations of a stage.

    The last stage that a backbone returns has the backbone's output. A stage of ours before it has
    the output of its last block, for no score depends on the norm behind that.

    Raises:
        ConfigError: The stage is not there, or a backbone of another project does not return it.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError(f'{label}: its {type(model).__name__} has no backbone whose stages could '
                          'be read; give a recipe of MMPreTrain')
    indices = getattr(backbone, 'out_indices', None)
    returned = list(indices) if isinstance(indices, (list, tuple, range)) else []
    if stage is None or (returned and stage == returned[-1]):
        where = f'stage {returned[-1]}' if returned else 'the last feature'
        return Activations(backbone, -1, False, where)
    if isinstance(backbone, BaseBackbone):
        blocks = backbone.stages
        if stage >= len(blocks) or not len(blocks[stage]):
            raise ConfigError(f'--stage: got {stage}, expected one of '
                              f'{[i for i, stage in enumerate(blocks) if len(stage)]}, the stages '
                              f'of {label} that have blocks')
        return Activations(blocks[stage][-1], 0, True, f'stage {stage}')
    if stage not in returned:
        raise ConfigError(f'--stage: got {stage}, and the {type(backbone).__name__} of {label} '
                          f'returns {returned or "its last feature only"}')
    return Activations(backbone, returned.index(stage), False, f'stage {stage}')


def _probe(subject: Subject, settings: Settings) -> None:
    try:
        explain(subject, torch.zeros(1, 3, settings.size, settings.size, device=settings.device),
                settings.category)
    except (ConfigError, NumericalFault):
        raise
    except Exception as error:  # each model checks its input in its own way
        first = (str(error).strip() or 'no message').splitlines()[0]
        raise ConfigError(f'{subject.name.label}: does not run on {settings.size} x '
                          f'{settings.size} pixels ({type(error).__name__}: {first})') from error


@torch.enable_grad()
def explain(subject: Subject, image: Tensor, category: Optional[int] = None) -> ClassActivation:
    """Compute the map of a class on an image.

    Args:
        subject: The classifier; its parameters need no gradient.
        image: (1, 3, H, W), normalized.
        category: Number of the class; None takes the one with the best score.

    Raises:
        ConfigError: There is no such class; the activations are no map; or the scores do not
            depend on them.
        NumericalFault: Scores or map are not finite.
    """
    found = []
    hook = subject.activations.module.register_forward_hook(
        lambda module, inputs, output: found.append(output))
    try:
        logits = _scores(subject.model(image.detach().requires_grad_(), mode='tensor'), subject)
    finally:
        hook.remove()
    if category is not None and category >= len(logits):
        raise ConfigError(f'--category: got {category}, expected 0 to {len(logits) - 1}, the '
                          f'classes of {subject.name.label}')
    predicted = int(logits.argmax())
    category = predicted if category is None else category
    values = grad_cam(_one_map(found, subject), logits[category], subject)
    if not (logits.isfinite().all() and values.isfinite().all()):
        raise NumericalFault(f'{subject.name.label}: its scores or their gradient are not finite')
    return ClassActivation(values.float().cpu(), category, predicted,
                           logits.detach().float().softmax(0).cpu())


def _scores(output, subject: Subject) -> Tensor:
    """Return the scores of one image, (classes,)."""
    while isinstance(output, (list, tuple)) and len(output) == 1:
        output, = output
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 1:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(f'{subject.name.label}: its head gives {shape}, expected scores '
                          '(1, classes); give a recipe of a classifier')
    return output[0]


def _one_map(found: Sequence, subject: Subject) -> Tensor:
    """Return the tensor that was recorded, (1, C, h, w) or (1, h, w, C)."""
    module, index, _, what = subject.activations
    if not found:
        raise ConfigError(f'--stage: {what} of {subject.name.label} is not run in a forward pass')
    value = found[0][index] if isinstance(found[0], (list, tuple)) else found[0]
    if not isinstance(value, Tensor) or value.dim() != 4:
        given = (f'the shape {tuple(value.shape)}' if isinstance(value, Tensor)
                 else f'the type {type(value).__name__}')
        raise ConfigError(f'--stage: the output of {subject.name.label} at {what} has {given}, '
                          'expected a map (N, C, h, w); take a model or a stage that has one')
    return value


def grad_cam(activations: Tensor, score: Tensor, subject: Subject) -> Tensor:
    """Weigh activations with the mean of their gradient, and keep what is positive.

    Args:
        activations: (1, C, h, w), or (1, h, w, C) if the subject says so.
        score: One number that depends on them.
        subject: What they are of.

    Returns:
        (h, w), not negative.

    Raises:
        ConfigError: The score does not depend on them.
    """
    slope = None
    if activations.requires_grad:
        slope, = torch.autograd.grad(score, activations, allow_unused=True)
    if slope is None:
        raise ConfigError(f'--stage: the scores of {subject.name.label} do not depend on the '
                          f'output of {subject.activations.what}; take a later stage')
    if subject.activations.rows:
        activations, slope = (each.permute(0, 3, 1, 2) for each in (activations, slope))
    weights = slope.mean((2, 3), keepdim=True)
    return (weights * activations).sum(1)[0].relu().detach()


def draw_all(subject: Subject, files: Sequence[Path], settings: Settings, folder: Path, *,
             protocol: dict, failures: Dict[Path, str],
             done: Sequence[dict] = ()) -> Iterator[dict]:
    """Draw the map of each photograph, and write all numbers to one JSON as they come.

    Args:
        subject: The classifier.
        files: The photographs.
        settings: Which maps.
        folder: Gets ``<name>.png``, ``<name>.npy`` (h, w) float32, and the JSON.
        protocol: What the JSON says of model and machine.
        failures: Gets an entry for each photograph that cannot be read.
        done: Entries of an earlier run, see :func:`read_rows`; these are not drawn again.

    Yields:
        The JSON's entry of each photograph, once its files are there.

    Raises:
        ConfigError: The folder cannot be written to, or a picture would replace a photograph.
        NumericalFault: A score or a gradient is not finite.
    """
    targets = {file: folder / f'{name}.png' for file, name in folder_names(files).items()}
    _check_targets(targets)
    known = {(entry['image'], entry['picture']): entry for entry in done}
    kept = {file: known[str(file), target.name] for file, target in targets.items()
            if (str(file), target.name) in known}
    rows = list(kept.values())
    yield from rows
    rest = [file for file in files if file not in kept]
    with Progress(transient=True) as progress:
        bar = progress.add_task('class activation', total=len(files), completed=len(rows))
        for file, picture in each_picture(rest, settings.size, 'crop', failures):
            image = normalized(picture.image, subject.normalization).to(settings.device)
            found = explain(subject, image, settings.category)
            target = targets[file]
            result_files.write(target, draw(subject, picture, found))
            result_files.write(target.with_suffix('.npy'), _npy(found.map))
            rows.append(_facts(subject, file, picture, found, target))
            result_files.write(folder / FILE, strict_json(
                dict(protocol, settings=settings._asdict(), images=rows), indent=1))
            progress.update(bar, completed=len(rows) + len(failures))
            yield rows[-1]


def read_rows(folder: Path, settings: Settings, protocol: dict) -> List[dict]:
    """Read the entries that :func:`draw_all` wrote by the same protocol and settings.

    Raises:
        ConfigError: What is there cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text())
        rows = [entry for entry in content.pop('images') if _is_there(folder, entry)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'--continue: {file} cannot be read ({type(error).__name__}: {error}); '
                          'start anew without it') from error
    if content != dict(protocol, settings=settings._asdict()):
        print(f'{file}: is of another model, checkpoint, setting, version or machine; all is drawn '
              'again')
        return []
    return rows


def _is_there(folder: Path, entry: dict) -> bool:
    picture = folder / entry['picture']
    return bool(entry['image']) and picture.is_file() and picture.with_suffix('.npy').is_file()


def _check_targets(targets: Dict[Path, Path]) -> None:
    photographs = {real_path(file) for file in targets}
    for target in targets.values():
        if real_path(target) in photographs:
            raise ConfigError(f'--out: {target} is one of the photographs, which its picture would '
                              'replace; name another folder')


def _npy(values: Tensor) -> bytes:
    content = io.BytesIO()
    np.save(content, values.numpy())
    return content.getvalue()


def _facts(subject: Subject, file: Path, picture: Picture, found: ClassActivation,
           target: Path) -> dict:
    return dict(image=str(file), picture=target.name, enlarged=picture.enlarged,
                category=found.category, category_name=subject.class_name(found.category),
                score=found.scores[found.category].item(), predicted=found.predicted,
                predicted_name=subject.class_name(found.predicted),
                predicted_score=found.scores[found.predicted].item(),
                activations=subject.activations.what, grid=list(found.map.shape),
                min=found.map.min().item(), max=found.map.max().item(),
                note=flatness(found))


def flatness(found: ClassActivation) -> str:
    """Say if a map has no shades: it is zero, or of one value; empty if it has."""
    if not found.map.any():
        return 'The map is zero everywhere: no place speaks for the class.'
    one = found.map.min() == found.map.max()
    return 'The map has one value everywhere: no place stands out.' if one else ''


def draw(subject: Subject, picture: Picture, found: ClassActivation) -> bytes:
    """Draw a photograph, its map and both together, 800 pixels wide; return a PNG."""
    figure, (left, middle, right) = map_figures.sheet(3)
    height, width = found.map.shape
    shown = scaled(found.map, 'minmax')
    map_figures.show(left, picture.image, 'image')
    drawn = middle.imshow(shown.numpy(), cmap='jet', vmin=0, vmax=1)
    middle.set(xticks=[], yticks=[])
    middle.set_title(f'map of {width} x {height} cells', fontsize=map_figures.FONT)
    map_figures.overlay(right, picture.image, shown.flatten(), (height, width),
                        'map over the image')
    low, high = found.map.min().item(), found.map.max().item()
    map_figures.colour_bar(figure, drawn, [left, middle, right],
                           f'0 to 1: {low:.3g} to {high:.3g} of the map')
    lines: List[str] = [_score(subject, found, found.category)]
    if found.category != found.predicted:
        lines.append(f'best: {_score(subject, found, found.predicted)}')
    return map_figures.finished(
        figure, f'Grad-CAM of {subject.name.label}, {subject.activations.what}: '
        f'{"; ".join(lines)}', f'{CAPTION if subject.name.checkpoint else FRESH} {flatness(found)}')


def _score(subject: Subject, found: ClassActivation, category: int) -> str:
    return f'{subject.class_name(category)}, score {found.scores[category]:.3g}'
