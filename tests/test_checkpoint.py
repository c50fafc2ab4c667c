"""What stops a backbone from loading another model's weights, and a run from resuming ruins."""
import os

import pytest
import torch
from torch import nn

from mmvssd import checkpoint
from mmvssd.checkpoint import (
    newest_checkpoint,
    read_checkpoint,
    require_fit,
    require_resumable,
)
from mmvssd.errors import CheckpointError
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD, VMamba

NANO, VMAMBA_NANO = (FAMILIES[name].nano for name in ('vssd', 'vmamba'))


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


@pytest.mark.parametrize('family', FAMILIES)
def test_a_classifier_becomes_a_dense_backbone(saved, family):
    family = FAMILIES[family]
    source = family.backbone(family.nano)
    torch.nn.init.normal_(source.norm3.weight)
    model = load(saved(source.state_dict()), family.nano, family=family.backbone)
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
    with pytest.raises(CheckpointError, match=r'is a folder; name the checkpoint file in it'):
        load(str(tmp_path))


CHECKPOINT = dict(state_dict={}, optimizer={}, message_hub={}, meta=dict(epoch=1, iter=4, seed=7))


def written(folder, **contents):
    """Checkpoints by name, each written a second after the one before."""
    for age, (name, content) in enumerate(contents.items()):
        torch.save(content, folder / f'{name}.pth')
        os.utime(folder / f'{name}.pth', (1e9 + age, 1e9 + age))
    return folder


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == 'cut short':
        content = content[:len(content) // 2]
    elif how == 'empty':
        content = b''
    else:  # a byte of the weights, of which PyTorch would not say a word
        where = content.index(torch.arange(7.).numpy().tobytes())
        content[where + 5] ^= 1
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, (times.st_atime, times.st_mtime))


@pytest.mark.parametrize('how', ['cut short', 'empty', 'a byte changed'])
def test_a_damaged_newest_checkpoint_is_told_of_and_passed_over(tmp_path, monkeypatch, how):
    said = []
    monkeypatch.setattr(checkpoint, 'print_log', lambda text, **kwargs: said.append(text))
    full = dict(CHECKPOINT, state_dict=dict(weight=torch.arange(7.)))
    written(tmp_path, epoch_10=full, epoch_2=full, epoch_3=full, best_score_epoch_3=full)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')
    assert not said
    damage(tmp_path / 'epoch_3.pth', how)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    assert len(said) == 1
    assert f'{tmp_path / "epoch_3.pth"}: ' in said[0]


def test_what_cannot_be_resumed_from_is_passed_over(tmp_path):
    weights = dict(state_dict={}, meta={})
    written(tmp_path, iter_2=CHECKPOINT, iter_4=weights)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')
    with pytest.raises(CheckpointError, match='holds no message_hub, no optimizer'):
        require_resumable(str(tmp_path / 'iter_4.pth'))


def test_no_checkpoint_and_none_that_is_whole(tmp_path):
    assert newest_checkpoint(str(tmp_path)) is None
    written(tmp_path, epoch_1=CHECKPOINT)
    damage(tmp_path / 'epoch_1.pth', 'cut short')
    with pytest.raises(CheckpointError, match='none of its 1 checkpoints can be resumed'):
        newest_checkpoint(str(tmp_path))


def test_checkpoints_kept_elsewhere(tmp_path):
    """MMEngine's ``out_dir``."""
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'run').mkdir()
    written(tmp_path / 'elsewhere', epoch_1=CHECKPOINT)
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'elsewhere' / 'epoch_1.pth'))
    assert newest_checkpoint(str(tmp_path / 'run')).endswith('/elsewhere/epoch_1.pth')


class Renaming(nn.Module):
    """Takes what an older version of it saved, as modules of the hosts do."""

    def __init__(self):
        super().__init__()
        self.new = nn.Linear(2, 1)
        self._register_load_state_dict_pre_hook(self.rename)

    @staticmethod
    def rename(state_dict, prefix, *args):
        for name in [name for name in state_dict if name.startswith(f'{prefix}old.')]:
            state_dict[name.replace('old', 'new')] = state_dict.pop(name)


