"""``import torchvision`` beside a PyTorch that its compiled ops were not built for.

The torchvision wheel of PyPI is built for CUDA. Beside a CPU-only PyTorch its ``_C.so`` does not
load. torchvision forgives that, but then gives ``torchvision::nms`` and ``torchvision::qnms`` a
fake implementation, and the import stops at «operator torchvision::nms does not exist». MMPreTrain
imports torchvision at its top. Once the two schemas are declared the import works, and
``torchvision.ops.nms`` still raises torchvision's own «Couldn't load custom C++ ops», which names
the cause.

Fix: retire when torchvision can be imported without its compiled ops.
"""
from typing import Optional

import torch

# As torchvision's own ``csrc/ops/nms.cpp`` and ``quantized/cpu/qnms_kernel.cpp`` declare them.
SCHEMAS = {
    'nms': 'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms': 'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
}

# torch.library withdraws what a Library declared when the object dies, so it lives here.
_libraries = []


def apply() -> None:
    """Declare the schemas that are missing after torchvision has tried to load its ops."""
    missing = [schema for name, schema in SCHEMAS.items()
               if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library('torchvision', 'FRAGMENT')
        for schema in missing:
            library.define(schema)
        _libraries.append(library)


def idle() -> Optional[str]:
    """Return that torchvision's own ops are there, or None."""
    return None if _libraries else "torchvision's compiled ops load"
