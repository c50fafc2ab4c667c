"""The guards of every training: the list, and how a config of any origin gets them.

A config may be one of the hosts', of this package, or the user's own, in strings or in Python
classes. The function :func:`guard` changes it. :class:`GuardedRunner` builds its Runner.
:class:`GuardsHook` logs which guards are on and what is not promised.
"""
import copy
import inspect
import logging
import math
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Type, Union

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS as HOST_HOOKS
from mmengine.registry import LOOPS as HOST_LOOPS
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as HOST_CONSTRUCTORS
from mmengine.registry import RUNNERS as HOST_RUNNERS
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop as HostEpochBasedTrainLoop
from mmengine.runner import FlexibleRunner, Runner
from mmengine.runner import IterBasedTrainLoop as HostIterBasedTrainLoop

from mmvssd.checkpoint import unwrapped
from mmvssd.engine.checkpoints import CheckpointCheckHook, SafeCheckpointHook, WorkDirHook
from mmvssd.engine.data import DataCheckHook, DataFaultsHook, DataSurveyHook
from mmvssd.engine.data.checks import dicts_of
from mmvssd.engine.numerics import FiniteCheckHook
from mmvssd.engine.record import MeanLossHook, RunRecordHook
from mmvssd.engine.train import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LearningRateDecayOptimizerConstructor,
    ResumableEarlyStoppingHook,
    UnusedParametersHook,
)
from mmvssd.errors import ConfigError
from mmvssd.host_internals import DEFAULT_HOOKS, built_loop
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.registry import HOOKS, RUNNERS


class Guard(NamedTuple):
    """A hook that guards a run."""

    hook: Type[Hook]
    without: str  # what a run without it does not promise
    in_tests: bool = False


#: Every guard, by the name under which ``default_hooks`` holds it and a config leaves it out.
GUARDS: Dict[str, Guard] = {
    'checkpoint': Guard(
        SafeCheckpointHook, 'a run that is killed while it writes may have no checkpoint left'),
    'checkpoint_check': Guard(
        CheckpointCheckHook, 'a checkpoint that does not fit the model is loaded in part',
        in_tests=True),
    'mean_loss': Guard(MeanLossHook, 'logged losses are those of the first process'),
    'run_record': Guard(RunRecordHook, 'no run.json tells what the run was', in_tests=True),
    'data_survey': Guard(
        DataSurveyHook, 'data that are wrong as a whole are trained on and scored',
        in_tests=True),
    'data_check': Guard(
        DataCheckHook, 'images and labels that the model cannot take are not named',
        in_tests=True),
    'data_faults': Guard(
        DataFaultsHook, 'what is left out of the training data is not counted'),
    'finite_check': Guard(
        FiniteCheckHook, 'a loss or gradients that are not finite reach the weights'),
    'unused_parameters': Guard(
        UnusedParametersHook, 'parameters without a gradient stop several processes unnamed'),
    'work_dir': Guard(
        WorkDirHook, 'two trainings in one work dir may mix their checkpoints'),
}

#: The guard that is no hook: the loop of ``train_cfg``.
TRAIN_LOOP = 'train_loop'
#: What a run without it, or with parts that keep state, does not promise.
INEXACT = 'a run that is killed and resumed may end with other weights than one that never was'

#: Loops that are resumed exactly, by the loops of MMEngine that they stand in for.
RESUMABLE_LOOPS = {HostEpochBasedTrainLoop: EpochBasedTrainLoop,
                   HostIterBasedTrainLoop: IterBasedTrainLoop}

#: Parts of the hosts that keep something between steps which no checkpoint holds.
KEEPS_STATE = {
    'Albu': 'random numbers of albumentations',
    'Albumentations': 'random numbers of albumentations',
    'BatchSyncRandomResize': 'the size that it drew last',
    'CachedMixUp': 'a cache of images',
    'CachedMosaic': 'a cache of images',
    'DropBlock': 'a count of steps',
    'DynamicRoIHead': 'statistics of the last proposals',
    'EarlyStoppingHook': 'a count of evaluations without progress',
    'SwAVHook': 'a queue of features, in a file that is not of the checkpoint',
}

