"""Any config gets the guards: in strings or classes, with hooks and loops of its own or without."""
import importlib
import re
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.registry import HOOKS, LOOPS, RUNNERS
from mmengine.runner import BaseLoop, FlexibleRunner, Runner
from mmengine.runner import EpochBasedTrainLoop as HostEpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as HostIterBasedTrainLoop
from torch import nn

from mmvssd.cli.launch import load_config
from mmvssd.engine import (
    EpochBasedTrainLoop,
    FiniteCheckHook,
    GuardedRunner,
    GuardsHook,
    guards,
)
from mmvssd.engine.guards import GUARDS, guard
from mmvssd.errors import ConfigError
from mmvssd.paths import project_root


class OwnCheckpointHook(CheckpointHook):
    """A user's."""


class OwnFiniteCheckHook(FiniteCheckHook):
    """A user's, on ours."""


class OwnHook(Hook):
    """A user's, of no kind that is known."""


class OwnLoop(HostEpochBasedTrainLoop):
    """A user's."""


@pytest.fixture(autouse=True)
def registered():
    for registry, classes in ((HOOKS, (OwnCheckpointHook, OwnHook)), (LOOPS, (OwnLoop, ))):
        for kind in classes:
            registry.register_module(module=kind, force=True)
    yield
    for registry, classes in ((HOOKS, (OwnCheckpointHook, OwnHook)), (LOOPS, (OwnLoop, ))):
        for kind in classes:
            registry.module_dict.pop(kind.__name__)


def guarded(**settings):
    """What becomes of a config; a second time nothing does."""
    cfg = Config(settings)
    guard(cfg)
    again = cfg.copy()
    guard(again)
    assert again.to_dict() == cfg.to_dict()
    return cfg


def types_of(cfg):
    return {name: hook and hook['type'] for name, hook in cfg.default_hooks.items()}


ALL = {name: f'mmvssd.{entry.hook.__name__}' for name, entry in GUARDS.items()}


@pytest.mark.parametrize(('given', 'expected'), [
    (dict(type='EpochBasedTrainLoop', max_epochs=3), 'Epoch'),
    (dict(type='mmengine.EpochBasedTrainLoop', max_epochs=3), 'Epoch'),
    (dict(type='mmengine.runner.EpochBasedTrainLoop', max_epochs=3), 'Epoch'),
    (dict(type='mmengine.runner.loops.EpochBasedTrainLoop', max_epochs=3), 'Epoch'),
    (dict(type=HostEpochBasedTrainLoop, max_epochs=3, val_begin=2), 'Epoch'),
    (dict(by_epoch=True, max_epochs=3, val_interval=2), 'Epoch'),
    (dict(type='IterBasedTrainLoop', max_iters=3), 'Iter'),
    (dict(type=HostIterBasedTrainLoop, max_iters=3), 'Iter'),
    (dict(by_epoch=False, max_iters=3, dynamic_intervals=[(1, 2)]), 'Iter'),
    (dict(type='mmvssd.IterBasedTrainLoop', max_iters=3), 'Iter'),
])
@pytest.mark.parametrize('scope', [None, 'mmdet', 'mmseg', 'mmpretrain'])
def test_loops(given, expected, scope):
    cfg = guarded(train_cfg=given, default_scope=scope)
    settings = {key: value for key, value in given.items() if key not in ('type', 'by_epoch')}
    assert cfg.train_cfg == dict(settings, type=f'mmvssd.{expected}BasedTrainLoop')


@pytest.mark.parametrize('given', [
    dict(type='OwnLoop', max_epochs=3), dict(type=OwnLoop, max_epochs=3),
    dict(type='NobodysLoop', max_epochs=3), dict(type=EpochBasedTrainLoop, max_epochs=3)])
def test_loops_that_stay(given):
    assert guarded(train_cfg=given).train_cfg == given


