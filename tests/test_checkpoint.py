"""What stops a backbone from loading another model's weights."""
import pytest
import torch

from mmvssd.checkpoint import CheckpointError, read_checkpoint
from mmvssd.models import VSSD, VMamba

NANO = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(2, 2, 4, 4), d_state=8)
VMAMBA_NANO = dict(embed_dims=16, depths=(1, 1, 2, 1))


@pytest.fixture
def saved(tmp_path):
    """Save weights as a host's classifier checkpoint would hold them; return the file."""

    def save(state, prefix='backbone.', drop=('norm0', 'norm1', 'norm2'), **entries):
        file = tmp_path / 'checkpoint.pth'
        state = {prefix + name: value for name, value in state.items()
                 if not name.startswith(tuple(drop))}
        torch.save(dict(state_dict={**state, 'head.fc.bias': torch.zeros(10)}, **entries), file)
        return str(file)

    return save


def load(file, arch=NANO, prefix='backbone.', family=VSSD, **options):
    model = family(arch, init_cfg=dict(type='Pretrained', checkpoint=file, prefix=prefix),
                   **options)
    model.init_weights()
    return model


@pytest.mark.parametrize(('family', 'arch'), [(VSSD, NANO), (VMamba, VMAMBA_NANO)])
def test_a_classifier_becomes_a_dense_backbone(saved, family, arch):
    source = family(arch)
    torch.nn.init.normal_(source.norm3.weight)
    model = load(saved(source.state_dict()), arch, family=family)
    for name, value in model.state_dict().items():
        if name.startswith(('norm0', 'norm1', 'norm2')):
            assert (value == (1 if name.endswith('weight') else 0)).all()
        else:
            assert torch.equal(value, source.state_dict()[name]), name


def test_a_shallower_backbone_leaves_the_rest_out(saved):
    source = VSSD(NANO)
    model = load(saved(source.state_dict()), out_indices=(0, 1))
    assert torch.equal(model.stages[1][0].mixer.D, source.stages[1][0].mixer.D)
    assert len(model.stages) == 2


def test_another_arch(saved):
    file = saved(VSSD(NANO).state_dict())
    with pytest.raises(CheckpointError, match=r'(?s)not the weights of this VSSD.*missing: '
                                              r'stages.0.1.*of another shape: .*expected.*arch'):
        load(file, arch=dict(NANO, depths=(2, 1, 2, 1), embed_dims=32))


def test_another_family(saved):
    """The error says whose weights a converted file holds."""
    file = saved(VSSD(NANO).state_dict(), meta=dict(family='vssd', arch='nano'))
    with pytest.raises(CheckpointError, match=r"(?s)not the weights of this VMamba.*unknown: .*"
                                              r"holds a vssd of arch 'nano': check type and arch"):
        load(file, VMAMBA_NANO, family=VMamba)
    file = saved(VMamba(VMAMBA_NANO).state_dict(), meta=dict(epoch=3))
    with pytest.raises(CheckpointError, match=r'(?s)not the weights of this VSSD.*Check that type'):
        load(file)


def test_a_missing_weight(saved):
    with pytest.raises(CheckpointError, match=r'1 missing: stages.2.1.mixer.A_log'):
        load(saved(VSSD(NANO).state_dict(), drop=('stages.2.1.mixer.A_log', )))


def test_forgotten_prefix_and_unconverted_file(saved):
    file = saved(VSSD(NANO).state_dict())
    with pytest.raises(CheckpointError, match=r"set prefix='backbone.'"):
        load(file, prefix='')
    with pytest.raises(CheckpointError, match=r"no weights under the prefix 'model.'"):
        load(file, prefix='model.')
    for family, arch, name in ((VSSD, NANO, 'layers.0.blocks.0.cpe1.bias'),
                               (VMamba, VMAMBA_NANO, 'layers.0.blocks.0.self_attention.Ds')):
        with pytest.raises(CheckpointError, match=r'convert the file first'):
            load(saved({name: torch.zeros(16)}), arch, family=family)


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match=r'gone.pth: no such checkpoint file'):
        load(str(tmp_path / 'gone.pth'))
    torch.save(dict(state_dict=VSSD(NANO).state_dict()), tmp_path / 'whole.pth')
    for size in (0, 10, 10_000):
        (tmp_path / 'part.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:size])
        with pytest.raises(CheckpointError, match=r'cannot be read as a checkpoint'):
            read_checkpoint(tmp_path / 'part.pth')
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    with pytest.raises(CheckpointError, match=r'holds a Tensor, expected a dict'):
        read_checkpoint(tmp_path / 'tensor.pth')


def test_a_list_of_one_in_init_cfg_and_a_folder(saved, tmp_path):
    file = saved(VSSD(NANO).state_dict())
    VSSD(NANO, init_cfg=[dict(type='Pretrained', checkpoint=file,
                              prefix='backbone.')]).init_weights()
    with pytest.raises(CheckpointError, match=r'no such checkpoint file'):
        load(str(tmp_path))