#: Strategies of a FlexibleRunner that were resumed in tests.
TRIED_STRATEGIES = ('SingleDeviceStrategy', 'DDPStrategy', 'ShardedStrategy')


def guard(cfg: Config) -> None:
    """Give a config the resumable loop and all guards, in place; a second time changes nothing.

    MMEngine's two training loops, its EarlyStoppingHook (with the loops) and its CheckpointHook are
    exchanged for those of this package, with the same settings. So is the decay of learning rates
    of MMDetection and MMSegmentation, which stops at this package's backbones. Loops and hooks of
    other classes stay.

    A config leaves guards out by name: ``unguarded=['finite_check', 'train_loop']``, or for a hook
    ``default_hooks=dict(finite_check=None)``. ``unguarded=['checkpoint']`` leaves MMEngine's own
    CheckpointHook in place, ``default_hooks=dict(checkpoint=None)`` means no checkpoints at all.

    Args:
        cfg: A whole config, for training or testing.

    Raises:
        ConfigError: It leaves out what is no guard, its ``train_cfg`` names no loop, or it trains,
            evaluates, logs or saves every 0 steps.
    """
    scope = cfg.get('default_scope')
    hooks = dict(cfg.get('default_hooks') or {})
    unguarded = _unguarded(cfg, hooks)
    resumable = TRAIN_LOOP not in unguarded
    if cfg.get('train_cfg') is not None:
        cfg['train_cfg'] = _loop(cfg['train_cfg'], resumable, scope)
    if isinstance(cfg.get('optim_wrapper'), dict):
        cfg['optim_wrapper'] = _optim_wrapper(cfg, scope)
    hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))  # as MMEngine does
    safe = 'checkpoint' not in unguarded
    hooks = {name: _kept(hook, safe, resumable, scope) for name, hook in hooks.items()}
    custom = [_kept(hook, safe, resumable, scope) for hook in cfg.get('custom_hooks') or []]
    _require_counts(cfg, hooks)
    for name in unguarded:
        if name in GUARDS and builds(cfg, hooks.get(name), GUARDS[name].hook):
            del hooks[name]
    _add(hooks, custom, unguarded, scope)
    cfg['default_hooks'] = hooks
    if custom:
        cfg['custom_hooks'] = custom
    if unguarded:
        cfg['unguarded'] = unguarded


def _unguarded(cfg: Config, hooks: dict) -> List[str]:
    """Name what is left out; hooks that are None for it are taken out of ``hooks``."""
    named = cfg.get('unguarded') or []
    named = [named] if isinstance(named, str) else list(named)
    _require_known('unguarded', named, (TRAIN_LOOP, *GUARDS))
    for name in [name for name, hook in hooks.items() if hook is None]:
        _require_known('default_hooks', [name], (*DEFAULT_HOOKS, *GUARDS))
        if name not in DEFAULT_HOOKS:  # MMEngine takes None only for its own
            del hooks[name]
            named.append(name)
    return list(dict.fromkeys(named))


def _require_known(setting: str, names: List[str], known: tuple) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f'{setting}: {", ".join(unknown)} cannot be left out, there is no such '
                          f'thing; the names are {", ".join(dict.fromkeys(known))}')


def _loop(train_cfg, resumable: bool, scope: Optional[str]):
    """Return the settings with the resumable loop or MMEngine's, if it is one of the two."""
    if not isinstance(train_cfg, dict):  # a loop that was built
        return train_cfg
    settings = dict(train_cfg)
    if 'type' in settings:
        kind = _class_of(settings, HOST_LOOPS, scope)
    elif 'by_epoch' in settings:
        kind = HostEpochBasedTrainLoop if settings.pop('by_epoch') else HostIterBasedTrainLoop
    else:
        raise ConfigError(f'train_cfg: got {settings}, which names no loop; set by_epoch=True with '
                          'max_epochs, or by_epoch=False with max_iters')
    return _exchanged(train_cfg, settings, kind, RESUMABLE_LOOPS, resumable)