def test_a_loop_that_is_left_out_stays():
    given = dict(type='EpochBasedTrainLoop', max_epochs=3)
    assert guarded(train_cfg=given, unguarded=['train_loop']).train_cfg == given
    assert guarded(train_cfg=given, unguarded='train_loop').train_cfg == given


def test_a_guarded_config_can_leave_out_what_it_names():
    """As a recipe does that names the loop, or the config that a run writes down."""
    cfg = guarded(train_cfg=dict(by_epoch=False, max_iters=3, val_interval=2),
                  default_hooks=dict(checkpoint=dict(type=CheckpointHook, interval=5)),
                  custom_hooks=[dict(type='CheckpointHook', interval=6)])
    cfg = guarded(**cfg.to_dict(), unguarded=['train_loop', 'checkpoint', 'run_record'])
    assert cfg.train_cfg == dict(type='mmengine.IterBasedTrainLoop', max_iters=3, val_interval=2)
    assert cfg.default_hooks.checkpoint == dict(type='mmengine.CheckpointHook', interval=5)
    assert cfg.custom_hooks == [dict(type='mmengine.CheckpointHook', interval=6)]
    assert cfg.default_hooks.keys() == {*GUARDS, 'guards'} - {'run_record'}


def test_a_config_for_tests_has_no_loop():
    cfg = guarded()
    assert 'train_cfg' not in cfg
    assert types_of(cfg) == {**ALL, 'guards': 'mmvssd.GuardsHook'}


def test_a_train_cfg_without_loop():
    with pytest.raises(ConfigError, match=r'train_cfg: got .*max_epochs.*set by_epoch=True'):
        guarded(train_cfg=dict(max_epochs=3))


def test_settings_of_checkpoints_are_kept():
    settings = dict(interval=5, save_best='auto', max_keep_ckpts=2, by_epoch=False)
    for kind in ('CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook):
        cfg = guarded(default_hooks=dict(checkpoint=dict(settings, type=kind)))
        assert cfg.default_hooks.checkpoint == dict(settings, type='mmvssd.SafeCheckpointHook')
    cfg = guarded(default_hooks=dict(checkpoint=settings))  # --cfg-options on a config without
    assert cfg.default_hooks.checkpoint == dict(settings, type='mmvssd.SafeCheckpointHook')
    # without one MMEngine writes one an epoch
    assert guarded().default_hooks.checkpoint == dict(type='mmvssd.SafeCheckpointHook', interval=1)


def test_checkpoint_hooks_of_another_name():
    cfg = guarded(custom_hooks=[dict(type='CheckpointHook', interval=7), dict(type=OwnHook)])
    assert cfg.custom_hooks == [dict(type='mmvssd.SafeCheckpointHook', interval=7),
                                dict(type=OwnHook)]
    assert cfg.default_hooks.checkpoint.interval == 1  # which MMEngine would add


@pytest.mark.parametrize('kind', [OwnCheckpointHook, 'OwnCheckpointHook'])
def test_an_own_checkpoint_hook_stays(kind):
    given = dict(type=kind, interval=5)
    cfg = guarded(default_hooks=dict(checkpoint=given))
    assert cfg.default_hooks.checkpoint == given
    assert 'mmvssd.SafeCheckpointHook' not in types_of(cfg).values()


def test_own_hooks_stay():
    cfg = guarded(custom_hooks=[dict(type=OwnFiniteCheckHook, action='skip')],
                  default_hooks=dict(run_record=dict(type='OwnHook'), timer=None))
    assert 'finite_check' not in cfg.default_hooks  # one is there
    assert cfg.default_hooks.run_record.type == 'OwnHook'
    assert cfg.default_hooks.timer is None  # MMEngine's own way to leave its own out
    assert cfg.get('unguarded') is None


def test_settings_of_a_guard_alone():
    """As ``--cfg-options default_hooks.finite_check.action=skip`` gives them."""
    cfg = guarded(default_hooks=dict(finite_check=dict(action='skip')))
    assert cfg.default_hooks.finite_check == dict(type='mmvssd.FiniteCheckHook', action='skip')


@pytest.mark.parametrize('settings', [
    dict(default_hooks=dict(finite_check=None, data_check=None)),
    dict(unguarded=['finite_check', 'data_check']),
    dict(unguarded=['finite_check'], default_hooks=dict(data_check=None)),
], ids=str)
def test_guards_that_are_left_out(settings):
    cfg = guarded(**settings)
    assert cfg.default_hooks.keys() == {*GUARDS, 'guards'} - {'finite_check', 'data_check'}
    assert set(cfg.unguarded) == {'finite_check', 'data_check'}


def test_no_checkpoints_and_unsafe_ones():
    cfg = guarded(default_hooks=dict(checkpoint=None),
                  custom_hooks=[dict(type='CheckpointHook', interval=7)])
    assert cfg.default_hooks.checkpoint is None
    assert cfg.custom_hooks == [dict(type='mmvssd.SafeCheckpointHook', interval=7)]
    cfg = guarded(unguarded=['checkpoint'])
    assert cfg.default_hooks.checkpoint == dict(type='CheckpointHook', interval=1)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(unguarded=['finit_check']), 'unguarded: finit_check cannot be .*train_loop, checkpoint,'),
    (dict(default_hooks=dict(finit_check=None)), 'default_hooks: finit_check cannot be .*timer'),
])
def test_misspelt_names(settings, message):
    with pytest.raises(ConfigError, match=message):
        guard(Config(settings))


