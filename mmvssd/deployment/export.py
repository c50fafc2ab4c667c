"""Export of a trained model: build, export, run both, compare, write with metadata."""
import importlib
import json
import logging
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor

from mmvssd.analysis.photographs import choose_photographs
from mmvssd.checkpoint import dataset_meta, read_checkpoint, require_fit
from mmvssd.cli.band_inferencers import inferencer_class
from mmvssd.cli.inferencers import Inferencer
from mmvssd.deployment import detection_ops
from mmvssd.deployment.detectors import DeployedDetector
from mmvssd.deployment.exported import METADATA, open_openvino
from mmvssd.deployment.models import Deployed, DeployedClassifier, DeployedSegmentor
from mmvssd.deployment.onnx_models import (
    OnnxModel,
    open_images,
    quiet_exporter,
    require,
    to_onnx,
)
from mmvssd.deployment.output import place, temporary_folder
from mmvssd.errors import ConfigError, ExportError
from mmvssd.host_internals import turns_channels
from mmvssd.palettes import is_palette
from mmvssd.phrases import counted
from mmvssd.version import __version__

#: Batches that an export is compared on: that of the export, and others.
SHAPES = ((2, 96, 128), (1, 224, 224), (3, 160, 100))
#: How the models of each host are exported, by default scope.
DEPLOYED = {'mmdet': DeployedDetector, 'mmpretrain': DeployedClassifier,
            'mmseg': DeployedSegmentor}
#: The image that a detector is exported on; its size is none of a comparison's.
EXAMPLE = (1, 200, 300)
#: Photographs that a detector is compared on, at most.
PHOTOGRAPHS = 10
#: Where they are taken from, if no others are named.
DEFAULT_IMAGES = ('sklearn', )


class Target(NamedTuple):
    """A kind of file.

    Attributes:
        packages: What it needs beside PyTorch.
        suffix: Ending of its name.
        write: ``write(model, images, metadata, folder)`` gives the file that it wrote there.
        load: Takes that file, gives a function of images.
    """

    packages: Sequence[str]
    suffix: str
    write: Callable[[Deployed, Tensor, Dict[str, str], Path], Path]
    load: Callable[[Path], Callable[[np.ndarray], Sequence[np.ndarray]]]


class Comparison(NamedTuple):
    """How far an export was from its model on a batch.

    Attributes:
        shape: Of the images.
        results: How many images, or of a detector how many boxes, were compared.
        differences: By the names of ``Deployed.bars``.
    """

    shape: Sequence[int]
    results: int
    differences: Dict[str, float]


#: Images, as the file takes them, and the model's results.
Batch = Tuple[Tensor, Sequence[np.ndarray]]


def export(cfg: Config, checkpoint: str, out: str, *, to: str, result: str = '',
           normalizes: bool = False, images: Optional[Sequence[str]] = None) -> List[Comparison]:
    """Export a model of a host; the file is there whole, or not at all.

    Args:
        cfg: Recipe of the model.
        checkpoint: Its weights.
        out: File to write. OpenVINO's weights go beside it, with the ending ``.bin``.
        to: A name of :data:`TARGETS`.
        result: What the file gives; '' takes the first of the model's ``results``.
        normalizes: Whether the file applies mean and standard deviation itself.
        images: Photographs that a detector is compared on, as ``choose_photographs`` takes them;
            None takes those of scikit-learn.

    Returns:
        The comparisons: of a detector one for each photograph, else for each of :data:`SHAPES`.

    Raises:
        ConfigError: A package is not installed, or an option does not fit.
        CheckpointError: The checkpoint cannot be read, or is another model's.
        DataError: There are no photographs.
        ExportError: The model has a part that cannot be exported, or the export deviates from
            it; nothing is written.
        SystemExit: SIGTERM or SIGHUP came; the status is 128 and its number. Nothing is left.
    """
    file, target = Path(out), TARGETS[to]
    if file.suffix != target.suffix:
        raise ConfigError(f'--out: got {out}, expected a name that ends with {target.suffix}')
    require(*target.packages)
    host, model = _models(cfg, checkpoint, result, normalizes)
    if images and model.task != 'detection':
        raise ConfigError(f'--images: detectors are compared on photographs, and the recipe is of '
                          f'{cfg.default_scope}; leave it out')
    metadata = _metadata(cfg, checkpoint, host, model)
    if 'windows' in model.facts:
        print_log(f'{cfg.filename}: tests in sliding windows ({model.facts["windows"]}); the file '
                  'takes whole images, so its results differ from test.py and predict.py',
                  logger='current', level=logging.WARNING)
    batches = _batches(host, model, images or DEFAULT_IMAGES)
    example = batches[0][0] if 0 in model.open_axes else model.prepared(
        _images(model, EXAMPLE))
    try:
        with temporary_folder(file) as folder:
            print_log(f'exporting {type(model.model).__name__} to {to}; a large model takes '
                      'minutes', logger='current')
            written = _written(target, model, example, metadata, folder)
            print_log(f'comparing the file with the model on {counted(len(batches), "example")}',
                      logger='current')
            comparisons = _compared(target.load(written), model, batches)
            _check(comparisons, model, batches, file)
            parts = sorted(folder.iterdir(), key=lambda part: part == written)
            place({file.with_suffix(part.suffix): part for part in parts})
    except OSError as error:
        raise ConfigError(f'--out: {out}: cannot be written ({error.strerror or error})') from error
    return comparisons


