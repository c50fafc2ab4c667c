"""The scan patterns of a VMamba side by side: parameters, multiply-adds, speed, memory.

It is the comparison of VMamba's Table 5 (arXiv 2401.10166), without the accuracies, which take
trainings. The patterns differ in the order in which tokens are scanned, not in what a scan costs;
what else they cost is moving tokens, which only a measurement shows.
"""
from dataclasses import asdict
from functools import partial
from typing import Dict, List, Mapping, NamedTuple, Sequence

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmvssd.analysis.complexity import count_model
from mmvssd.analysis.throughput import MODES, Setting, Speed, measure
from mmvssd.errors import ConfigError
from mmvssd.families import every_arch
from mmvssd.models import VMamba
from mmvssd.models.layers.ss2d import PATTERNS

NUM_CLASSES = 1000  # of the classifier that parameters and multiply-adds are published for


class Cost(NamedTuple):
    """Of a pattern's classifier: parameters, multiply-adds of an image in full and as published."""

    params: int
    full: int
    published: int


class Classifier(nn.Module):
    """VMamba with the head of the published counts: LayerNorm, mean over the grid, linear."""

    def __init__(self, arch: dict) -> None:
        super().__init__()
        self.backbone = VMamba(arch, out_indices=(3, ))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.backbone.dims[-1], NUM_CLASSES)

    def forward(self, inputs: Tensor, data_samples: Sequence = (), mode: str = 'tensor') -> Tensor:
        """(N, 3, H, W) -> (N, 1000), called as a host's model is."""
        features, = self.backbone(inputs)
        return self.fc(self.pool(features).flatten(1))


class Comparison(NamedTuple):
    """Cost of each pattern, and a row of speed for each mode and pattern; 'cross' comes first."""

    costs: Dict[str, Cost]
    speeds: List[Speed]


def compare(name: str, *, size: int = 224, batch: int = 8, device: str = 'cpu',
            rounds: int = 7) -> Comparison:
    """Count an arch's classifier and time its backbone in each pattern.

    Args:
        name: Name of a VMamba arch.
        size: Height and width of the images.
        batch: Images of a step that is timed.
        device: A device of PyTorch.
        rounds: Steps of each pattern in inference and in training; the median counts.

    Raises:
        ConfigError: There is no such arch, or a number is not positive.
    """
    archs = patterns_of(name)
    for option, number in (('--size', size), ('--batch', batch), ('--rounds', rounds)):
        if number < 1:
            raise ConfigError(f'{option}: got {number}, expected a positive number')
    costs = {pattern: count(arch, size) for pattern, arch in archs.items()}
    speeds = measure(PATTERNS, [Setting(mode, batch, size) for mode in MODES],
                     makers={pattern: partial(VMamba, arch) for pattern, arch in archs.items()},
                     device=device, rounds=rounds)
    return Comparison(costs, speeds)


def patterns_of(name: str) -> Dict[str, dict]:
    """Return settings of a VMamba arch in each pattern; ConfigError if the arch is unknown."""
    if name not in VMamba.archs:
        owner = next((family.backbone.__name__ for family, arch in every_arch() if arch == name),
                     None)
        reason = (f'is an arch of {owner}, which has no scan pattern' if owner
                  else 'is not an arch of VMamba')
        raise ConfigError(f'--arch: {name} {reason}; known: {", ".join(VMamba.archs)}')
    arch = asdict(VMamba.archs[name])
    return {pattern: {**arch, 'pattern': pattern} for pattern in PATTERNS}


def count(arch: dict, size: int) -> Cost:
    """Count the classifier of an arch over one image of ``size`` pixels a side."""
    counted = count_model(Classifier(arch), (size, size))
    return Cost(counted.params, counted.full, counted.published)


def print_costs(costs: Mapping[str, Cost], title: str) -> None:
    """Print a table with a row for each pattern."""
    table = Table('pattern', 'params (M)', 'GFLOPs in full', 'as published', title=title)
    for pattern, cost in costs.items():
        table.add_row(pattern, f'{cost.params / 1e6:.3f}', f'{cost.full / 1e9:.3f}',
                      f'{cost.published / 1e9:.3f}')
    Console().print(table)
