"""What stops a backbone from loading another model's weights."""
import pytest
import torch
from mmengine.model import PretrainedInit

from mmvssd.checkpoint import require_fit
from mmvssd.errors import CheckpointError
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD, VMamba

NANO, VMAMBA_NANO = (FAMILIES[name].nano for name in ('vssd', 'vmamba'))


@pytest.mark.parametrize('family', FAMILIES)
def test_a_classifier_becomes_a_dense_backbone(saved, family, load):
    family = FAMILIES[family]
    source = family.backbone(family.nano)
    torch.nn.init.normal_(source.norm3.weight)
    model = load(saved(source.state_dict()), family.nano, family=family.backbone)
    for name, value in model.state_dict().items():
        if name.startswith(('norm0', 'norm1', 'norm2')):
            assert (value == (1 if name.endswith('weight') else 0)).all()
        else:
            assert torch.equal(value, source.state_dict()[name]), name


def test_a_shallower_backbone_leaves_the_rest_out(saved, load):
    source = VSSD(NANO)
    model = load(saved(source.state_dict()), out_indices=(0, 1))
    assert torch.equal(model.stages[1][0].mixer.D, source.stages[1][0].mixer.D)
    assert len(model.stages) == 2


def test_another_arch(saved, load):
    file = saved(VSSD(NANO).state_dict())
    with pytest.raises(CheckpointError, match=r'(?s)not the weights of this VSSD.*missing: '
                                              r'stages.0.1.*of another shape: .*expected.*arch'):
        load(file, arch=dict(NANO, depths=(2, 1, 2, 1), embed_dims=32))


def test_another_family(saved, load):
    """The error says whose weights a converted file holds."""
    file = saved(VSSD(NANO).state_dict(), meta=dict(family='vssd', arch='nano'))
    with pytest.raises(CheckpointError, match=r"(?s)not the weights of this VMamba.*unknown: .*"
                                              r"holds a vssd of arch 'nano': check type and arch"):
        load(file, VMAMBA_NANO, family=VMamba)
    file = saved(VMamba(VMAMBA_NANO).state_dict(), meta=dict(epoch=3))
    with pytest.raises(CheckpointError, match=r'(?s)not the weights of this VSSD.*Check that type'):
        load(file)


def test_a_missing_weight(saved, load):
    with pytest.raises(CheckpointError, match=r'1 missing: stages.2.1.mixer.A_log'):
        load(saved(VSSD(NANO).state_dict(), drop=('stages.2.1.mixer.A_log', )))


def test_forgotten_prefix_and_unconverted_file(saved, load):
    file = saved(VSSD(NANO).state_dict())
    with pytest.raises(CheckpointError, match=r"set prefix='backbone.'"):
        load(file, prefix='')
    with pytest.raises(CheckpointError, match=r"no weights under the prefix 'model.'"):
        load(file, prefix='model.')
    for family, arch, name in ((VSSD, NANO, 'layers.0.blocks.0.cpe1.bias'),
                               (VMamba, VMAMBA_NANO, 'layers.0.blocks.0.self_attention.Ds')):
        with pytest.raises(CheckpointError, match=r'convert the file first'):
            load(saved({name: torch.zeros(16)}), arch, family=family)


def test_a_list_of_one_in_init_cfg_and_a_folder(saved, tmp_path, load):
    file = saved(VSSD(NANO).state_dict())
    VSSD(NANO, init_cfg=[dict(type='Pretrained', checkpoint=file,
                              prefix='backbone.')]).init_weights()
    with pytest.raises(CheckpointError, match=r'is a folder; name the checkpoint file in it'):
        load(str(tmp_path))