def _optim_wrapper(cfg: Config, scope: Optional[str]) -> dict:
    """Return the settings with a decay of learning rates that knows this package's backbones."""
    settings = cfg['optim_wrapper']
    kind = _class_of(settings.get('constructor'), HOST_CONSTRUCTORS, scope)
    ours = LearningRateDecayOptimizerConstructor
    backbones = (_class_of(part['backbone'], HOST_MODELS, scope)
                 for part in dicts_of(cfg.get('model')) if isinstance(part.get('backbone'), dict))
    if (kind is None or kind.__name__ != ours.__name__
            or not any(found and issubclass(found, BaseBackbone) for found in backbones)):
        return settings
    return dict(settings, constructor=_name(ours))


def _kept(hook, safe: bool, resumable: bool, scope: Optional[str]):
    """Return the settings with this package's hook or MMEngine's, if it is one of a pair."""
    if not isinstance(hook, dict):
        return hook
    kind = _class_of(hook, HOST_HOOKS, scope)
    for pair, to_ours in (({CheckpointHook: SafeCheckpointHook}, safe),
                          ({EarlyStoppingHook: ResumableEarlyStoppingHook}, resumable)):
        hook = _exchanged(hook, hook, kind, pair, to_ours)
    return hook


def _require_counts(cfg: Config, hooks: dict) -> None:
    """Raise ConfigError if something is to be done 0 times or every 0 steps; -1 means never."""
    loop = cfg.get('train_cfg')
    counts = [('train_cfg', name, loop, 1) for name in ('max_epochs', 'max_iters', 'val_interval')]
    counts += [(f'default_hooks.{name}', 'interval', hooks.get(name), least)
               for name, least in (('checkpoint', -1), ('logger', 1), ('visualization', 1))]
    for owner, name, entry, least in counts:
        value = entry.get(name) if isinstance(entry, dict) else None
        if value is None or (isinstance(value, (int, float))
                             and (value == least or (value >= 1 and value % 1 == 0)
                                  or value == math.inf)):
            continue
        raise ConfigError(f'{owner}.{name}: got {value!r}, expected a whole number from 1 on'
                          f'{", or -1 for never" * (least < 0)}')


def _exchanged(given: dict, settings: dict, kind: Optional[type], pairs: Mapping[Any, type],
               to_ours: bool) -> dict:
    """Return settings with the other class of a pair; those given if theirs is to stay."""
    if not to_ours:
        pairs = {ours: host for host, ours in pairs.items()}
    other = None if kind is None else pairs.get(kind)
    return given if other is None else dict(settings, type=_name(other))


def _add(hooks: dict, custom: list, unguarded: List[str], scope: Optional[str]) -> None:
    """Add the hooks that are neither there nor left out; complete those of which settings are."""
    present = [_class_of(hook, HOST_HOOKS, scope) for hook in (*hooks.values(), *custom)]
    for name, entry in GUARDS.items():
        hook = hooks.get(name)
        if isinstance(hook, dict) and 'type' not in hook:
            hooks[name] = dict(hook, type=_name(entry.hook))
        elif (name not in hooks and name not in unguarded
              and not any(kind and issubclass(kind, entry.hook) for kind in present)):
            hooks[name] = dict(type=_name(entry.hook))
    hooks.setdefault('guards', dict(type=_name(GuardsHook)))


def _name(kind: type) -> str:
    """Name of a class of this package or of MMEngine in a config, whatever its default scope."""
    return f'{kind.__module__.partition(".")[0]}.{kind.__name__}'


def _class_of(entry, registry: Registry, scope: Optional[str]) -> Optional[type]:
    """Return the class that an entry of a config builds; None if it is unknown: building says so.

    Args:
        entry: A dict with a ``type``, a class, a class's name, or what was built.
        registry: MMEngine's registry of it.
        scope: The config's ``default_scope``.
    """
    kind = entry.get('type') if isinstance(entry, dict) else entry
    if isinstance(kind, str):
        with registry.switch_scope_and_registry(scope) as found:
            kind = found.get(kind)
    if kind is None or inspect.isclass(kind):
        return kind
    return type(kind)


def builds(cfg: Config, hook, kind: Type[Hook]) -> bool:
    """Tell whether an entry of a config's hooks is one of a class, or of its subclasses."""
    found = _class_of(hook, HOST_HOOKS, cfg.get('default_scope'))
    return found is not None and issubclass(found, kind)


