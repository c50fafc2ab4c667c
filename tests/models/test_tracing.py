"""Tracing and exporting backbones, also with sizes left open; test_backbones.py compiles them."""
import pytest
import torch

from mmvssd.models import VSSD, VMamba

#: A block, and a second stage that only halves the grid: it takes half of the time to export.
NANO = dict(embed_dims=16, depths=(1, 0), num_heads=(2, 2), d_state=8)
MIXERS = ('nc_ssd', 'ssd', 'bi_ssd', 'attention')


def backbone(mixer):
    if mixer == 'ss2d':
        model = VMamba(dict(embed_dims=16, depths=(1, 0)), out_indices=(0, 1))
    else:
        model = VSSD(dict(NANO, mixers=(mixer, ) * 2), out_indices=(0, 1))
    return model.eval().requires_grad_(False)


@pytest.mark.filterwarnings('ignore:Converting a tensor to a Python')
@pytest.mark.filterwarnings('ignore:.*jit.trace.*is deprecated')
@pytest.mark.parametrize('mixer', [*MIXERS, 'ss2d'])
def test_traced(mixer):
    """Of another number of images too; the size of the images is that of the trace."""
    torch.manual_seed(0)
    model = backbone(mixer)
    traced = torch.jit.trace(model, torch.randn(1, 3, 32, 48))
    images = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(traced(images), model(images))


@pytest.mark.slow
@pytest.mark.parametrize('mixer', [*MIXERS, 'ss2d'])
def test_exported_with_open_sizes(mixer):
    torch.manual_seed(0)
    model = backbone(mixer)
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (torch.randn(2, 3, 32, 48), ),
                                  dynamic_shapes=dict(x=sizes))
    assert not [node for node in program.graph.nodes if 'mmvssd' in str(node.target)]
    exported = program.module()
    # of whole chunks and of others, unlike the example's
    for shape in ((2, 3, 32, 48), (1, 3, 37, 100), (3, 3, 64, 80), (1, 3, 256, 256)):
        images = torch.randn(shape)
        torch.testing.assert_close(exported(images), model(images))


@pytest.mark.slow
def test_exported_with_an_open_batch():
    """Its height and width are closed; a batch of any mixer is open in the test above."""
    torch.manual_seed(0)
    model = backbone('nc_ssd')
    exported = torch.export.export(model, (torch.randn(2, 3, 32, 48), ), dynamic_shapes=dict(
        x={0: torch.export.Dim('N', max=64)})).module()
    images = torch.randn(5, 3, 32, 48)
    torch.testing.assert_close(exported(images), model(images))


@pytest.mark.slow
def test_a_strict_export():
    """Of a VSSD other sizes run; a VMamba's program is tied to its example's."""
    torch.manual_seed(0)
    model = backbone('nc_ssd')
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(model, (torch.randn(2, 3, 32, 48), ),
                                   dynamic_shapes=dict(x=sizes), strict=True).module()
    for shape in ((2, 3, 32, 48), (1, 3, 37, 100), (3, 3, 64, 80)):
        images = torch.randn(shape)
        torch.testing.assert_close(exported(images), model(images))