@pytest.mark.parametrize('first', [0, 1])
def test_several_entries_of_init_cfg(saved, first):
    """Weights of a file come last, wherever they are named; names that don't fit stop it."""
    source = VSSD(NANO)
    torch.nn.init.normal_(source.norm3.bias)
    entries = [dict(type='Constant', layer='LayerNorm', val=3., bias=2.),
               dict(type='Pretrained', checkpoint=saved(source.state_dict()), prefix='backbone.')]
    model = VSSD(NANO, init_cfg=[entries[first], entries[1 - first]])
    model.init_weights()
    assert torch.equal(model.norm3.bias, source.norm3.bias)
    assert torch.equal(model.stages[0][0].norm1.weight, source.stages[0][0].norm1.weight)
    assert (model.norm0.bias == 2).all()  # which a classifier has not
    assert model.init_cfg == [entries[first], entries[1 - first]]
    other = VSSD(dict(NANO, embed_dims=32), init_cfg=entries)
    with pytest.raises(CheckpointError, match='not the weights of this VSSD'):
        other.init_weights()


def test_the_class_of_an_initializer(saved):
    """Not only its name, as configs in Python import it."""
    file = saved(VSSD(NANO).state_dict())
    model = VSSD(dict(NANO, embed_dims=32), init_cfg=dict(
        type=PretrainedInit, checkpoint=file, prefix='backbone.'))
    with pytest.raises(CheckpointError, match='not the weights of this VSSD'):
        model.init_weights()
    model = VSSD(NANO, init_cfg=[])
    model.init_weights()


def changed(arch, **settings):
    return {**arch, **settings}


#: One of each stem.
STEMS = [(VSSD, NANO), (VSSD, changed(NANO, stem='plain')), (VSSD, changed(NANO, stem='simple')),
         (VMamba, VMAMBA_NANO), (VMamba, changed(VMAMBA_NANO, version='v0', d_state=2))]


@pytest.mark.parametrize(('family', 'arch'), STEMS)
def test_another_number_of_channels(saved, load, family, arch):
    source = family(arch).eval()
    file = saved(source.state_dict(), drop=())
    with pytest.raises(CheckpointError, match="in_channels is 4, the file's is 3; adapt_stem='aver"
                                              "age' or 'repeat' or 'extend' in init_cfg"):
        load(file, arch, family=family, in_channels=4)

    def adapted(channels, how):
        model = family(arch, in_channels=channels, init_cfg=dict(
            type='Pretrained', checkpoint=file, prefix='backbone.', adapt_stem=how)).eval()
        model.init_weights()
        return model

    grey = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        expected = source(grey.expand(1, 3, 32, 32))[3]
        for channels, how in ((1, 'average'), (5, 'average'), (6, 'repeat')):
            given = adapted(channels, how)(grey.expand(1, channels, 32, 32))[3]
            torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)
        colours = torch.rand(1, 3, 32, 32)
        five = torch.cat([colours, torch.rand(1, 2, 32, 32)], 1)
        torch.testing.assert_close(adapted(5, 'extend')(five)[3], source(colours)[3],
                                   rtol=1e-3, atol=1e-4)
        assert torch.equal(adapted(3, 'repeat')(colours)[3], source(colours)[3])
    with pytest.raises(ValueError, match="'extend' adds channels, and in_channels is 1, the"):
        adapted(1, 'extend')


def test_other_channels_of_another_arch(saved, load):
    """All that differs is listed, as without other channels."""
    file = saved(VSSD(NANO).state_dict())
    with pytest.raises(CheckpointError, match='(?s)not the weights of this VSSD.*of another shape'):
        load(file, dict(NANO, embed_dims=32), in_channels=4)


def test_other_channels_of_a_whole_model():
    model, source = (torch.nn.ModuleDict(dict(backbone=VSSD(NANO, in_channels=channels)))
                     for channels in (5, 3))
    message = ("(?s)1 of another shape.*in_channels is 5, the file's is 3: a training can begin "
               'from it.*adapt_stem')
    with pytest.raises(CheckpointError, match=message):
        require_fit('x.pth', dict(state_dict=source.state_dict()), model)
