"""``import torchvision`` beside a PyTorch that its compiled ops were not built for.

The torchvision wheel of PyPI is built for CUDA. Beside a CPU-only PyTorch its ``_C.so`` does not
load, which torchvision itself forgives, but since 0.16 it then gives ``torchvision::nms`` and
``torchvision::qnms`` a fake implementation, and the import stops at «operator torchvision::nms
does not exist». MMPreTrain imports torchvision at its top. Once the two schemas are declared the
import works, and ``torchvision.ops.nms`` still raises torchvision's own «Couldn't load custom C++
ops», which names the cause.
"""
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import torch

# As torchvision's own ``csrc/ops/nms.cpp`` and ``quantized/cpu/qnms_kernel.cpp`` declare them.
SCHEMAS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)

# torch.library withdraws what a Library declared when the object dies, so it lives here.
_libraries = []


def apply() -> None:
    """Declare the two schemas if importing torchvision would stop for want of them."""
    if _libraries or 'torchvision' in sys.modules:
        return
    folder = _package_folder()
    if folder is None or not _names_the_ops(folder) or _ops_load(folder):
        return
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for schema in SCHEMAS:
        library.define(schema)
    _libraries.append(library)


def _package_folder():
    """Where torchvision is installed, found without importing it; None if it is not."""
    spec = importlib.util.find_spec('torchvision')
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _names_the_ops(folder):
    """Whether this torchvision gives ``torchvision::nms`` a fake; the old ones do not."""
    registrations = folder / '_meta_registrations.py'
    return registrations.is_file() and '"torchvision::nms"' in registrations.read_text('utf-8')


def _ops_load(folder):
    """Load ``_C`` as torchvision will; loading it twice is harmless."""
    paths = [folder / f'_C{suffix}' for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return False
    try:
        torch.ops.load_library(str(path))
    except OSError:
        return False
    return True
