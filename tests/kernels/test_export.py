"""Implementations for exported programs: as near to the truth as others, of open sizes."""
import io

import pytest
import torch

import mmvssd_kernels
from mmvssd_kernels import description, dispatch, parity
from mmvssd_kernels.cross_scan import PATTERNS
from mmvssd_kernels.selective_scan.export import CHUNK, LEVELS

SCANS = ('selective_scan', 'selective_scan_2d')
OPEN = getattr(torch.export.Dim, 'AUTO', None)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('L', [1, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK**LEVELS + 3])
def test_a_scan_is_near_the_truth(L, dtype):
    cases = [parity.Case.example('selective_scan', seed, N=2, L=L) for seed in range(3)]
    assert parity.failures(cases, dtype, impl='export') == ()


@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('grid', [(1, 1), (3, 17), (23, 14)])
def test_a_scan_of_a_grid_is_near_the_truth(grid, pattern):
    H, W = grid
    cases = [parity.Case.example('selective_scan_2d', seed, N=2, H=H, W=W)._replace(
        options=dict(pattern=pattern)) for seed in range(3)]
    assert parity.failures(cases, torch.float32, impl='export') == ()


@pytest.mark.parametrize('step', [-30., 0., 200.])
def test_extreme_steps(step):
    """Decays underflow, or are 1: nothing is divided by one, and nothing grows."""
    tensors = {name: t.float() for name, t in description.description_of(
        'selective_scan').tensors(L=300).items()}
    tensors['delta_bias'] = torch.full_like(tensors['delta_bias'], step)
    # small steps behind a large one
    tensors['delta'][..., 20:24] += 50
    y = mmvssd_kernels.selective_scan(**tensors, impl='export')
    truth = mmvssd_kernels.selective_scan(**{name: t.double() for name, t in tensors.items()},
                                          impl='reference')
    assert (y - truth).abs().max() <= 1e-6 * truth.abs().max()


@pytest.mark.parametrize('pattern', PATTERNS)
def test_cross_scan_and_merge(pattern):
    x = torch.randn(2, 5, 9, 11)
    y = mmvssd_kernels.cross_scan(x, pattern, impl='export')
    assert torch.equal(y, mmvssd_kernels.cross_scan(x, pattern, impl='reference'))
    torch.testing.assert_close(
        mmvssd_kernels.cross_merge(y, (9, 11), pattern, impl='export'),
        mmvssd_kernels.cross_merge(y, (9, 11), pattern, impl='reference'))


class Op(torch.nn.Module):
    """An op as a model; its inputs in the order of the description."""

    def __init__(self, op, **options):
        super().__init__()
        self.op, self.options = op, options
        self.names = list(description.description_of(op).inputs)

    def forward(self, *tensors):
        grid = {} if self.op != 'cross_merge' else dict(grid=tensors[1].shape)
        named = dict(zip(self.names, tensors))
        return getattr(mmvssd_kernels, self.op)(**named, **grid, **self.options)


def example(op, **sizes):
    tensors = description.description_of(op).tensors(**sizes)
    grid = [torch.empty(sizes['H'], sizes['W'])] if op == 'cross_merge' else []
    return (*(t.float() for t in tensors.values()), *grid)


def of_size(op, N, H, W):
    return dict(N=N, L=H * W) if op in ('nc_ssd', 'ssd', 'selective_scan') else dict(N=N, H=H, W=W)


@pytest.mark.skipif(OPEN is None, reason='this PyTorch cannot leave sizes open')
@pytest.mark.slow
@pytest.mark.parametrize('op', dispatch.ops())
def test_an_exported_program_needs_no_kernels(op):
    """It is saved, loaded, and run at other sizes and with another number of images."""
    axes = [one.axes.split() for one in description.description_of(op).inputs.values()]
    open_axes = tuple({i: OPEN for i, axis in enumerate(names) if axis in 'NLHW'} for names in axes)
    if op == 'cross_merge':
        open_axes = (*open_axes, {0: OPEN, 1: OPEN})
    program = torch.export.export(Op(op), example(op, **of_size(op, 2, 24, 13)), strict=False,
                                  dynamic_shapes=(open_axes, ))
    assert not [node for node in program.graph.nodes if 'mmvssd' in str(node.target)]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    run = torch.export.load(file).module()
    for size in ((2, 24, 13), (3, 5, 7), (4, 30, 21)):
        tensors = example(op, **of_size(op, *size))
        torch.testing.assert_close(run(*tensors), Op(op, impl='reference')(*tensors), rtol=1e-5,
                                   atol=1e-5)


def test_compiling_is_no_export():
    """A compiled model keeps the fast kernels."""
    seen = []

    def look(x):
        seen.append(dispatch.exporting())
        return x + 1

    torch.compile(look, backend='eager', fullgraph=True)(torch.ones(3))
    torch.export.export(Look(seen), (torch.ones(3), ), strict=False)
    assert seen[-1] is True
    assert True not in seen[:-1]


class Look(torch.nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        self.seen.append(dispatch.exporting())
        return x + 1