def test_modules_that_rename_what_they_load():
    model, given = Renaming(), dict(Renaming().state_dict())
    old = {name.replace('new', 'old'): value for name, value in given.items()}
    checkpoint = dict(state_dict=old)
    require_fit('old.pth', checkpoint, model)
    assert checkpoint['state_dict'].keys() == old.keys()
    require_fit('wrapped.pth', dict(state_dict={f'module.{n}': v for n, v in old.items()}), model)
    with pytest.raises(CheckpointError, match='1 missing: new.bias'):
        require_fit('half.pth', dict(state_dict={'old.weight': old['old.weight']}), model)
    with pytest.raises(CheckpointError, match='1 unknown: other'):
        require_fit('more.pth', dict(state_dict={**old, 'other': torch.ones(1)}), model)
    wider = {**old, 'old.weight': torch.ones(1, 3)}
    with pytest.raises(CheckpointError, match='not the weights of this model'):
        require_fit('wider.pth', dict(state_dict=wider), model)


def test_newest_by_what_the_checkpoints_say(tmp_path):
    """Copying a work dir, or looking at a file, may change the times of files."""
    def at(iteration, time=None):
        meta = dict(CHECKPOINT['meta'], iter=iteration, **(dict(time=time) if time else {}))
        return dict(CHECKPOINT, meta=meta)

    written(tmp_path, epoch_3=at(12, '20261126_120000'), epoch_2=at(8, '20261126_115959'),
            epoch_1=at(4, '20261126_115958'))
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')
    # of one second; and of a run that went back
    written(tmp_path, epoch_4=at(16, '20261126_120000'), epoch_9=at(36, '20261125_120000'))
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_4.pth')


BAD_VALUES = dict(
    nan=(lambda value: value * float('nan'), '2 of 2 values are not finite'),
    infinite=(lambda value: value.fill_(float('inf')), '2 of 2 values are not finite'),
    meta=(lambda value: value.to('meta'), 'a shape without values'),
    sparse=(lambda value: value.to_sparse(), 'a sparse tensor'),
    whole=(lambda value: value.long(), r'whole numbers \(torch.int64\), expected torch.float32'),
    truth=(lambda value: value > 0, r'truth values \(torch.bool\), expected torch.float32'),
    complex=(lambda value: value.to(torch.complex64), 'complex numbers'),
    expanded=(lambda value: torch.zeros(1).expand(2**40), 'expected \\(1, 2\\)'))


@pytest.mark.parametrize('name', BAD_VALUES)
def test_values_that_are_no_weights(name, tmp_path):
    change, message = BAD_VALUES[name]
    model = nn.Linear(2, 1)
    state = dict(model.state_dict(), weight=change(model.weight.detach().clone()))
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    kind = 'of another shape' if name == 'expanded' else 'unusable'
    with pytest.raises(CheckpointError, match=f'1 {kind}: weight: .*{message}'):
        require_fit('x.pth', read_checkpoint(tmp_path / 'x.pth'), model)
    if name in ('nan', 'infinite'):  # a model that has loaded them
        model.load_state_dict(state)
        with pytest.raises(CheckpointError, match=message):
            require_fit('x.pth', read_checkpoint(tmp_path / 'x.pth'), model)


DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)},
                key=str)
QUANTIZED = [dtype for dtype in DTYPES if 'torch.q' in str(dtype)]


def as_kind(value, dtype):
    """Return values as another kind; of a kind that nothing converts to, some of that shape."""
    if dtype in QUANTIZED:
        return torch.empty(value.shape, dtype=dtype)
    try:
        return value.to(dtype)
    except RuntimeError:
        return torch.empty(value.shape, dtype=dtype)


