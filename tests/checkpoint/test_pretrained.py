"""What stops a backbone from loading another model's weights."""
import pytest
import torch

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
