"""Export of a trained model: build, export, run both, compare, write with metadata."""
import copy
import importlib
import json
import os
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from mmvssd.checkpoint import dataset_meta, read_checkpoint, require_fit
from mmvssd.cli.inferencers import HOSTS
from mmvssd.deployment.models import DEPLOYED, Deployed
from mmvssd.deployment.onnx_models import OnnxModel, open_images, require, to_onnx
from mmvssd.errors import ConfigError, ExportError
from mmvssd.version import __version__

#: Batches that an export is compared on: that of the export, and others.
SHAPES = ((2, 96, 128), (1, 224, 224), (3, 160, 100))
#: Largest deviation, as a share of the largest value; of label maps, the share of pixels.
BAR, LABEL_BAR = 1e-5, 1e-4
#: Entry of an exported program, and of OpenVINO's run-time information, that holds the metadata.
METADATA = 'mmvssd.json'


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
    load: Callable[[Path], Callable[[np.ndarray], np.ndarray]]


class Comparison(NamedTuple):
    """How far an export was from its model on a batch of that shape."""

    shape: Sequence[int]
    difference: float


def export(cfg: Config, checkpoint: str, out: str, *, to: str, result: str = '',
           normalizes: bool = False) -> List[Comparison]:
    """Export a classifier or a segmentor; the file is there whole, or not at all.

    Args:
        cfg: Recipe of the model.
        checkpoint: Its weights.
        out: File to write. OpenVINO's weights go beside it, with the ending ``.bin``.
        to: A name of :data:`TARGETS`.
        result: What the file gives; '' takes the first of the model's ``results``.
        normalizes: Whether the file applies mean and standard deviation itself.

    Returns:
        The comparisons, one for each of :data:`SHAPES`.

    Raises:
        ConfigError: A package is not installed, or an option does not fit.
        CheckpointError: The checkpoint cannot be read, or is another model's.
        ExportError: The model has a part that cannot be exported, or the export deviates from
            it; nothing is written.
    """
    file, target = Path(out), TARGETS[to]
    if file.suffix != target.suffix:
        raise ConfigError(f'--out: got {out}, expected a name that ends with {target.suffix}')
    require(*target.packages)
    model, metadata = _model(cfg, checkpoint, result, normalizes)
    torch.manual_seed(0)
    batches = [_images(model, shape) for shape in SHAPES]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix='.export-') as folder:
            written = _written(target, model, batches[0], metadata, Path(folder))
            comparisons = _compared(target.load(written), model, batches)
            _check(comparisons, model, batches, file)
            for part in sorted(Path(folder).iterdir(), key=lambda part: part == written):
                os.replace(part, file.with_suffix(part.suffix))
    except OSError as error:
        raise ConfigError(f'--out: {out}: cannot be written ({error})') from error
    return comparisons


def _model(cfg: Config, checkpoint: str, result: str, normalizes: bool) -> tuple:
    """Return the model with its weights, and the metadata of its file."""
    scope = cfg.get('default_scope')
    if scope not in DEPLOYED:
        raise ExportError(f'{cfg.model.type} of {scope} cannot be exported: its results have no '
                          'fixed form. What can: classifiers of mmpretrain and segmentors of mmseg')
    weights = read_checkpoint(checkpoint)
    host = HOSTS[scope](cfg, checkpoint, dataset_meta(checkpoint, weights), 0, 'cpu')
    require_fit(checkpoint, weights, host.model)
    host.check_classes()
    try:
        model = DEPLOYED[scope](host.model, result or DEPLOYED[scope].results[0], normalizes)
    except ValueError as error:
        raise ConfigError(f'--{error}') from error
    metadata = dict(mmvssd_version=__version__, task=model.task, result=model.result,
                    classes=host.classes,
                    preprocessing=dict(model.preprocessing, channels=_channels(cfg, model)),
                    pipeline=cfg.test_dataloader.dataset.get('pipeline'),
                    checkpoint=Path(checkpoint).name)
    return model, {name: value if isinstance(value, str) else json.dumps(value)
                   for name, value in metadata.items()}


def _channels(cfg: Config, model: Deployed) -> Optional[str]:
    """Return the order of an image's channels; None if it has not three, or nothing tells."""
    preprocessor = model.model.data_preprocessor
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if model.in_channels != 3:
        return None
    if given.get('rgb_to_bgr'):
        return 'BGR'
    if any(getattr(preprocessor, name, False) for name in ('to_rgb', 'channel_conversion')):
        return 'RGB'
    steps = cfg.test_dataloader.dataset.get('pipeline') or []
    # files are read as BGR; data sets that hold arrays, such as CIFAR, have an order of their own
    reads_files = any('LoadImageFromFile' in str(step.get('type')) for step in steps)
    return 'BGR' if reads_files else None


def _images(model: Deployed, shape: Sequence[int]) -> Tensor:
    N, H, W = shape
    pixels = torch.rand(N, model.in_channels, H, W)
    # as wide as pixels are, normalized or not
    return pixels * 255 if model.normalizes else (pixels - 0.45) / 0.225


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


def _compared(run: Callable[[np.ndarray], np.ndarray], model: Deployed,
              batches: Sequence[Tensor]) -> List[Comparison]:
    with torch.inference_mode():
        return [Comparison(tuple(images.shape),
                           _difference(run(images.numpy()), model(images).numpy()))
                for images in batches]


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float('inf')
    if expected.dtype.kind == 'i':
        return float(np.mean(found != expected))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _check(comparisons: Sequence[Comparison], model: Deployed, batches: Sequence[Tensor],
           file: Path) -> None:
    bar = LABEL_BAR if model.result == 'labels' else BAR
    for (shape, difference), images in zip(comparisons, batches):
        # float32 itself may round by more, in a deep model
        if not difference <= bar and not difference <= 2 * _rounding(model, images):
            raise ExportError(f'{file} is not written: on images {tuple(shape)} the export '
                              f'deviates by {difference:.1e}, and {bar:.0e} is allowed')


def _rounding(model: Deployed, images: Tensor) -> float:
    """Return how far the model is from itself in float64."""
    with torch.inference_mode():
        truth = copy.deepcopy(model).double()(images.double())
        return _difference(model(images).numpy(), truth.numpy())


def _write_onnx(model: Deployed, images: Tensor, metadata: Dict[str, str], folder: Path) -> Path:
    program = to_onnx(model, images, [model.result])
    program.model.metadata_props.update(metadata)
    file = folder / 'model.onnx'
    program.save(file, external_data=False)
    return file


def _load_onnx(file: Path):
    run = OnnxModel(file)
    return lambda images: run(images)[0]


def _write_program(model: Deployed, images: Tensor, metadata: Dict[str, str],
                   folder: Path) -> Path:
    program = torch.export.export(model, (images, ), dynamic_shapes=(open_images(), ),
                                  strict=False)
    file = folder / 'model.pt2'
    torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
    return file


def _load_program(file: Path):
    run = torch.export.load(file).module()
    return lambda images: run(torch.from_numpy(images)).numpy()


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


def _load_openvino(file: Path):
    openvino = importlib.import_module('openvino')
    # some CPUs would compute in bfloat16
    run = openvino.Core().compile_model(str(file), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return lambda images: run(images)[0]


TARGETS = {
    'onnx': Target(('onnx', 'onnxscript', 'onnxruntime'), '.onnx', _write_onnx, _load_onnx),
    'torch': Target((), '.pt2', _write_program, _load_program),
    'openvino': Target(('onnx', 'onnxscript', 'openvino'), '.xml', _write_openvino,
                       _load_openvino),
}