def test_configs_in_classes(tmp_path):
    """The form that begins with imports; it needs no default scope."""
    (tmp_path / 'lazy.py').write_text("""
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.runner import IterBasedTrainLoop
train_cfg = dict(type=IterBasedTrainLoop, max_iters=3)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, interval=2), logger=dict(type=LoggerHook))
""")
    cfg = Config.fromfile(tmp_path / 'lazy.py')
    guard(cfg)
    assert cfg.train_cfg == dict(type='mmvssd.IterBasedTrainLoop', max_iters=3)
    assert cfg.default_hooks.checkpoint == dict(type='mmvssd.SafeCheckpointHook', interval=2)
    assert ALL.items() <= types_of(cfg).items()


@pytest.mark.parametrize('recipe', [
    'samples/vssd-nano_mesa_1xb64_digits.py', 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
    'segmentation/upernet_vssd-tiny_4xb4-160k_ade20k-512x512.py',
    'classification/fsdp/vssd-base_fsdp_8xb256_in1k.py'])
def test_recipes(recipe):
    """The one line in their base brings all; what they set themselves stays."""
    cfg = load_config(recipe)
    assert cfg.runner_type == 'mmvssd.GuardedRunner'
    before = cfg.copy()
    guard(cfg)
    assert ALL.items() <= types_of(cfg).items()
    checkpoint = dict(before.default_hooks.checkpoint, type='mmvssd.SafeCheckpointHook')
    assert cfg.default_hooks.checkpoint == checkpoint
    assert cfg.train_cfg == before.train_cfg
    assert cfg.default_hooks.logger == before.default_hooks.logger


def test_the_runner_that_is_built(monkeypatch):
    built = []
    for kind in (Runner, FlexibleRunner):
        monkeypatch.setattr(kind, 'from_cfg', classmethod(lambda cls, cfg: built.append(
            (cls, cfg)) or SimpleNamespace(kind=cls, hooks=[])))
    given = dict(train_cfg=dict(by_epoch=True, max_epochs=1))
    for settings, kind in (({}, Runner), (dict(runner_type='mmvssd.GuardedRunner'), Runner),
                           (dict(runner_type=GuardedRunner), Runner),
                           (dict(runner_type='FlexibleRunner'), FlexibleRunner),
                           (dict(strategy=dict(type='mmvssd.ShardedStrategy')), FlexibleRunner)):
        cfg = Config({**given, **settings})
        assert GuardedRunner.from_cfg(cfg).kind is kind
        assert cfg.train_cfg == given['train_cfg']  # it is a copy that is changed
        assert built[-1][1].train_cfg.type == 'mmvssd.EpochBasedTrainLoop'
    # as the hosts' train.py does
    assert RUNNERS.build(Config(dict(given, runner_type='mmvssd.GuardedRunner'))).kind is Runner
    assert built[-1][1].default_hooks.keys() >= GUARDS.keys()
    with pytest.raises(KeyError, match='NobodysRunner'):
        GuardedRunner.from_cfg(Config(dict(given, runner_type='NobodysRunner')))


