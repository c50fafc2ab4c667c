"""The way through torchvision, on a stand-in for its compiled ops.

They do not load beside a PyTorch for the CPU, so each stand-in takes what the real function's
signature takes, and computes what torchvision documents: its own Python for RoIAlign, the loop of
its kernels for the others. Like torchvision 0.19 to 0.21 on the CPU they take no halves.
"""
import importlib
import inspect

import pytest
import torch
import torch.nn.functional as F

from mmvssd.compat.mmcv_ops import deform_conv, extension, providers, served_by, through_torchvision

torchvision = pytest.importorskip('torchvision')


@pytest.fixture
def served(monkeypatch):
    """``mmcv.ops`` through torchvision; the names of its ops that ran."""
    ran = []
    for stand_in in (nms, roi_align, deform_conv2d):
        name = stand_in.__name__
        signature = inspect.signature(getattr(torchvision.ops, name))

        def call(*args, name=name, signature=signature, stand_in=stand_in, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for tensor in bound.arguments.values():
                if isinstance(tensor, torch.Tensor) and tensor.element_size() < 4:
                    raise RuntimeError(f'{name} not implemented for {tensor.dtype}')
            ran.append(name)
            return stand_in(**bound.arguments)

        monkeypatch.setattr(torchvision.ops, name, call)
    monkeypatch.setattr(through_torchvision, 'serves', lambda device: True)
    with served_by(extension()):
        import mmcv.ops
        yield mmcv.ops, ran


def nms(boxes, scores, iou_threshold):
    """Suppress above a threshold in float64, as its kernel for the CPU."""
    kept = []
    for box in scores.argsort(descending=True, stable=True).tolist():
        overlap = torchvision.ops.box_iou(boxes[box:box + 1], boxes[kept])[0]
        if not (overlap.double() > iou_threshold).any():
            kept.append(box)
    return torch.tensor(kept)


def roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned):
    """Run torchvision's own Python, without its torch.compile."""
    python = importlib.import_module('torchvision.ops.roi_align')._roi_align
    height, width = output_size
    return inspect.unwrap(python)(input, boxes, spatial_scale, height, width, sampling_ratio,
                                  aligned)


def deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask):
    """Read each tap with the gradient of its kernel, which has a slope at -1 too."""
    (images, channels, height, width), (outputs, _, kh, kw) = input.shape, weight.shape
    groups, deform_groups = channels // weight.shape[1], offset.shape[1] // (2 * kh * kw)
    columns = torch.zeros(images, channels, kh, kw, *offset.shape[2:], dtype=input.dtype)
    for n, c, i, j, oy, ox in torch.cartesian_prod(
            *map(torch.arange, (images, channels, kh, kw, *offset.shape[2:]))).tolist():
        tap = c // (channels // deform_groups) * kh * kw + i * kw + j
        y = oy * stride[0] - padding[0] + i * dilation[0] + offset[n, 2 * tap, oy, ox]
        x = ox * stride[1] - padding[1] + j * dilation[1] + offset[n, 2 * tap + 1, oy, ox]
        top, left = int(y.floor()), int(x.floor())
        value = input.new_zeros(())
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= row < height and 0 <= column < width:
                share = 1 - (y - top) if row == top else y - top
                share = share * (1 - (x - left) if column == left else x - left)
                value = value + share * input[n, c, row, column]
        columns[n, c, i, j, oy, ox] = value if mask is None else value * mask[n, tap, oy, ox]
    columns = columns.view(images, groups, -1, *offset.shape[2:])
    y = torch.einsum('ngkhw,gok->ngohw', columns, weight.reshape(groups, outputs // groups, -1))
    y = y.reshape(images, outputs, *offset.shape[2:])
    return y if bias is None else y + bias[:, None, None]


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align(served, monkeypatch, aligned, ratio):
    ops, ran = served
    torch.manual_seed(0)
    # within the picture: beyond it, its Python repeats the edge where its kernels give 0
    boxes = torch.rand(12, 4) * torch.tensor([60., 48, 60, 48])
    boxes = torch.cat([boxes.view(-1, 2, 2).amin(1), boxes.view(-1, 2, 2).amax(1)], 1)
    rois = torch.cat([torch.randint(2, (12, 1)), boxes], 1)
    results = []
    for through in (True, False):
        monkeypatch.setattr(through_torchvision, 'serves', lambda device, answer=through: answer)
        torch.manual_seed(1)
        x = torch.randn(2, 9, 12, 15, requires_grad=True)
        y = ops.roi_align(x, rois, (3, 4), 0.25, ratio, 'avg', aligned)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        results.append((y, x.grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    assert ran == ['roi_align'] * 2  # forward, and once more for the gradient


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_halves(served, dtype):
    """Results have the input's dtype, and are those in float32 but for its rounding."""
    ops, ran = served
    torch.manual_seed(0)
    boxes = torch.tensor([[0., 0, 8, 8], [1, 1, 9, 9], [20, 20, 30, 30]]).to(dtype)
    rois, results = torch.cat([boxes.new_zeros(3, 1), boxes / 2], 1), []
    features = torch.randn(1, 4, 16, 16).to(dtype)
    for kind in (dtype, torch.float32):
        x = features.detach().to(kind).requires_grad_()
        y = ops.roi_align(x, rois.to(kind), 7)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype).to(kind))
        assert y.dtype == x.grad.dtype == kind
        results.append((y, x.grad))
    for rounded, exact in zip(*results):
        torch.testing.assert_close(rounded, exact.to(dtype))
    assert ops.nms(boxes, boxes.new_tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
    assert ran == ['roi_align'] * 4 + ['nms']


def test_roi_align_max_is_not_torchvisions(served):
    ops, ran = served
    ops.roi_align(torch.randn(1, 9, 6, 6), torch.tensor([[0., 0, 0, 5, 5]]), 2, 1., 0, 'max')
    assert ran == []


def test_nms(served):
    ops, ran = served
    boxes = torch.tensor([[0., 0, 10, 1], [0, 0, 3, 1], [0, 0, 9, 1]])
    scores = torch.tensor([.9, .8, .7])
    # 0.3 and 0.9 in float32 are above those in float64, and mmcv keeps what is not above
    assert ops.nms(boxes, scores, 0.3)[1].tolist() == [0, 1]
    assert ran == ['nms']
    assert ops.nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]
    assert ran == ['nms']


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('settings', [
    # stride, padding, dilation, groups, deform groups
    (1, 1, 1, 1, 1),
    ((1, 2), (2, 0), (2, 1), 2, 2),
])
@pytest.mark.parametrize('whole', [False, True], ids=['offsets', 'whole offsets'])
def test_deformable_convolution(served, monkeypatch, modulated, settings, whole):
    """Whole offsets reach -1, where torchvision's gradient has to be kept out."""
    ops, ran = served
    stride, padding, dilation, groups, deform_groups = settings
    results = []
    for through in (True, False):
        monkeypatch.setattr(through_torchvision, 'serves', lambda device, answer=through: answer)
        generator = torch.Generator().manual_seed(0)

        def random(*shape, generator=generator):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        x, weight, bias = random(2, 4, 4, 3), random(6, 4 // groups, 3, 2), random(6)
        out = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
        offset, mask = random(2, 12 * deform_groups, *out), random(2, 6 * deform_groups, *out)
        offset = offset.round() if whole else offset
        inputs = [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]
        x, offset, mask, weight, bias = inputs
        if modulated:
            y = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *settings)
        else:
            y = ops.deform_conv2d(x, offset, weight, *settings)
        y.backward(random(*y.shape))
        results.append([y, *(tensor.grad for tensor in inputs if tensor.grad is not None)])
    assert len(results[0]) == (6 if modulated else 4)
    torch.testing.assert_close(*results)
    assert set(ran) == {'deform_conv2d'}


def test_the_stand_in_has_the_slope_that_is_kept_out():
    """Or the test above would hold nothing."""
    x, offset = torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 4, 4, requires_grad=True)
    deform_conv2d(x, offset, torch.ones(1, 1, 1, 1), None, (1, 1), (1, 1), (1, 1),
                  None).sum().backward()
    assert offset.grad[0, 0, 0, 1:3].all()  # one row above the picture
    geometry = deform_conv._Geometry((1, 1), (1, 1), (1, 1), 1)
    places = deform_conv._places(geometry, offset.detach(), torch.ones(1, 1, 1, 1))
    assert not deform_conv._inside(*places, (2, 2))[0, 0, 0].any()


def test_the_obstacle_is_named(monkeypatch):
    through_torchvision.obstacle.cache_clear()
    monkeypatch.setattr(torchvision.ops, 'nms', lambda boxes, scores, threshold: torch.tensor([0]))
    assert through_torchvision.obstacle('cpu') is None

    def fails(boxes, scores, threshold):
        raise RuntimeError("Couldn't load custom C++ ops.\nThis can happen")

    through_torchvision.obstacle.cache_clear()
    monkeypatch.setattr(torchvision.ops, 'nms', fails)
    assert through_torchvision.obstacle('cpu') == "RuntimeError: Couldn't load custom C++ ops."
    assert not through_torchvision.serves(torch.device('cpu'))
    through_torchvision.obstacle.cache_clear()


def test_providers_say_torchvision(monkeypatch):
    import mmvssd.compat.mmcv_ops as package
    monkeypatch.setattr(package, '_installed', lambda: package._Finder().find_spec(package.MODULE))
    monkeypatch.setattr(through_torchvision, 'obstacle', lambda device: None)
    served = providers()
    assert served['nms'] == served['roi_align'] == served['deform_conv'] == 'torchvision'
    assert served['softnms'] == 'mmvssd'
    assert served['prroi_pool'] is None