@RUNNERS.register_module()
class GuardedRunner:
    """Build the Runner of a config with all guards.

    ``runner_type='mmvssd.GuardedRunner'`` in a config brings the guards to whatever builds a Runner
    by that setting, such as the hosts' own ``train.py``. The Runner is MMEngine's, a FlexibleRunner
    if the config has a ``strategy``.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> Union[Runner, FlexibleRunner]:
        """Build a Runner, as MMEngine's method of this name does.

        Args:
            cfg: A whole config; it is not changed. A Runner of its own that it names is built.

        Raises:
            ConfigError: See :func:`guard`.
        """
        cfg = copy.deepcopy(cfg)
        guard(cfg)
        kind = cfg.get('runner_type')
        if kind is not None and _class_of(kind, HOST_RUNNERS, cfg.get('default_scope')) is not cls:
            runner = HOST_RUNNERS.build(cfg)
        else:
            runner = (FlexibleRunner if cfg.get('strategy') else Runner).from_cfg(cfg)
        for hook in getattr(runner, 'hooks', ()):  # one of the user's own may keep none
            if isinstance(hook, DataSurveyHook):
                hook.look_before_building(runner)
        return runner


@HOOKS.register_module()
class GuardsHook(Hook):
    """Log which guards a run has, and what is not promised of it."""

    # before hooks that may stop the run
    priority = 'HIGHEST'

    def before_run(self, runner) -> None:
        """Look at the Runner's own hooks, loop, model and data, wherever they come from."""
        loop = built_loop(runner, 'train')
        names = [name for name, entry in GUARDS.items() if loop or entry.in_tests]
        on = [name for name in names
              if any(isinstance(hook, GUARDS[name].hook) for hook in runner.hooks)]
        warnings = [f'Guard {name} is off ({_why(runner, name)}): {GUARDS[name].without}'
                    for name in names if name not in on]
        if isinstance(loop, tuple(RESUMABLE_LOOPS.values())):
            on.insert(0, TRAIN_LOOP)
            warnings += [f'{reason}: {INEXACT}' for reason in inexact(runner)]
        elif loop:
            why = 'left out' if TRAIN_LOOP in _named(runner) else f'a {type(loop).__name__}'
            warnings.append(f'Guard {TRAIN_LOOP} is off ({why}): {INEXACT}')
        print_log(f'Guards on: {", ".join(on) or "none"}', logger='current')
        for warning in warnings:
            print_log(warning, logger='current', level=logging.WARNING)


def _named(runner) -> List[str]:
    return runner.cfg.get('unguarded') or []


def _why(runner, name: str) -> str:
    hooks = runner.cfg.get('default_hooks') or {}
    hook = hooks.get(name)
    if name in _named(runner) or (name in hooks and hook is None):
        return 'left out'
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    return f'a {getattr(kind, "__name__", kind)}' if hook is not None else 'not added'


def inexact(runner) -> Iterator[str]:
    """Say why a run with a resumable loop may not be resumed exactly, reason by reason.

    Parts of the hosts are known by name; a hook, transform or module of the user's own may keep
    state outside the checkpoint unnoticed.
    """
    hooks = [hook for hook in runner.hooks if not isinstance(hook, ResumableEarlyStoppingHook)]
    names = {kind.__name__ for part in (*hooks, *unwrapped(runner.model).modules())
             for kind in type(part).__mro__}
    for entry in dicts_of([runner.cfg.get('train_dataloader'), runner.cfg.get('custom_hooks')]):
        kind = entry.get('type')
        names.add(getattr(kind, '__name__', None) or str(kind).rpartition('.')[2])
    for name in sorted(names & KEEPS_STATE.keys()):
        yield f'{name} keeps {KEEPS_STATE[name]}, which a checkpoint does not hold'
    strategy = type(getattr(runner, 'strategy', None)).__name__
    if hasattr(runner, 'strategy') and strategy not in TRIED_STRATEGIES:
        yield f'{strategy} keeps checkpoints in a way of its own'
