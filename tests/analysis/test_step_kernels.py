"""Where a step's time goes: kinds of work, and the table of them."""
import json

import pytest
import torch

from mmvssd.analysis import step_kernels
from mmvssd.analysis.step_kernels import StepKernels, kind_of
from mmvssd.analysis.throughput import Setting
from mmvssd_kernels.benchmark import profiling
from mmvssd_kernels.benchmark.profiling import Kernel


@pytest.mark.parametrize(('operator', 'kind'), [
    ('mmvssd_kernels::nc_ssd_backward', 'our ops'),
    ('aten::native_layer_norm_backward', 'LayerNorm'),
    ('aten::cudnn_batch_norm', 'other normalization'),
    ('aten::cudnn_convolution', 'convolutions'), ('aten::convolution_backward', 'convolutions'),
    ('aten::_conv_depthwise2d', 'convolutions'),
    ('aten::_scaled_dot_product_flash_attention', 'attention'), ('aten::_softmax', 'attention'),
    ('aten::mm', 'products'), ('aten::addmm', 'products'), ('aten::bmm', 'products'),
    ('aten::copy_', 'casts and copies'), ('aten::cat', 'casts and copies'),
    ('aten::sum', 'sums'), ('aten::add_', 'biases and sums of branches'),
    ('aten::add', 'biases and sums of branches'), ('aten::addcmul', 'element by element'),
    ('aten::gelu_backward', 'element by element'), ('aten::mul_', 'element by element'),
    ('aten::silu', 'element by element'), ('aten::max_pool2d_with_indices', 'all else'),
    ('aten::index', 'all else'), ('', 'all else')])
def test_kinds(operator, kind):
    assert kind_of(operator) == kind


def test_a_real_step_has_its_kinds():
    convolution, norm, linear = torch.nn.Conv2d(3, 8, 3), torch.nn.LayerNorm(8), torch.nn.Linear(
        8, 8)
    images = torch.rand(2, 3, 8, 8)

    def step():
        x = norm(convolution(images).flatten(2).transpose(1, 2))
        (x + torch.nn.functional.gelu(linear(x))).sum().backward()

    kernels = profiling.profile(step, torch.device('cpu'), calls=1)
    kinds = StepKernels('a', Setting('train', 2, 8), kernels).by_kind()
    assert {'LayerNorm', 'convolutions', 'products', 'element by element', 'sums',
            'biases and sums of branches'} <= set(kinds)
    assert 'our ops' not in kinds
    assert sum(kinds.values()) == pytest.approx(profiling.total(kernels))


def test_table(tmp_path):
    steps = [StepKernels('a', Setting('infer', 2, 8), [
        Kernel('states', 'mmvssd_kernels::nc_ssd', 0.003, 2), Kernel('x', 'aten::mm', 0.001, 1),
        Kernel('y', 'aten::bmm', 0.0005, 1)]),
             StepKernels('b', Setting('infer', 2, 8), [Kernel('x', 'aten::mm', 0.002, 1),
                                                       Kernel('?', '', 0.0001, 1)])]
    step_kernels.write(steps, ['a machine'], tmp_path / 'kernels.md')
    text = (tmp_path / 'kernels.md').read_text()
    assert text == step_kernels.markdown(steps, ['a machine'])
    assert text.splitlines() == [
        'a machine', '', '| ms | a, infer:2x8 | b, infer:2x8 |', '| --- | --- | --- |',
        '| our ops | 3.00 | - |', '| products | 1.50 | 2.00 |', '| all else | - | 0.10 |',
        '| all | 4.50 | 2.10 |']
    written = json.loads((tmp_path / 'kernels.json').read_text())
    assert written['steps'][0]['kinds'] == {'our ops': 0.003, 'products': 0.0015}
    assert written['steps'][1]['kernels'][1] == dict(name='?', operator='', seconds=0.0001,
                                                     launches=1)