class Loop(EpochBasedTrainLoop):
    def __init__(self):
        pass


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(guards, 'print_log', lambda line, **kwargs: lines.append(line))
    return lines


def runner_with(loop, hooks, cfg=None, model=None, **more):
    return SimpleNamespace(_train_loop=loop, hooks=hooks, cfg=Config(cfg or {}),
                           model=model or nn.Linear(1, 1), **more)


def all_hooks(*without):
    return [entry.hook() for name, entry in GUARDS.items() if name not in without]


def test_what_is_on_is_said(said):
    GuardsHook().before_run(runner_with(Loop(), all_hooks()))
    assert said == ['Guards on: train_loop, checkpoint, checkpoint_check, mean_loss, run_record, '
                    'data_survey, data_check, data_faults, finite_check, unused_parameters, '
                    'work_dir']


def test_what_is_on_in_a_test(said):
    GuardsHook().before_run(runner_with({}, all_hooks()))
    assert said == ['Guards on: checkpoint_check, run_record, data_survey, data_check']


def test_what_is_off_is_said(said):
    class HostsLoop(BaseLoop):
        def __init__(self):
            pass

        def run(self):
            pass

    hooks = [*all_hooks('finite_check', 'checkpoint', 'mean_loss', 'run_record'),
             OwnCheckpointHook()]
    GuardsHook().before_run(runner_with(HostsLoop(), hooks, dict(
        unguarded=['finite_check'],
        default_hooks=dict(checkpoint=dict(type='OwnCheckpointHook'), run_record=None))))
    assert said[0] == ('Guards on: checkpoint_check, data_survey, data_check, data_faults, '
                       'unused_parameters, work_dir')
    assert said[1:] == [
        f'Guard checkpoint is off (a OwnCheckpointHook): {GUARDS["checkpoint"].without}',
        f'Guard mean_loss is off (not added): {GUARDS["mean_loss"].without}',
        f'Guard run_record is off (left out): {GUARDS["run_record"].without}',
        f'Guard finite_check is off (left out): {GUARDS["finite_check"].without}',
        f'Guard train_loop is off (a HostsLoop): {guards.INEXACT}']


def test_the_page_about_them():
    page = (project_root() / 'docs' / 'reliability.md').read_text()
    assert f'Guards on: train_loop, {", ".join(GUARDS)}\n' in page
    rows = dict(re.findall(r'^\| `(\w+)` \| .* \| (yes|) ?\|$', page, re.MULTILINE))
    assert rows == {'train_loop': '', **{name: 'yes' if entry.in_tests else ''
                                         for name, entry in GUARDS.items()}}
    assert all(name in page for name in guards.KEEPS_STATE if not name.startswith('Albu'))
    blocks = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    settings = [line for line in blocks[0].splitlines() if line]
    for line, out in zip(settings, ({'finite_check', 'train_loop'}, {'finite_check'}, set())):
        cfg = Config.fromstring(line, '.py')
        guard(cfg)
        assert set(cfg.get('unguarded') or []) == out
    assert Config.fromstring(blocks[1], '.py').runner_type == 'mmvssd.GuardedRunner'


class DropBlock(nn.Module):
    """Named as MMDetection's."""


class OwnDropBlock(DropBlock):
    """A user's, on it."""


class CachedMosaic:
    """Named as MMDetection's, for configs in classes."""


