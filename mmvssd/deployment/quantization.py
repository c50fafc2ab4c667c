"""Quantization of an exported classifier to 8 bits, with what it costs in accuracy."""
import importlib
import itertools
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from mmvssd.cli.launch import require as require_settings
from mmvssd.deployment.exported import open_exported
from mmvssd.deployment.onnx_models import OnnxModel, require
from mmvssd.deployment.output import place, temporary_folder
from mmvssd.errors import ConfigError, DataError, ExportError
from mmvssd.paths import real_path
from mmvssd.phrases import counted

#: Operators that are computed in 8 bits if their weights are constant. Scans, norms and softmaxes
#: stay in float32.
OPERATORS = ('Conv', 'Gemm', 'MatMul')
#: Images of a batch, in calibration and evaluation.
BATCH = 16
#: Rounding of a difference of two shares.
ROUNDING = 1e-9


class Scores(NamedTuple):
    """What quantization did to a classifier.

    Attributes:
        images: How many validation images were looked at.
        float_top1: Share of them that the float file classifies as they are labelled.
        int8_top1: The same of the quantized file.
        agreement: Share of them on which both files name the same class.
    """

    images: int
    float_top1: float
    int8_top1: float
    agreement: float


def quantize(cfg: Config, file: str, out: str, *, calibration: int = 128, evaluation: int = 1000,
             max_loss: float = 0.01, seed: int = 0) -> Scores:
    """Quantize a classifier that was exported to ONNX; the file is there whole, or not at all.

    Weights become int8, one scale for each output channel, and what they are multiplied with
    uint8, by the ranges that calibration images show. ONNX Runtime's own quantization does it.

    Args:
        cfg: Recipe of the classifier, for its data.
        file: ONNX file of ``tools/deployment/export.py``.
        out: File to write; it keeps the metadata.
        calibration: Training images that tell the ranges.
        evaluation: Validation images that both files are compared on, at most.
        max_loss: Share of those images that the top-1 accuracy may fall by.
        seed: Draws the images.

    Raises:
        ConfigError: A package is not installed, an option or the file does not fit.
        DataError: The recipe's data are not there.
        ExportError: The accuracy falls by more; nothing is written.
        SystemExit: SIGTERM or SIGHUP came; the status is 128 and its number. Nothing is left.
    """
    require('onnx', 'onnxruntime')
    if Path(out).suffix != '.onnx':
        raise ConfigError(f'--out: got {out}, expected a name that ends with .onnx')
    if real_path(out) == real_path(file):
        raise ConfigError(f'--out: {out} is the file that is quantized; name another')
    if not 0 <= max_loss <= 1:  # nor is it NaN
        raise ConfigError(f'--max-loss: got {max_loss * 100:g}, expected points from 0 to 100')
    whole = open_exported(file, option='')
    images = _Images(cfg, _checked(whole.facts, file), file)
    calibrating = images.batches('train', calibration, seed)
    held_out = images.batches('test', evaluation, seed)
    first = [next(calibrating), next(held_out)]  # data that are not there show now
    calibrating, held_out = (itertools.chain([batch], rest)
                             for batch, rest in zip(first, (calibrating, held_out)))
    try:
        with temporary_folder(Path(out)) as folder:
            written = folder / 'int8.onnx'
            print_log(f'quantizing by at most {counted(calibration, "training image")}',
                      logger='current')
            _quantize(file, written, calibrating)
            print_log(f'running both files on at most {counted(evaluation, "test image")}',
                      logger='current')
            scores = _compare(whole.run, OnnxModel(written), held_out)
            if scores.float_top1 - scores.int8_top1 > max_loss + ROUNDING:
                raise ExportError(
                    f'{out} is not written: on {counted(scores.images, "image")} top-1 falls from '
                    f'{scores.float_top1:.2%} to {scores.int8_top1:.2%}, and {max_loss:.2%} is '
                    'allowed. Calibrate on more images with --calibrate, or allow more with '
                    '--max-loss')
            place({Path(out): written})
    except OSError as error:
        raise ConfigError(f'--out: {out}: cannot be written ({error.strerror or error})') from error
    return scores


def _checked(said: Dict[str, Any], file: str) -> Dict[str, Any]:
    """Return what a file says of its classes and images."""
    if Path(file).suffix != '.onnx':
        raise ConfigError(f'{file}: ONNX files are quantized, whose names end with .onnx')
    if said['task'] != 'classification':
        raise ConfigError(f'{file}: it does {said["task"]}; classifiers are quantized')
    if 'QuantizeLinear' in _operators(file):
        raise ConfigError(f'{file}: it is quantized already')
    return dict(classes=said['classes'], **said['preprocessing'])


