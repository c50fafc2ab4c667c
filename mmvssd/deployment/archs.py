"""Every arch exported to ONNX and compared with PyTorch: the table of docs/deployment.md."""
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
import torch

from mmvssd.deployment.onnx_models import OnnxModel, to_onnx
from mmvssd.families import FAMILIES, every_arch

#: Batches that an export is compared on: its own size, and others.
SHAPES = ((2, 3, 96, 128), (1, 3, 224, 224), (3, 3, 160, 100))
#: The image that is timed.
IMAGE = (1, 3, 224, 224)
ROUNDS = 11


class Row(NamedTuple):
    """An arch's export.

    Attributes:
        name: Family and arch.
        seconds: CPU time of the export, which is its time on a core of its own.
        gigabytes: Largest memory of its process until then.
        nodes: Operators of the graph.
        difference: Largest deviation of an output as a share of its largest value.
        pytorch, onnxruntime: Median milliseconds of one image at 224, alternating.
    """

    name: str
    seconds: float
    gigabytes: float
    nodes: int
    difference: float
    pytorch: float
    onnxruntime: float


def names() -> List[str]:
    """Return every family and arch; of archs with the same settings the first."""
    found: Dict[object, str] = {}
    for family, arch in every_arch():
        settings = family.name, str(family.backbone.archs[arch])
        found.setdefault(settings, f'{family.name}-{arch}')
    return list(found.values())


def measure(name: str) -> Row:
    """Export an arch with random weights, compare and time it; one thread."""
    family, _, arch = name.partition('-')
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = FAMILIES[family].backbone(arch).eval().requires_grad_(False)
    images = [torch.randn(shape) for shape in SHAPES]
    start = time.process_time()
    program = to_onnx(model, images[0], [f'stage{i}' for i in model.out_indices])
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder, 'model.onnx')
        program.save(file, external_data=True)
        exported = OnnxModel(file, threads=1)
        difference = max(largest_difference(exported(x.numpy()), model(x)) for x in images)
        times = _times(model, exported, torch.randn(IMAGE))
    return Row(name, seconds, peak, len(program.model.graph), difference, *times)


def largest_difference(found: Sequence[np.ndarray], expected: Sequence[torch.Tensor]) -> float:
    """Return the largest deviation of any result, as a share of the result's largest value."""
    differences = [np.abs(own - true.numpy()).max() / np.abs(true.numpy()).max()
                   for own, true in zip(found, expected)]
    return float(np.max(differences))  # NaN if one is


def _times(model, exported: OnnxModel, x: torch.Tensor) -> List[float]:
    runs = (lambda: model(x)), (lambda: exported(x.numpy()))
    taken = [[], []]
    for _ in range(ROUNDS):
        for run, times in zip(runs, taken):
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times[1:]) for times in taken]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ['| arch | export, CPU s | peak, GB | operators | largest difference | PyTorch, ms | '
             'ONNX Runtime, ms |', '|---|---|---|---|---|---|---|']
    for row in rows:
        lines.append(f'| {row.name} | {row.seconds:.0f} | {row.gigabytes:.1f} | {row.nodes} | '
                     f'{row.difference:.1e} | {row.pytorch:.0f} | {row.onnxruntime:.0f} |')
    return '\n'.join(lines) + '\n'


def measure_apart(name: str) -> Row:
    """Measure an arch in a process of its own, so that its memory is its own."""
    code = ('import json, sys; from mmvssd.deployment.archs import measure; '
            'print(json.dumps(measure(sys.argv[1])))')
    done = subprocess.run([sys.executable, '-c', code, name], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'}, check=True)
    return Row(*json.loads(done.stdout.splitlines()[-1]))
