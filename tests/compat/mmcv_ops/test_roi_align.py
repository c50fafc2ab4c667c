"""RoIAlign: gradients, dtypes, layouts, and boxes that are odd."""
import numpy as np
import pytest
import torch

from mmvssd.compat.mmcv_ops import extension, served_by
from mmvssd.compat.mmcv_ops import roi_align as module


@pytest.fixture(params=[False, True], ids=['weighted rows', 'matrix products'])
def both_ways(request, monkeypatch):
    """Each of the two ways to average."""
    monkeypatch.setattr(module, '_few_channels', lambda features, regions: request.param)


def sample(channels=3, dtype=torch.float32, images=2, regions=9, seed=0):
    """Features of 12 x 15 pixels and boxes in a frame of 60 x 48, some beyond its edges."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, 12, 15, generator=generator, dtype=dtype)
    start = torch.rand(regions, 2, generator=generator, dtype=dtype) * 50 - 10
    size = torch.rand(regions, 2, generator=generator, dtype=dtype) * 40
    image = torch.randint(images, (regions, 1), generator=generator)
    return x, torch.cat([image, start, start + size], 1)


def plain(x, rois, bins, scale, ratio, mode, aligned):
    """RoIAlign as its definition reads, a point at a time."""
    result = np.zeros((len(rois), x.shape[1], *bins))
    for r, (image, *corners) in enumerate(rois.double().numpy()):
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        sizes = np.array([y2 - y1, x2 - x1])
        if not aligned:
            sizes = np.maximum(sizes, 1)
        step = sizes / bins
        points = [ratio or int(np.ceil(s)) for s in step]
        for by, bx in np.ndindex(*bins):
            values = [bilinear(x[int(image)].double().numpy(),
                               y1 + step[0] * (by + (iy + 0.5) / points[0]),
                               x1 + step[1] * (bx + (ix + 0.5) / points[1]))
                      for iy in range(points[0]) for ix in range(points[1])]
            if values:
                result[r, :, by, bx] = np.mean(values, 0) if mode == 'avg' else np.max(values, 0)
            elif mode == 'max':
                result[r, :, by, bx] = -10000
    return torch.from_numpy(result)


def bilinear(image, y, x):
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    return ((1 - y) * ((1 - x) * image[:, top, left] + x * image[:, top, right])
            + y * ((1 - x) * image[:, bottom, left] + x * image[:, bottom, right]))


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 3])
@pytest.mark.parametrize('aligned', [True, False])
def test_definition(own_ops, both_ways, mode, ratio, aligned):
    x, rois = sample(dtype=torch.float64)
    y = own_ops.roi_align(x, rois, (3, 2), 0.25, ratio, mode, aligned)
    torch.testing.assert_close(y, plain(x, rois, (3, 2), 0.25, ratio, mode, aligned))


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 2])
def test_gradient(own_ops, both_ways, mode, ratio):
    x, rois = sample(channels=2, dtype=torch.float64, regions=3)
    torch.autograd.gradcheck(
        lambda x: own_ops.roi_align(x, rois, (2, 3), 0.125, ratio, mode, True),
        x[:, :, :6, :7].clone().requires_grad_())


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('ratio', [0, 1, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('channels', [1, 16])
def test_equals_the_compiled_op(own_ops, compiled, mode, ratio, aligned, channels):
    results = []
    for implementation in (extension(), compiled):
        x, rois = sample(channels, regions=60)
        x.requires_grad_()
        with served_by(implementation):
            y = own_ops.roi_align(x, rois, (7, 5), 0.25, ratio, mode, aligned)
            y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        results.append((y, x.grad))
    torch.testing.assert_close(*results, rtol=0, atol=2e-6 * float(results[1][1].abs().max()))


def test_chunks_change_nothing(own_ops, monkeypatch):
    results = []
    for chunk, number in ((module.CHUNK, 1), (300, 30)):  # a region alone may be larger
        monkeypatch.setattr(module, 'CHUNK', chunk)
        x, rois = sample(channels=16, regions=30)
        regions = module._Regions.of(rois, x.shape, (7, 7), 0.25, 0, True)
        assert len(list(regions.chunks())) == number
        y = own_ops.roi_align(x.requires_grad_(), rois, 7, 0.25)
        y.square().sum().backward()
        results.append((y, x.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_halves_are_computed_in_float32(own_ops, both_ways, dtype, mode):
    """The module itself takes them; mmcv's function is wrapped besides."""
    x, rois = sample()
    x, rois = x.to(dtype), rois.to(dtype)
    settings = dict(aligned_height=3, aligned_width=3, spatial_scale=0.25, sampling_ratio=0,
                    pool_mode=int(mode == 'avg'), aligned=True)
    results = []
    for kind in (dtype, torch.float32):
        y = torch.zeros(len(rois), 3, 3, 3, dtype=kind)
        argmax = [torch.zeros_like(y) for _ in 'yx']
        extension().roi_align_forward(x.to(kind), rois.to(kind), y, *argmax, **settings)
        dx = torch.zeros_like(x, dtype=kind)
        extension().roi_align_backward(torch.ones_like(y), rois.to(kind), *argmax, dx, **settings)
        results.append((y, dx))
    (y, dx), (exact, exact_dx) = results
    assert torch.equal(y, exact.to(dtype))
    if mode == 'avg':  # the largest point's place is kept in the half
        torch.testing.assert_close(dx, exact_dx.to(dtype))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(own_ops, both_ways, dtype):
    x, rois = sample()
    results = []
    for enabled in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast('cpu', dtype, enabled=enabled):
            y = own_ops.roi_align(leaf, rois, 7, 0.25)
            y.sum().backward()
        results.append((y, leaf.grad))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize('change', [
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    lambda x: torch.stack([x, x], 1)[:, 0],
    lambda x: x[:, :1].expand(-1, 8, -1, -1),
], ids=['channels_last', 'transposed', 'a view', 'expanded'])
def test_layouts(own_ops, both_ways, change):
    x, rois = sample(channels=8)
    layout = change(x)
    results = []
    for features in (layout, layout.contiguous()):
        leaf = features.detach().requires_grad_()
        y = own_ops.roi_align(leaf, rois, (7, 5), 0.25)
        upstream = torch.linspace(0, 1, y.numel()).view(*y.shape[:2], 5, 7).transpose(2, 3)
        y.backward(upstream)
        results.append((y, leaf.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_no_boxes_no_images_no_channels(own_ops, both_ways, mode):
    for images, channels in ((2, 3), (0, 3), (2, 0)):
        x = torch.randn(images, channels, 12, 15, requires_grad=True)
        y = own_ops.roi_align(x, torch.zeros(0, 5), 7, 0.25, 0, mode)
        assert y.shape == (0, channels, 7, 7)
        y.sum().backward()
        assert x.grad.shape == x.shape
        assert not x.grad.any()
    assert own_ops.roi_align(torch.zeros(1, 0, 4, 4), torch.zeros(3, 5), 7).shape == (3, 0, 7, 7)


def test_boxes_outside_and_empty_give_zero(own_ops, both_ways):
    x, _ = sample()
    rois = torch.tensor([[0., -500, -500, -400, -400], [1, 900, 900, 990, 990], [0, 5, 5, 5, 5]])
    assert not own_ops.roi_align(x, rois, 7, 0.25).any()


def test_a_box_of_a_million_pixels(own_ops, both_ways):
    """Its points within the image are what counts, and what memory it takes is bounded."""
    x, _ = sample()
    y = own_ops.roi_align(x, torch.tensor([[0., -5e5, -5e5, 5e5, 5e5]]), 7, 0.25)
    assert y[:, :, 3, 3].all()
    assert y.count_nonzero() == 3


@pytest.mark.parametrize(('box', 'aligned'), [
    ([0., float('nan'), 0, 5, 5], True),
    ([0., float('nan'), 0, 5, 5], False),
    ([0., 0, 0, float('inf'), 5], False),
    ([0., 9, 0, 5, 5], True),
    ([2., 0, 0, 5, 5], False),
    ([-1., 0, 0, 5, 5], False),
])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_refuses_a_box_that_would_read_other_memory(own_ops, box, aligned, mode):
    x, rois = sample()
    rois[4] = torch.tensor(box)
    with pytest.raises(ValueError, match='box 4 of 9 is .*an image from 0 to 1'):
        own_ops.roi_align(x, rois, 7, 0.25, 0, mode, aligned)


def test_nan_in_features_stays_where_it_is(own_ops, both_ways):
    x, _ = sample()
    x[0, :, 11, 14] = float('nan')
    rois = torch.tensor([[0., 0, 0, 20, 20], [0, 40, 30, 60, 48]])
    near, far = own_ops.roi_align(x, rois, 4, 0.25).isnan().flatten(1).any(1).flip(0)
    assert near
    assert not far
