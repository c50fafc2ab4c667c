"""ONNX models of PyTorch modules: export with sizes left open, and runs in ONNX Runtime."""
import importlib
import logging
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmvssd.errors import ConfigError

#: What each package is asked for, as pip has it.
PACKAGES = {'onnx': 'onnx>=1.17', 'onnxscript': 'onnxscript>=0.5',
            'onnxruntime': 'onnxruntime>=1.19', 'openvino': 'openvino>=2024.4'}
#: A deprecation of PyTorch's, which its own exporter meets.
LEAF_SPEC = '`isinstance(treespec, LeafSpec)` is deprecated'
#: The logger of onnxscript's optimizer, and how it begins to say that it leaves a node as it is.
FOLDING, NOT_FOLDED = 'onnxscript.optimizer._constant_folding', 'Skipping constant folding for '


def require(*packages: str) -> None:
    """Raise ConfigError unless the packages can be imported, with the line that installs them."""
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            install = ' '.join(repr(PACKAGES[package]) for package in packages)
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                fault = f'is not installed ({error}); pip install {install}'
            else:  # it is there, and lacks a library or another package
                fault = f'cannot be imported ({error}); pip install --force-reinstall {install}'
            raise ConfigError(f'{name} {fault}') from error


def open_images(axes: Sequence[int] = (0, 2, 3)) -> Dict[int, object]:
    """Return the axes of images (N, C, H, W) whose sizes an export leaves open, marked as such.

    Raises:
        ConfigError: This PyTorch cannot leave them open.
    """
    if not hasattr(torch.export, 'Dim') or not hasattr(torch.export.Dim, 'DYNAMIC'):
        raise ConfigError(f'PyTorch {torch.__version__} cannot leave sizes of an export open '
                          'without naming their limits; 2.6 or later can')
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


def to_onnx(model: nn.Module, images: Tensor, outputs: Sequence[str],
            axes: Sequence[int] = (0, 2, 3),
            translations: Optional[Dict[Callable, Callable]] = None):
    """Export a model of images to ONNX, with sizes left open.

    Args:
        model: In evaluation mode; takes images, gives a tensor or a tuple of tensors.
        images: An example (N, C, H, W) with N of 2 or more: PyTorch takes a size of 1 for a
            constant. No side should be so small that a stage has a side of 1.
        outputs: A name for each result.
        axes: The axes of the images that are left open.
        translations: How operators that the exporter does not know are written, as
            ``torch.onnx.export`` takes it.

    Returns:
        PyTorch's ``ONNXProgram``.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
    """
    require('onnx', 'onnxscript')
    with quiet_exporter():
        return torch.onnx.export(
            model, (images, ), dynamo=True, dynamic_shapes=(open_images(axes), ),
            input_names=['images'], output_names=list(outputs), verbose=False,
            custom_translation_table=translations)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Leave out what PyTorch's exporter says of its own code, and of nodes that it may not fold."""
    folding = logging.getLogger(FOLDING)
    folding.addFilter(_is_of_more)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', re.escape(LEAF_SPEC), FutureWarning)
            yield
    finally:
        folding.removeFilter(_is_of_more)


def _is_of_more(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOT_FOLDED)


class OnnxModel:
    """An ONNX file in ONNX Runtime, on the CPU.

    Args:
        file: The file; weights of large models lie in another beside it.
        threads: Threads of an operator; 0 lets ONNX Runtime choose.

    Raises:
        ConfigError: onnxruntime is not installed.
    """

    def __init__(self, file: Path, threads: int = 0) -> None:
        require('onnxruntime')
        runtime = importlib.import_module('onnxruntime')
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(str(file), options,
                                                providers=['CPUExecutionProvider'])

    def __call__(self, images: np.ndarray) -> List[np.ndarray]:
        """Run on images (N, C, H, W) and return all results."""
        name = self.session.get_inputs()[0].name
        return self.session.run(None, {name: images})
