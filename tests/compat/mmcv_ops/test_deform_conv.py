"""Deformable convolutions: gradients, groups, layouts, and places at the border."""
import pytest
import torch
import torch.nn.functional as F

from mmvssd.compat.mmcv_ops import extension, served_by

SETTINGS = [
    # stride, padding, dilation, groups, deform groups
    (1, 1, 1, 1, 1),
    (2, 1, 1, 2, 1),
    ((1, 2), (2, 0), (2, 1), 1, 2),
    (1, 1, 1, 2, 4),
]


def sample(settings, dtype=torch.float64, images=2, side=(6, 5), seed=0):
    """x, offset, mask, weight, bias for 4 channels in and 6 out, a kernel of 3 x 2."""
    stride, padding, dilation, groups, deform_groups = settings
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    x, weight = random(images, 4, *side), random(6, 4 // groups, 3, 2)
    out = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = 6 * deform_groups
    return (x, 1.5 * random(images, 2 * taps, *out), random(images, taps, *out).sigmoid(), weight,
            random(6))


def run(ops, settings, x, offset, mask, weight, bias, modulated):
    if modulated:
        return ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *settings)
    return ops.deform_conv2d(x, offset, weight, *settings)


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('settings', SETTINGS)
def test_without_offsets_it_is_a_convolution(own_ops, settings, modulated):
    x, offset, mask, weight, bias = sample(settings)
    y = run(own_ops, settings, x, offset * 0, torch.ones_like(mask), weight, bias, modulated)
    torch.testing.assert_close(
        y, F.conv2d(x, weight, bias if modulated else None, *settings[:4]))


@pytest.mark.parametrize('settings', SETTINGS)
def test_whole_offsets_move_the_picture(own_ops, settings):
    """Every tap one pixel down and two to the left, from a picture that is padded with zeros."""
    x, offset, mask, weight, bias = sample(settings)
    steps = torch.tensor([1., -2], dtype=x.dtype).repeat(offset.shape[1] // 2)
    y = own_ops.deform_conv2d(x, steps[:, None, None].expand_as(offset).contiguous(), weight,
                              *settings)
    down, right = settings[1] if isinstance(settings[1], tuple) else (settings[1], ) * 2
    window = F.pad(x, (right + 2, right, down, down + 1))[:, :, 1:, :x.shape[3] + 2 * right]
    expected = F.conv2d(window, weight, None, settings[0], 0, settings[2], settings[3])
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('settings', SETTINGS)
def test_gradients(own_ops, settings, modulated):
    inputs = [tensor.requires_grad_() for tensor in sample(settings, side=(4, 3))]
    torch.autograd.gradcheck(lambda *inputs: run(own_ops, settings, *inputs, modulated), inputs,
                             fast_mode=True)


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('whole', [False, True], ids=['offsets', 'whole offsets'])
def test_equals_the_compiled_op(own_ops, compiled, settings, modulated, whole):
    results = []
    for implementation in (extension(), compiled):
        x, offset, mask, weight, bias = sample(settings, torch.float32, side=(11, 9))
        inputs = [tensor.requires_grad_()
                  for tensor in (x, offset.round() if whole else offset, mask, weight, bias)]
        with served_by(implementation):
            y = run(own_ops, settings, *inputs, modulated)
            y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        results.append([y, *(tensor.grad for tensor in inputs if tensor.grad is not None)])
    assert len(results[0]) == (6 if modulated else 4)
    for own, expected in zip(*results):
        torch.testing.assert_close(own, expected, rtol=0,
                                   atol=2e-6 * float(expected.abs().max()) + 1e-6)


def test_a_place_at_minus_one_has_no_gradient(own_ops):
    """Offsets of 0 read the padding; there mmcv gives none, though one side has a slope."""
    x, offset, mask, weight, bias = sample(SETTINGS[0])
    offset = torch.zeros_like(offset).requires_grad_()
    own_ops.deform_conv2d(x, offset, weight, 1, 1).sum().backward()
    by_tap = offset.grad.view(2, 3, 2, 2, *offset.shape[2:])
    assert not by_tap[:, 0, :, :, 0].any()  # the upper taps of the uppermost row read row -1
    assert by_tap[:, 0, 1, :, 1:].any()


def test_nan_offsets_count_nothing(own_ops):
    x, offset, mask, weight, bias = sample(SETTINGS[0])
    offset[:, :, 0] = float('nan')
    inputs = [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]
    y = run(own_ops, SETTINGS[0], *inputs, True)
    torch.testing.assert_close(y[:, :, 0], bias[:, None].expand_as(y[:, :, 0]))
    y.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(own_ops, dtype):
    results = []
    for kind in (dtype, torch.float32):
        inputs = [tensor.to(dtype).to(kind).requires_grad_()
                  for tensor in sample(SETTINGS[3], torch.float32)]
        y = run(own_ops, SETTINGS[3], *inputs, True)
        y.backward(torch.ones_like(y))
        results.append([y, *(tensor.grad for tensor in inputs)])
    for own, exact in zip(*results):
        assert own.dtype == dtype
        torch.testing.assert_close(own.float(), exact, rtol=0.02, atol=0.05)


def test_autocast_changes_nothing_but_what_mmcv_casts(own_ops):
    inputs = sample(SETTINGS[0], torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        y = run(own_ops, SETTINGS[0], *inputs, True)
    torch.testing.assert_close(y, run(own_ops, SETTINGS[0], *inputs, True), rtol=0, atol=0)


def test_layouts(own_ops):
    settings = SETTINGS[3]
    results = []
    for change in (lambda x: x.contiguous(),
                   lambda x: x.contiguous(memory_format=torch.channels_last),
                   lambda x: x.transpose(2, 3).contiguous().transpose(2, 3)):
        x, offset, mask, weight, bias = sample(settings)
        inputs = [change(tensor).detach().requires_grad_() for tensor in (x, offset, mask, weight)]
        y = run(own_ops, settings, *inputs, bias, True)
        y.backward(change(torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)))
        results.append([y, *(tensor.grad for tensor in inputs)])
    for other in results[1:]:
        for tensor, expected in zip(other, results[0]):
            torch.testing.assert_close(tensor, expected)


def test_the_layers_of_the_hosts_run(own_ops):
    """As a recipe names them; their offsets are zero at the start."""
    from mmengine.registry import MODELS
    x = torch.randn(2, 4, 7, 7)
    for kind in ('DCN', 'DCNv2'):
        layer = MODELS.build(dict(type=kind, in_channels=4, out_channels=6, kernel_size=3,
                                  padding=1, bias=False))
        y = layer(x)
        # v2 starts with a mask of a half
        torch.testing.assert_close(
            y, F.conv2d(x, layer.weight, padding=1) * (0.5 if kind == 'DCNv2' else 1))
        y.sum().backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())
