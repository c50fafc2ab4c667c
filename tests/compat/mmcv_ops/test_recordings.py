"""The ops give what mmcv 2.1.0's compiled ones gave on the CPU: recorded inputs and outputs."""
import numpy as np
import pytest
import torch

METHODS = ('naive', 'linear', 'gaussian')


@pytest.fixture(scope='module')
def recorded(golden):
    """``recorded(prefix)`` -> {name: tensor} of one case; skips a case that has none."""
    file = golden.HERE / 'mmcv_ops.npz'
    if not file.is_file():
        pytest.skip(f"the recordings of mmcv's ops are not at {file}")
    arrays = dict(np.load(file))

    def case(prefix):
        found = {name[len(prefix) + 1:]: torch.from_numpy(value)
                 for name, value in arrays.items() if name.startswith(f'{prefix}/')}
        if not found:
            pytest.skip(f'{file} has no {prefix}')
        return found

    return case


def assert_close(value, expected):
    """Equal within 1e-5 of the largest value; where mmcv's maximum starts, exactly."""
    assert value.shape == expected.shape
    lowest = expected == -10000
    assert torch.equal(value == -10000, lowest)
    value, expected = value[~lowest], expected[~lowest]
    assert (value - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize('number', range(6))
@pytest.mark.parametrize('dense', [False, True], ids=['weighted rows', 'matrix products'])
def test_roi_align(own_ops, recorded, monkeypatch, number, dense):
    from mmvssd.compat.mmcv_ops import roi_align
    monkeypatch.setattr(roi_align, '_few_channels', lambda features, regions: dense)
    case = recorded(f'roi_align/{number}')
    scale, height, width, ratio, aligned, maximum = case['settings'].tolist()
    x = case['x'].requires_grad_()
    y = own_ops.roi_align(x, case['rois'], (int(height), int(width)), scale, int(ratio),
                          'max' if maximum else 'avg', bool(aligned))
    y.backward(case['dy'])
    assert_close(y, case['y'])
    assert_close(x.grad, case['dx'])


@pytest.mark.parametrize('number', range(8))
def test_nms(own_ops, recorded, number):
    case = recorded(f'nms/{number}')
    threshold, offset = case['settings'].tolist()
    dets, kept = own_ops.nms(case['boxes'], case['scores'], threshold, int(offset))
    assert torch.equal(kept, case['keep'])
    assert torch.equal(dets, case['dets'])


@pytest.mark.parametrize('number', [0, 1, 3, 5, 6, 7])  # 2 has an offset, 4 no boxes
def test_batched_nms(own_ops, recorded, number):
    case = recorded(f'batched_nms/{number}')
    settings = dict(type='nms', iou_threshold=case['settings'].item())
    dets, kept = own_ops.batched_nms(case['boxes'], case['scores'], case['ids'], settings)
    assert torch.equal(kept, case['keep'])
    assert torch.equal(dets, case['dets'])


@pytest.mark.parametrize('method', METHODS)
def test_soft_nms(own_ops, recorded, method):
    case = recorded(f'soft_nms/{method}')
    dets, kept = own_ops.soft_nms(case['boxes'], case['scores'], method=method)
    assert torch.equal(kept, case['keep'])
    assert_close(dets, case['dets'])


@pytest.mark.parametrize('kind', ['DeformConv2d', 'ModulatedDeformConv2d'])
def test_deformable_convolution(own_ops, recorded, kind):
    case = recorded(kind)
    inputs = {name: case[name].requires_grad_()
              for name in ('x', 'offset', 'mask', 'weight', 'bias') if name in case}
    deform_groups = case['offset'].shape[1] // (2 * case['weight'][0, 0].numel())
    convolve = (own_ops.deform_conv2d if kind == 'DeformConv2d'
                else own_ops.modulated_deform_conv2d)
    # stride, padding, dilation, groups
    y = convolve(*inputs.values(), 1, 1, 1, 1, deform_groups)
    y.backward(case['dy'])
    assert_close(y, case['y'])
    recorded_gradients = [name for name in inputs if f'd{name}' in case]
    assert len(recorded_gradients) >= 3
    for name in recorded_gradients:
        assert_close(inputs[name].grad, case[f'd{name}'])