class Strategy:
    """A way of training that nobody has tried to resume."""


@pytest.mark.parametrize(('more', 'reason'), [
    (dict(model=nn.Sequential(OwnDropBlock())), 'DropBlock keeps a count of steps'),
    (dict(hooks=[EarlyStoppingHook(monitor='mIoU')]), 'EarlyStoppingHook keeps a count of eval'),
    (dict(cfg=dict(train_dataloader=dict(dataset=dict(dataset=dict(pipeline=[
        dict(type='RandomApply', transforms=[dict(type='mmdet.CachedMosaic')])]))))),
     'CachedMosaic keeps a cache of images'),
    (dict(cfg=dict(custom_hooks=[dict(switch_pipeline=[dict(type=CachedMosaic)])])),
     'CachedMosaic keeps a cache of images'),
    (dict(strategy=Strategy()), 'Strategy keeps checkpoints in a way of its own'),
])
def test_what_is_not_resumed_exactly_is_said(said, more, reason):
    hooks = [*all_hooks(), *more.pop('hooks', [])]
    GuardsHook().before_run(runner_with(Loop(), hooks, **more))
    assert said[0].startswith('Guards on: train_loop, ')
    assert len(said) == 2
    assert said[1].startswith(reason)
    assert said[1].endswith(guards.INEXACT)


def test_parts_that_keep_state_are_there():
    """A host that renames one makes the list wrong."""
    for host in ('mmdet', 'mmpretrain', 'mmseg'):
        pytest.importorskip(host)
    places = map(importlib.import_module, (
        'mmengine.hooks', 'mmdet.datasets.transforms', 'mmdet.models', 'mmdet.models.roi_heads',
        'mmdet.models.data_preprocessors', 'mmdet.models.layers.dropblock',
        'mmpretrain.datasets.transforms', 'mmpretrain.engine', 'mmseg.datasets.transforms'))
    found = {name for place in places for name in guards.KEEPS_STATE if hasattr(place, name)}
    assert found == guards.KEEPS_STATE.keys()


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(train_cfg=dict(by_epoch=True, max_epochs=0)), 'train_cfg.max_epochs: got 0, expected a'),
    (dict(train_cfg=dict(by_epoch=False, max_iters=-3)), 'train_cfg.max_iters: got -3'),
    (dict(train_cfg=dict(by_epoch=True, max_epochs='12')), "train_cfg.max_epochs: got '12'"),
    (dict(train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=0)), 'val_interval: got 0'),
    (dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=0))),
     'default_hooks.checkpoint.interval: got 0, .* or -1 for never'),
    (dict(default_hooks=dict(logger=dict(type='LoggerHook', interval=0))),
     'default_hooks.logger.interval: got 0')])
def test_what_is_done_every_0_steps(settings, message):
    with pytest.raises(ConfigError, match=message):
        guard(Config(settings))


def test_what_is_never_done_is_meant():
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=float('inf')),
                      default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=-1))))
    guard(cfg)
    assert cfg.default_hooks.checkpoint.interval == -1


def test_early_stopping_is_exchanged_with_the_loop():
    """It goes on counting; what is left out with the loop is MMEngine's."""
    stop = dict(type='EarlyStoppingHook', monitor='accuracy', patience=3)
    for unguarded, name in ((None, 'mmvssd.ResumableEarlyStoppingHook'),
                            (['train_loop'], 'mmengine.EarlyStoppingHook')):
        cfg = Config(dict(custom_hooks=[dict(stop)], unguarded=unguarded))
        for _ in range(2):
            guard(cfg)
        assert cfg.custom_hooks[0].type in (name, stop['type'])
        assert (cfg.custom_hooks[0].type == name) == (unguarded is None)
        assert cfg.custom_hooks[0].patience == 3
    hook = HOOKS.build(dict(stop, type='mmvssd.ResumableEarlyStoppingHook'))
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    assert not [reason for reason in guards.inexact(runner_with(loop, [hook])) if 'Stop' in reason]