@pytest.mark.filterwarnings('ignore')  # of kinds that PyTorch means to give up
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_every_kind_of_values(dtype):
    """What PyTorch can copy into the weights is taken; the rest is named, in whatever kind."""
    model = nn.Linear(2, 1)
    given = as_kind(torch.ones(1, 2), dtype)
    state = dict(model.state_dict(), weight=given)
    packed = dtype.is_floating_point and dtype.itemsize == 1 and 'float8' not in str(dtype)
    if dtype.is_floating_point and not packed:
        require_fit('x.pth', dict(state_dict=state), model)
        model.load_state_dict(state)
        assert model.weight.tolist() == [[1, 1]]
        return
    with pytest.raises(CheckpointError, match=f'1 unusable: weight: .*{dtype}'):
        require_fit('x.pth', dict(state_dict=state), model)


@pytest.mark.parametrize('dtype', [dtype for dtype in DTYPES if 'float8' in str(dtype)], ids=str)
def test_eight_bits_that_are_no_number(dtype):
    model = nn.Linear(2, 1)
    state = dict(model.state_dict(), weight=torch.full((1, 2), float('nan')).to(dtype))
    with pytest.raises(CheckpointError, match='weight: 2 of 2 values are not finite'):
        require_fit('x.pth', dict(state_dict=state), model)


def test_a_model_of_its_own_kinds():
    """Weights that a model keeps in a kind of its own are its own."""
    kinds = [dtype for dtype in DTYPES if dtype not in QUANTIZED]
    state = {str(number): as_kind(torch.ones(2), dtype) for number, dtype in enumerate(kinds)}
    assert not any(checkpoint.compare(state, state))


NOT_TENSORS = dict(list=lambda value: value.tolist(), ndarray=lambda value: value.numpy(),
                   NoneType=lambda value: None, dict=lambda value: dict(data=value))


@pytest.mark.parametrize('name', NOT_TENSORS)
def test_values_that_are_no_tensors(name, saved):
    """They are called what they are, and not missing; counts beside plain weights are no matter."""
    kind = 'None' if name == 'NoneType' else f'of type {name}'
    model = nn.Linear(2, 1)
    state = dict(model.state_dict(), epoch=3, optimizer={0: torch.ones(1)})
    require_fit('x.pth', state, model)
    state['weight'] = NOT_TENSORS[name](model.weight.detach().clone())
    with pytest.raises(CheckpointError, match=rf'model\n  1 unusable: weight: {kind}, expected a'):
        require_fit('x.pth', state, model)
    with pytest.raises(CheckpointError, match='model\n  1 unknown: other\n  1 unusable: w'):
        require_fit('x.pth', dict(state, other=torch.ones(1)), model)
    state = VSSD(NANO).state_dict()
    first = next(iter(state))
    state[first] = NOT_TENSORS[name](state[first])
    with pytest.raises(CheckpointError, match=rf'VSSD\n  1 unusable: .*: {kind}, expected a'):
        load(saved(state))


PLACES = dict(
    published=(lambda state: dict(model=state, optimizer=dict(state={0: torch.ones(1)}), epoch=3),
               r"lie under model\. .*convert_checkpoint.py makes a checkpoint of it.*"
               r"dict\(state_dict=checkpoint\['model'\]\)"),
    nested=(lambda state: dict(state_dict=dict(state_dict=state)),
            r"lie under state_dict.state_dict\. .*checkpoint\['state_dict'\]\['state_dict'\]"),
    average=(lambda state: dict(state_dict={}, state_dict_ema=state), r'under state_dict_ema\. '))
PREFIXES = ('model.', 'net.', 'model._orig.', '_forward_module.model.')


