"""CARAFE, masked convolution and the mask of PSANet by their definitions."""
import pytest
import torch
import torch.nn.functional as F

from mmvssd.compat.mmcv_ops import extension, served_by


def plain_carafe(features, masks, kernel, groups, scale):
    images, channels, height, width = features.shape
    padded = F.pad(features, [kernel // 2] * 4)
    result = features.new_zeros(images, channels, height * scale, width * scale)
    for c in range(channels):
        weights = masks.view(images, groups, kernel, kernel, *masks.shape[2:])[
            :, c // (channels // groups)]
        for y in range(height * scale):
            for x in range(width * scale):
                window = padded[:, c, y // scale:y // scale + kernel,
                                x // scale:x // scale + kernel]
                result[:, c, y, x] = (window * weights[:, :, :, y, x]).sum((1, 2))
    return result


def carafe_sample(kernel=3, groups=2, scale=2):
    torch.manual_seed(0)
    return (torch.randn(2, 4, 3, 4, dtype=torch.float64),
            torch.randn(2, groups * kernel**2, 3 * scale, 4 * scale, dtype=torch.float64))


@pytest.mark.parametrize('name', ['carafe', 'carafe_naive'])
@pytest.mark.parametrize('settings', [(3, 2, 2), (5, 1, 1), (1, 4, 3)])
def test_carafe(own_ops, name, settings):
    features, masks = carafe_sample(*settings)
    y = getattr(own_ops, name)(features, masks, *settings)
    torch.testing.assert_close(y, plain_carafe(features, masks, *settings))


def test_gradient_of_carafe(own_ops):
    inputs = [tensor.requires_grad_() for tensor in carafe_sample()]
    torch.autograd.gradcheck(lambda *inputs: own_ops.carafe(*inputs, 3, 2, 2), inputs,
                             fast_mode=True)


def test_gradient_of_carafe_naive():
    """mmcv asserts a GPU before it calls this, so it is called itself."""
    features, masks = carafe_sample()
    inputs = [tensor.requires_grad_() for tensor in (features, masks)]
    y = plain_carafe(*inputs, 3, 2, 2)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    gradients = [torch.zeros_like(tensor) for tensor in inputs]
    extension().carafe_naive_backward(upstream, features, masks, *gradients, kernel_size=3,
                                      group_size=2, scale_factor=2)
    torch.testing.assert_close(gradients, list(torch.autograd.grad(y, inputs, upstream)))


@pytest.mark.parametrize('padding', [1, (1, 0)])
def test_masked_convolution(own_ops, padding):
    """On a GPU mmcv takes this way; on the CPU its layer convolves everywhere."""
    from mmcv.ops.masked_conv import MaskedConv2dFunction
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 3, 6, 7), torch.randn(4, 3, 3, 3), torch.randn(4)
    expected = F.conv2d(x, weight, bias, padding=padding)
    mask = torch.zeros(1, 6, 7)
    mask[:, :expected.shape[2], :expected.shape[3]] = torch.rand(expected.shape[2:]) > 0.5
    y = MaskedConv2dFunction.apply(x, mask, weight, bias, padding)
    where = mask[:, None, :expected.shape[2], :expected.shape[3]] > 0
    torch.testing.assert_close(y, expected * where)
    assert 0 < where.sum() < where.numel()
    assert not MaskedConv2dFunction.apply(x, mask * 0, weight, bias, padding).any()


def plain_psamask(x, kind, size):
    images, _, height, width = x.shape
    result = x.new_zeros(images, height * width, height, width)
    half_y, half_x = ((side - 1) // 2 for side in size)
    for h in range(height):
        for w in range(width):
            for i in range(size[0]):
                for j in range(size[1]):
                    y, z = h + i - half_y, w + j - half_x
                    if 0 <= y < height and 0 <= z < width:
                        weight = x[:, i * size[1] + j, h, w]
                        if kind == 'collect':
                            result[:, y * width + z, h, w] = weight
                        else:
                            result[:, h * width + w, y, z] = weight
    return result


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('size', [(3, 5), (4, 3), (7, 9), (1, 1)])
def test_psamask(own_ops, kind, size):
    torch.manual_seed(0)
    x = torch.randn(2, size[0] * size[1], 3, 4, dtype=torch.float64, requires_grad=True)
    layer = own_ops.PSAMask(kind, size)
    torch.testing.assert_close(layer(x), plain_psamask(x, kind, size))
    torch.autograd.gradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_psamask_equals_the_compiled_op(own_ops, compiled, kind):
    x = torch.randn(2, 15, 3, 4)
    results = []
    for implementation in (extension(), compiled):
        with served_by(implementation):
            results.append(own_ops.PSAMask(kind, (3, 5))(x))
    assert torch.equal(*results)
