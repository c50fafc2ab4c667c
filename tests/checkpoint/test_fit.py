"""Checkpoints that do not fit a whole model, and where their weights lie instead."""
import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn

from mmvssd.checkpoint import fit, named_as, require_fit
from mmvssd.errors import CheckpointError
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD

NANO = FAMILIES['vssd'].nano


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


PLACES = dict(
    published=(lambda state: dict(model=state, optimizer=dict(state={0: torch.ones(1)}), epoch=3),
               r"lie under model\. .*convert_checkpoint.py makes a checkpoint of it.*"
               r"dict\(state_dict=checkpoint\['model'\]\)"),
    nested=(lambda state: dict(state_dict=dict(state_dict=state)),
            r"lie under state_dict.state_dict\. .*checkpoint\['state_dict'\]\['state_dict'\]"),
    average=(lambda state: dict(state_dict={}, state_dict_ema=state), r'under state_dict_ema\. '))
PREFIXES = ('model.', 'net.', 'model._orig.', '_forward_module.model.')


@pytest.mark.parametrize('place', PLACES)
def test_weights_under_another_name(place, saved, tmp_path, load):
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
def test_a_prefix_of_all_names(prefix, saved, load):
    """As Lightning and other wrappers leave it."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    state = {prefix + name: value for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"fit without '{prefix}' before them: save these w"):
        require_fit('x.pth', dict(state_dict=state), model)
    other = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    with pytest.raises(CheckpointError, match='Check that the recipe'):
        require_fit('x.pth', dict(state_dict=state), other)
    file = saved(VSSD(NANO).state_dict(), prefix=f'{prefix}backbone.')
    load(file, prefix=f'{prefix}backbone.')
    for wrong in ('', 'backbone.', prefix):
        with pytest.raises(CheckpointError, match=f"set prefix='({prefix})?backbone.' in init_cfg"):
            load(file, prefix=wrong)


def test_a_part_of_a_model_and_a_prefix_too_many(saved, load):
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    with pytest.raises(CheckpointError, match="fit with '0.' before them: the file holds only"):
        require_fit('x.pth', dict(state_dict=model[0].state_dict()), model)
    with pytest.raises(CheckpointError, match='fit without a prefix: leave prefix out'):
        load(saved(VSSD(NANO).state_dict(), prefix=''))


class Compiled(nn.Module):
    """Stand in for ``torch.compile(module)``, whose entries have these names."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


def test_weights_of_a_compiled_model(saved, load, tmp_path):
    """A backbone takes them, and a whole model by MMEngine, whichever part is compiled."""
    source = VSSD(NANO)
    state = {f'_orig_mod.backbone.{name}': value for name, value in source.state_dict().items()}
    model = load(saved(state, prefix='', drop=('_orig_mod.backbone.norm0', )))
    assert torch.equal(model.stages[0][0].mixer.D, source.stages[0][0].mixer.D)

    def build(*compiled):
        parts = nn.ModuleDict(dict(backbone=nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)),
                                   head=nn.Linear(1, 1)))
        for name in compiled:
            parts[name] = Compiled(parts[name])
        return parts

    kinds = [build(), build('backbone'), build('backbone', 'head'), Compiled(build()),
             Compiled(build('head'))]
    for source in kinds:
        for prefix in ('', 'module.'):
            checkpoint = dict(state_dict={prefix + name: value for name, value
                                          in source.state_dict().items()})
            torch.save(checkpoint, tmp_path / 'x.pth')
            for model in kinds:
                for p in model.parameters() if model is not source else ():
                    nn.init.normal_(p)
                require_fit('x.pth', checkpoint, model)
                load_checkpoint(model, str(tmp_path / 'x.pth'), strict=True)
                for loaded, value in zip(model.parameters(), source.parameters()):
                    assert torch.equal(loaded, value)


def test_a_compiled_model_that_does_not_fit():
    linear, other = nn.Linear(1, 1), nn.Linear(1, 2)
    state = Compiled(linear).state_dict()
    assert list(named_as(state, linear.state_dict())._metadata) == ['']  # versions of modules
    with pytest.raises(CheckpointError, match='(?s)2 of another shape: weight'):
        require_fit('x.pth', dict(state_dict=state), other)


def test_names_of_a_compiled_model_if_the_patch_is_left_out(monkeypatch):
    """MMEngine would load none of them."""
    monkeypatch.setattr(fit, 'in_effect', list)
    linear = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match='the _orig_mod. of torch.compile: save the state'):
        require_fit('x.pth', dict(state_dict=Compiled(linear).state_dict()), linear)


def test_another_number_of_classes():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    given = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).state_dict()
    with pytest.raises(CheckpointError, match='(?s)2 of another shape.*num_classes of the recipe'):
        require_fit('x.pth', dict(state_dict=given), model)
    given = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)).state_dict()
    with pytest.raises(CheckpointError, match='(?s)1 of another shape.*Check that the recipe'):
        require_fit('x.pth', dict(state_dict=given), model)