@pytest.mark.parametrize('place', PLACES)
def test_weights_under_another_name(place, saved, tmp_path):
    """As timm, DeiT and the published code have them; a backbone and a whole model ask alike."""
    change, message = PLACES[place]
    model = nn.Linear(2, 1)
    with pytest.raises(CheckpointError, match=f'(?s)not the weights of this model.*{message}'):
        require_fit('x.pth', change(model.state_dict()), model)
    torch.save(change(VSSD(NANO).state_dict()), tmp_path / 'x.pth')
    for prefix in ('', 'backbone.'):
        with pytest.raises(CheckpointError, match=f'(?s)holds no weights; .*{message}'):
            load(str(tmp_path / 'x.pth'), prefix=prefix)


@pytest.mark.parametrize('prefix', PREFIXES)
def test_a_prefix_of_all_names(prefix, saved):
    """As Lightning and other wrappers leave it."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    state = {prefix + name: value for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"fit without '{prefix}' before them: save these w"):
        require_fit('x.pth', dict(state_dict=state), model)
    other = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    with pytest.raises(CheckpointError, match='Check that the config'):
        require_fit('x.pth', dict(state_dict=state), other)
    file = saved(VSSD(NANO).state_dict(), prefix=f'{prefix}backbone.')
    load(file, prefix=f'{prefix}backbone.')
    for wrong in ('', 'backbone.', prefix):
        with pytest.raises(CheckpointError, match=f"set prefix='({prefix})?backbone.' in init_cfg"):
            load(file, prefix=wrong)


def test_a_part_of_a_model_and_a_prefix_too_many(saved):
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    with pytest.raises(CheckpointError, match="fit with '0.' before them: the file holds only"):
        require_fit('x.pth', dict(state_dict=model[0].state_dict()), model)
    with pytest.raises(CheckpointError, match='fit without a prefix: leave prefix out'):
        load(saved(VSSD(NANO).state_dict(), prefix=''))


def test_values_that_may_be_otherwise():
    """Half precision; a mask that is infinite by design; a count that was averaged."""
    model = nn.BatchNorm1d(2)
    model.register_buffer('mask', torch.tensor([0, -float('inf')]))
    state = dict(model.state_dict(), weight=model.weight.detach().bfloat16(),
                 num_batches_tracked=torch.tensor(3.))
    require_fit('x.pth', dict(state_dict=state), model)
    assert not any(checkpoint.compare(state, model.state_dict()))


def test_weights_of_a_compiled_model(saved):
    """A backbone takes them; a whole model, which MMEngine loads, asks for others."""
    source = VSSD(NANO)
    state = {f'_orig_mod.backbone.{name}': value for name, value in source.state_dict().items()}
    model = load(saved(state, prefix='', drop=('_orig_mod.backbone.norm0', )))
    assert torch.equal(model.stages[0][0].mixer.D, source.stages[0][0].mixer.D)
    linear = nn.Linear(1, 1)
    compiled = {f'_orig_mod.{name}': value for name, value in linear.state_dict().items()}
    with pytest.raises(CheckpointError, match='the _orig_mod. of torch.compile: save the state'):
        require_fit('x.pth', dict(state_dict=compiled), linear)


def test_another_number_of_classes():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    given = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).state_dict()
    with pytest.raises(CheckpointError, match='(?s)2 of another shape.*num_classes of the config'):
        require_fit('x.pth', dict(state_dict=given), model)
    given = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)).state_dict()
    with pytest.raises(CheckpointError, match='(?s)1 of another shape.*Check that the config'):
        require_fit('x.pth', dict(state_dict=given), model)


def test_the_text_of_a_config_without_the_patch(tmp_path, monkeypatch):
    """MMEngine would run it."""
    meta = dict(CHECKPOINT['meta'], config='gpu_ids = []')
    written(tmp_path, epoch_1=dict(CHECKPOINT, meta=meta))
    require_resumable(str(tmp_path / 'epoch_1.pth'))
    monkeypatch.setattr(checkpoint, 'left_out', lambda: ['config_strings'])
    with pytest.raises(CheckpointError, match='holds the text of a config, which MMEngine would r'):
        require_resumable(str(tmp_path / 'epoch_1.pth'))