def _operators(file: str) -> set:
    onnx = importlib.import_module('onnx')
    return {node.op_type for node in onnx.load(file, load_external_data=False).graph.node}


class _Images:
    """Images of a recipe as a file takes them, with their labels."""

    def __init__(self, cfg: Config, said: Dict[str, Any], file: str) -> None:
        if cfg.get('default_scope') != 'mmpretrain':
            raise ConfigError(f'{cfg.filename}: it is of {cfg.get("default_scope")}; the recipe of '
                              'a classifier is needed, of mmpretrain')
        require_settings(cfg, 'train_dataloader', 'test_dataloader')
        init_default_scope(cfg.default_scope)
        given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        # batches are labelled by their samples, and not mixed
        given = {name: value for name, value in given.items()
                 if name not in ('batch_augments', 'num_classes', 'to_onehot')}
        self._preprocess: nn.Module = MODELS.build(dict(dict(type='ClsDataPreprocessor'), **given))
        self._cfg, self._said, self._file = cfg, said, file
        self._pipeline = _innermost(cfg.test_dataloader.dataset).get('pipeline') or []

    def batches(self, phase: str, most: int,
                seed: int) -> Iterator[Tuple[np.ndarray, List[int]]]:
        """Yield images (N, C, H, W) and their labels, of a phase's data, in the test pipeline.

        Raises:
            DataError: There is none, one cannot be read, or the classes are others.
        """
        loader = self._cfg.get(f'{phase}_dataloader')
        try:
            dataset = DATASETS.build(dict(_innermost(loader.dataset), pipeline=[]))
        except OSError as error:
            raise DataError(f"the recipe's {phase} data: {error}") from error
        classes = list(dataset.metainfo.get('classes') or ())
        if classes and self._said['classes'] and len(classes) != len(self._said['classes']):
            raise DataError(f'{self._file} knows {counted(len(self._said["classes"]), "class")}, '
                            f"the recipe's {phase} data have {len(classes)}")
        order = np.random.default_rng(seed).permutation(len(dataset))[:most]
        if not len(order):
            raise DataError(f"the recipe's {phase} data hold no image")
        for group in _of_one_size(self._loaded(dataset, order)):
            batch = self._preprocess(pseudo_collate(group))
            yield self._as_file_takes(batch['inputs']), [
                int(sample.gt_label[0]) for sample in batch['data_samples']]

    def _loaded(self, dataset, order: np.ndarray) -> Iterator[dict]:
        load = Compose(self._pipeline)
        for index in order:
            facts = dataset.get_data_info(int(index))
            try:
                yield load(facts)
            except OSError as error:
                raise DataError(f'{facts.get("img_path", f"image {index}")}: {error}') from error

    def _as_file_takes(self, images: torch.Tensor) -> np.ndarray:
        if self._said['normalizes_itself'] and 'mean' in self._said:
            mean, std = (torch.tensor(self._said[name]).view(-1, 1, 1) for name in ('mean', 'std'))
            images = images * std + mean
        return images.float().numpy()


def _innermost(settings: dict) -> dict:
    """Return the settings of the data set within wrappers, such as RepeatDataset."""
    while isinstance(settings.get('dataset'), dict):
        settings = settings['dataset']
    return settings


def _of_one_size(samples: Iterable[dict]) -> Iterator[List[dict]]:
    """Yield groups of samples whose images have one size, of at most BATCH."""
    groups: Dict[tuple, List[dict]] = {}
    for sample in samples:
        shape = tuple(sample['inputs'].shape)
        groups.setdefault(shape, []).append(sample)
        if len(groups[shape]) == BATCH:
            yield groups.pop(shape)
    yield from groups.values()


def _quantize(file: str, out: Path, batches: Iterator) -> None:
    quantization: Any = importlib.import_module('onnxruntime.quantization')

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            images, _ = next(batches, (None, None))
            return None if images is None else {'images': images}

    logging.disable(logging.WARNING)  # it advises what PyTorch's exporter has done already
    try:
        quantization.quantize_static(
            file, str(out), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(OPERATORS), activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8, extra_options=dict(MatMulConstBOnly=True))
    finally:
        logging.disable(logging.NOTSET)


def _compare(whole: Callable, quantized: Callable, batches: Iterable) -> Scores:
    counts = np.zeros(4)
    for images, labels in batches:
        first, second = (model(images)[0].argmax(1) for model in (whole, quantized))
        counts += (len(labels), *(np.sum(same) for same in (
            first == labels, second == labels, first == second)))
    images, *right = counts
    return Scores(int(images), *(float(number / images) for number in right))
