"""Decay of learning rates in detectors and segmentors, with their hosts' settings."""
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmvssd.engine.guards import guard
from mmvssd.models import VMamba

NAME = 'LearningRateDecayOptimizerConstructor'
#: Five blocks in four stages.
BACKBONE = dict(arch=dict(embed_dims=16, depths=(1, 2, 1, 1)), out_indices=(0, 3))


class Student(nn.Module):
    """A model as the hosts have them: a backbone, and what lies behind it."""

    def __init__(self, **backbone):
        super().__init__()
        self.backbone = VMamba(**{**BACKBONE, **backbone})
        self.head = nn.Linear(4, 2)


class Pair(nn.Module):
    """A student and its teacher, which is not trained."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = Student(), Student().requires_grad_(False)


def groups_of(model, **settings):
    wrapper = build_optim_wrapper(model, dict(
        optimizer=dict(type='AdamW', lr=2., weight_decay=0.05), constructor=f'mmvssd.{NAME}',
        paramwise_cfg={**dict(decay_rate=0.5), **settings}))
    return wrapper.optimizer.param_groups


def powers(groups, prefix=''):
    """Powers of the decay, by the first names of the parameters' places."""
    found = {}
    for group in groups:
        for name in group['param_names']:
            parts = name[len(prefix):].split('.')
            place = '.'.join(parts[:4 if parts[1] == 'stages' else 3])
            place = place if parts[1] in ('stages', 'downsamples') else '.'.join(parts[:2])
            found.setdefault(place if parts[0] == 'backbone' else parts[0], set()).add(
                group['lr'] / 2.)
    return {place: next(iter(rates)) for place, rates in found.items() if len(rates) == 1}


def test_layers_are_the_blocks():
    rates = powers(groups_of(Student()))
    assert rates == {
        'backbone.stem': 0.5**6, 'backbone.stages.0.0': 0.5**5, 'backbone.stages.1.0': 0.5**4,
        'backbone.stages.1.1': 0.5**3, 'backbone.stages.2.0': 0.5**2, 'backbone.stages.3.0': 0.5,
        'backbone.downsamples.0': 0.5**5, 'backbone.downsamples.1': 0.5**3,
        'backbone.downsamples.2': 0.5**2, 'backbone.norm0': 1, 'backbone.norm3': 1, 'head': 1}


def test_blocks_are_spread_over_the_layers():
    """As the hosts spread those of a ConvNeXt over 6 or 12."""
    rates = powers(groups_of(Student(), num_layers=2, decay_type='layer_wise'))
    assert [rates[f'backbone.{place}'] for place in (
        'stem', 'stages.0.0', 'stages.1.0', 'stages.1.1', 'stages.2.0', 'stages.3.0')] == [
            0.125, 0.25, 0.25, 0.5, 0.5, 0.5]
    rates = powers(groups_of(Student(), num_layers=10))
    assert [rates[f'backbone.{place}'] for place in ('stem', 'stages.0.0', 'stages.3.0')] == [
        0.5**11, 0.5**9, 0.5]


def test_layers_are_the_stages():
    """Numbered as the hosts number those of a ConvNeXt."""
    for number, behind in ((None, 4), (6, 6)):
        rates = powers(groups_of(Student(), decay_type='stage_wise', num_layers=number))
        assert [rates[f'backbone.{place}'] for place in (
            'stem', 'stages.0.0', 'downsamples.0', 'stages.1.1', 'stages.3.0', 'norm3')] == [
                0.5**(behind + 1), 0.5**behind, 0.5**behind, 0.5**(behind - 1),
                0.5**(behind - 3), 1]


def test_vectors_and_biases_have_no_weight_decay():
    model = Student()
    parameters = dict(model.named_parameters())
    seen = []
    for group in groups_of(model):
        assert group['lr_scale'] == group['lr'] / 2.
        for name in group['param_names']:
            seen.append(name)
            plain = parameters[name].ndim == 1 or name.endswith('.bias')
            assert group['weight_decay'] == (0 if plain else 0.05), name
    assert sorted(seen) == sorted(parameters)


def test_frozen_stages_and_a_teacher():
    names = {name for group in groups_of(Student(frozen_stages=2)) for name in group['param_names']}
    assert not any(name.startswith(('backbone.stem', 'backbone.stages.0')) for name in names)
    groups = groups_of(Pair())
    assert not any(name.startswith('teacher') for group in groups for name in group['param_names'])
    assert powers(groups, 'student.') == powers(groups_of(Student()))


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(decay_rate=0), 'decay_rate: got 0, expected a number above 0, up to 1'),
    (dict(decay_rate=1.1), 'decay_rate: got 1.1'), (dict(decay_rate='0.7'), "got '0.7'"),
    (dict(num_layers=0), 'num_layers: got 0, expected an integer of 1'),
    (dict(decay_type='stage_wise', num_layers=2), 'num_layers: got 2, expected at least 4'),
    (dict(decay_type='layer'), "unknown name 'layer'; known: layer_wise, stage_wise"),
    (dict(custom_keys={}), r"paramwise_cfg: unknown keys \['custom_keys'\]"),
])
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        groups_of(Student(), **settings)


def test_a_model_of_others():
    with pytest.raises(ValueError, match='a Sequential without a backbone of mmvssd has no layers'):
        groups_of(nn.Sequential(nn.Linear(1, 1)))


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_the_hosts_constructor_is_exchanged(scope):
    """For this package's backbones, wherever in the model; others keep the host's."""
    host = pytest.importorskip(f'{scope}.engine.optimizers')
    for constructor in (NAME, f'{scope}.{NAME}', getattr(host, NAME)):
        for backbone, ours in (('mmvssd.VSSD', True), (VMamba, True), ('Nobodys', False),
                               ('mmpretrain.ConvNeXt', False)):
            model = dict(type='A', detector=dict(type='B', backbone=dict(type=backbone)))
            settings = dict(constructor=constructor, optimizer=dict(type='SGD', lr=1.),
                            paramwise_cfg=dict(decay_rate=0.7, num_layers=6))
            cfg = Config(dict(default_scope=scope, model=model, optim_wrapper=settings))
            guard(cfg)
            expected = f'mmvssd.{NAME}' if ours else constructor
            assert cfg.optim_wrapper == dict(settings, constructor=expected)
    cfg = Config(dict(default_scope=scope, model=model, optim_wrapper=dict(optimizer={})))
    guard(cfg)
    assert cfg.optim_wrapper == dict(optimizer={})
