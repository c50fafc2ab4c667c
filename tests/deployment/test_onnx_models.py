"""Backbones as ONNX models: PyTorch's exporter only, all sizes open, standard operators."""
import importlib.util
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvssd.deployment import onnx_models
from mmvssd.deployment.archs import largest_difference
from mmvssd.deployment.models import AdaptivePool, replace_adaptive_pools_
from mmvssd.deployment.onnx_models import OnnxModel, open_images, require
from mmvssd.errors import ConfigError
from mmvssd.models import VSSD, VMamba

for package in ('onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(package)
if not hasattr(torch.export.Dim, 'DYNAMIC'):
    pytest.skip('this PyTorch cannot leave sizes open', allow_module_level=True)

#: A block, and a second stage that only halves the grid: it takes half of the time to export.
ONE = dict(embed_dims=16, depths=(1, 0))
HEADS = dict(num_heads=(2, 2), d_state=8)
MODELS = {
    'vmamba': lambda: VMamba(ONE, out_indices=(0, 1)),
    'vmamba-v0': lambda: VMamba(dict(ONE, version='v0', d_state=4), out_indices=(0, 1)),
    'vmamba-bidirectional': lambda: VMamba(dict(ONE, pattern='bidirectional'),
                                           out_indices=(0, 1)),
    'vmamba-unidirectional': lambda: VMamba(dict(ONE, pattern='unidirectional'),
                                            out_indices=(0, 1)),
    'vssd': lambda: VSSD(dict(ONE, **HEADS), out_indices=(0, 1)),
    'vssd-iccv2025': lambda: VSSD(dict(ONE, **HEADS, normalize=True, stem='plain',
                                       downsample='plain'), out_indices=(0, 1)),
    # one half of the heads are causal, the others causal in reverse
    'vssd-causal': lambda: VSSD(dict(ONE, num_heads=(4, 4), d_state=8, mixers=('bi_ssd', ) * 2,
                                     stem='simple', downsample='simple'), out_indices=(0, 1)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', MODELS)
def test_an_exporter_without_preparation(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]().eval().requires_grad_(False)
    for parameter in model.parameters():
        # norms and biases as a trained model has them, not of ones and zeros
        parameter.add_(0.1 * torch.randn_like(parameter))
    program = torch.onnx.export(model, (torch.randn(2, 3, 48, 64), ), dynamo=True,
                                dynamic_shapes=dict(x=open_images()), verbose=False)
    assert {node.domain for node in program.model.graph} == {''}
    assert not {'Loop', 'Scan', 'If'} & {node.op_type for node in program.model.graph}
    file = tmp_path / 'model.onnx'
    program.save(file)
    run = OnnxModel(file, threads=1)
    for shape in ((2, 3, 48, 64), (1, 3, 224, 96), (3, 3, 37, 100), (1, 3, 32, 32)):
        images = torch.randn(shape)
        assert largest_difference(run(images.numpy()), model(images)) <= 1e-5, shape


@pytest.mark.slow
def test_no_loop_runs_over_tokens():
    """The graph of a scan is the same whatever the size of the example."""
    torch.manual_seed(0)
    model = VMamba(dict(embed_dims=8, depths=(1, ), pattern='unidirectional'),
                   out_indices=(0, )).eval()
    nodes = []
    for side in (32, 96):
        program = torch.onnx.export(model, (torch.randn(2, 3, side, side), ), dynamo=True,
                                    dynamic_shapes=dict(x=open_images()), verbose=False)
        nodes.append([node.op_type for node in program.model.graph])
    assert nodes[0] == nodes[1]


@pytest.mark.parametrize('size', [1, 2, 3, 6, (2, 5)])
@pytest.mark.parametrize('grid', [(1, 1), (7, 7), (12, 5), (6, 64)])
def test_adaptive_pools(size, grid):
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(size)))
    x = torch.randn(2, 3, *grid)
    expected = model(x)
    replace_adaptive_pools_(model)
    assert isinstance(model[0][0], AdaptivePool) == (size != 1)
    torch.testing.assert_close(model(x), expected)


def test_a_difference_that_is_not_a_number_is_no_agreement():
    true = [torch.ones(2), torch.tensor([2., -4.])]
    assert largest_difference([np.ones(2), np.array([2., -3.])], true) == 0.25
    assert not largest_difference([np.ones(2), np.array([np.nan, -4.])], true) <= 1


def test_a_package_that_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed .*pip install 'onnx>"):
        require('onnx', 'onnxruntime')


def test_the_exporters_own_words_are_left_out(caplog):
    """They are in the packages that are installed; what else these say is heard."""
    from torch.utils import _pytree
    spec = importlib.util.find_spec(onnx_models.FOLDING.partition('.')[0])
    assert spec is None or onnx_models.NOT_FOLDED in Path(
        importlib.util.find_spec(onnx_models.FOLDING).origin).read_text()
    logger = logging.getLogger(onnx_models.FOLDING)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        with onnx_models.quiet_exporter():
            _pytree.LeafSpec()
            warnings.warn(onnx_models.LEAF_SPEC, FutureWarning, stacklevel=1)
            warnings.warn('another', FutureWarning, stacklevel=1)
            logger.warning('Skipping constant folding for op %s with multiple outputs.', 'Split')
            logger.warning('Folding failed')
        logger.warning('Skipping constant folding for op Split')
    assert [str(warning.message) for warning in caught] == ['another']
    assert caplog.messages == ['Folding failed', 'Skipping constant folding for op Split']