def report(out: str, comparisons: Sequence[Comparison]) -> List[str]:
    """Return lines on how far a file that was written is from its model."""
    lines, largest = [], {}
    for shape, results, differences in comparisons:
        lines.append(f'images {" x ".join(map(str, shape))}, '
                     + (f'{counted(results, "result")}: {_said(differences)}' if results else
                        'nothing was found, so nothing was compared'))
        for name, difference in differences.items():
            largest[name] = max(difference, largest.get(name, 0))
    if any(results for _, results, _ in comparisons):
        return [*lines, f'{out}: compared and written; largest differences: {_said(largest)}']
    return [*lines, f'{out}: written, NOT compared: the model found nothing on '
                    f'{counted(len(comparisons), "image")}. Train longer, or name photographs on '
                    'which it finds something with --images']


def _said(differences: Dict[str, float]) -> str:
    return ', '.join(f'{name} {difference:.1e}' for name, difference in differences.items())


def _models(cfg: Config, checkpoint: str, result: str, normalizes: bool
            ) -> Tuple[Inferencer, Deployed]:
    """Return the host's model with its weights, and the form of it that is exported."""
    scope = cfg.get('default_scope')
    if scope not in DEPLOYED:
        raise ExportError(f'{cfg.model.type} of {scope} cannot be exported. What can: models of '
                          f'{", ".join(DEPLOYED)}')
    weights = read_checkpoint(checkpoint)
    host = inferencer_class(cfg)(cfg, checkpoint, dataset_meta(checkpoint, weights), 0, 'cpu')
    require_fit(checkpoint, weights, host.model)
    host.check_classes()
    try:
        deployed = DEPLOYED[scope](host.model, result or DEPLOYED[scope].results[0], normalizes)
    except ValueError as error:
        hint = ' (--without-post-processing is for detectors)' if result == 'raw' else ''
        raise ConfigError(f'--{error}{hint}') from error
    return host, deployed.eval()  # as the host's is; PyTorch warns of another mode


def _metadata(cfg: Config, checkpoint: str, host: Inferencer, model: Deployed) -> Dict[str, str]:
    """Return what the file says of itself; all but text as JSON."""
    metadata = dict(mmvssd_version=__version__, task=model.task, result=model.result,
                    classes=host.classes, palette=_palette(host, model),
                    preprocessing=dict(model.preprocessing, channels=_channels(cfg, model)),
                    pipeline=cfg.test_dataloader.dataset.get('pipeline'),
                    checkpoint=Path(checkpoint).name, **model.facts)
    return {name: value if isinstance(value, str) else json.dumps(value, default=_named)
            for name, value in metadata.items()}


def _palette(host: Inferencer, model: Deployed) -> Optional[List[List[int]]]:
    """Return an RGB color for each class; None if the data set has none.

    MMDetection takes the names of palettes and of colors, and one color for all classes.
    """
    palette, count = host.dataset_meta.get('palette'), len(host.classes or ())
    if model.task == 'detection' and not is_palette(palette, count):
        palettes = importlib.import_module('mmdet.visualization.palette')
        try:
            palette = palettes.get_palette(palette, count)
        except (AssertionError, TypeError, ValueError, KeyError):  # of nothing that is known there
            return None
        palette = [[int(value) for value in color] for color in palette]
    return palette if is_palette(palette, count) else None


def _named(value) -> str:
    """Return the name of a class, which a recipe in Python's new style has for its ``type``."""
    return getattr(value, '__name__', str(value))


def _batches(host: Inferencer, model: Deployed, sources: Sequence[str]) -> List[Batch]:
    torch.manual_seed(0)
    with torch.inference_mode():
        if model.task != 'detection':
            pixels = [_images(model, shape) for shape in SHAPES]
        else:
            files = choose_photographs(sources, PHOTOGRAPHS)
            pixels = [_pixels(host, file) for file in files]
        return [(model.prepared(images), model.truth(images)) for images in pixels]


