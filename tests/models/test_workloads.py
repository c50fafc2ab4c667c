"""What the kernels are judged and timed with is what the models give them."""
import dataclasses

import pytest
import torch

from mmvssd.models import VSSD, VMamba
from mmvssd_kernels.benchmark.workloads import USERS, workloads

BACKBONES = {'vssd': VSSD, 'vmamba': VMamba}
OPS = [(op, model) for op in ('nc_ssd', 'ssd', 'selective_scan_2d') for model in USERS[op]]


@pytest.fixture
def model(op, name):
    """The model with a block a stage."""
    family, arch = name.split('-', 1)
    settings = dataclasses.asdict(BACKBONES[family].archs[arch])
    if op == 'ssd':
        settings['mixers'] = ('ssd', 'ssd', 'ssd', 'attention')
    return BACKBONES[family](dict(settings, depths=(1, 1, 1, 1)))


@pytest.mark.parametrize(('op', 'name'), OPS)
def test_inputs_lie_in_memory_as_in_the_model(op, name, model):
    found = []
    for module in model.modules():
        if hasattr(module, 'op'):
            module.op = note(module.op, found)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        model(torch.rand(2, 3, 64, 96))
    stages = [w for w in workloads() if (w.op, w.model) == (op, name) and w.images.batch == 128]
    assert len(found) == len(stages) > 2
    for stage, given in zip(stages, found):
        grid = 16 >> stage.stage, 24 >> stage.stage
        inputs = stage.on_grid(2, grid).inputs(torch.bfloat16, 'cpu')
        assert len(given) == len(inputs)
        for (name, expected), t in zip(inputs.items(), given):
            assert layout(t) == layout(expected), (stage.name, name)


def layout(t):
    return t.dtype, t.shape, t.stride(), t.storage_offset()


def note(op, found):
    def noted(*args, **kwargs):
        found.append(args)
        return op(*args, **kwargs)
    return noted