def _pixels(host: Inferencer, file: Path) -> Tensor:
    """Return a photograph (1, C, H, W) as the recipe resizes it, channels as the file wants."""
    image, = host.prepare(str(file))['inputs']
    turned = turns_channels(host.model.data_preprocessor)
    return (image.flip(0) if turned else image)[None].float()


def _channels(cfg: Config, model: Deployed) -> Optional[str]:
    """Return the order of an image's channels; None if it has not three, or nothing tells."""
    preprocessor = model.model.data_preprocessor
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if model.in_channels != 3:
        return None
    if given.get('rgb_to_bgr'):
        return 'BGR'
    if given.get('bgr_to_rgb') or any(getattr(preprocessor, name, False)
                                      for name in ('to_rgb', 'channel_conversion')):
        return 'RGB'
    steps = cfg.test_dataloader.dataset.get('pipeline') or []
    # files are read as BGR; data sets that hold arrays, such as CIFAR, have an order of their own
    reads_files = any('LoadImageFromFile' in str(step.get('type')) for step in steps)
    return 'BGR' if reads_files else None


def _images(model: Deployed, shape: Sequence[int]) -> Tensor:
    """Return random images (N, C, H, W) of the pixels' values."""
    N, H, W = shape
    return 255 * torch.rand(N, model.in_channels, H, W)


def _written(target: Target, model: Deployed, images: Tensor, metadata: Dict[str, str],
             folder: Path) -> Path:
    try:
        return target.write(model, images, metadata, folder)
    except (OSError, ConfigError):
        raise
    except Exception as error:  # exporters have errors of their own for whatever they do not know
        reason = (str(error).strip() or 'no message').splitlines()[0]
        raise ExportError(f'{type(model.model).__name__} cannot be exported: '
                          f'{type(error).__name__}: {reason}') from error


def _compared(run: Callable[[np.ndarray], Sequence[np.ndarray]], model: Deployed,
              batches: Sequence[Batch]) -> List[Comparison]:
    return [Comparison(tuple(images.shape), len(expected[0]),
                       model.deviations(run(images.numpy()), expected))
            for images, expected in batches]


def _check(comparisons: Sequence[Comparison], model: Deployed, batches: Sequence[Batch],
           file: Path) -> None:
    bars = model.bars()
    counts = [comparison.results for comparison in comparisons]
    overall = model.overall([comparison.differences for comparison in comparisons], counts)
    beyond = {name: value for name, value in overall.items() if not value <= bars[name]}
    if not beyond:
        return
    # float32 itself may round by more, in a deep model
    rounding = model.overall([model.rounding(images) for images, _ in batches], counts)
    for name, value in beyond.items():
        if not value <= 2 * rounding[name] < float('inf'):
            raise ExportError(f'{file} is not written: the export deviates by {value:.1e} in '
                              f'{name}, and {bars[name]:.0e} is allowed; from float64 the model '
                              f'itself deviates by {rounding[name]:.1e}')


def _write_onnx(model: Deployed, images: Tensor, metadata: Dict[str, str], folder: Path) -> Path:
    program = to_onnx(model, images, model.outputs, model.open_axes,
                      detection_ops.translations())
    program.model.metadata_props.update(metadata)
    file = folder / 'model.onnx'
    program.save(file, external_data=False)
    return file


def _write_program(model: Deployed, images: Tensor, metadata: Dict[str, str],
                   folder: Path) -> Path:
    open_sizes = open_images(model.open_axes)
    file = folder / 'model.pt2'
    with quiet_exporter():
        program = torch.export.export(model, (images, ), dynamic_shapes=(open_sizes, ),
                                      strict=False)
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
    return file


def _load_program(file: Path):
    run = torch.export.load(file).module()

    def call(images: np.ndarray) -> List[np.ndarray]:
        results = run(torch.from_numpy(images))
        return [result.numpy() for result in
                (results if isinstance(results, tuple) else (results, ))]

    return call


def _write_openvino(model: Deployed, images: Tensor, metadata: Dict[str, str],
                    folder: Path) -> Path:
    openvino = importlib.import_module('openvino')
    source = _write_onnx(model, images, metadata, folder)
    converted = openvino.convert_model(source)
    source.unlink()
    converted.set_rt_info(json.dumps(metadata), [METADATA])
    file = folder / 'model.xml'
    openvino.save_model(converted, file, compress_to_fp16=False)
    return file


TARGETS = {
    'onnx': Target(('onnx', 'onnxscript', 'onnxruntime'), '.onnx', _write_onnx, OnnxModel),
    'torch': Target((), '.pt2', _write_program, _load_program),
    'openvino': Target(('onnx', 'onnxscript', 'openvino'), '.xml', _write_openvino,
                       open_openvino),
}
