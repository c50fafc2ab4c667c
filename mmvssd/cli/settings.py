"""Which setting of a recipe an error comes from, and which settings a recipe does not have.

MMEngine builds everything from dicts, and an error of what is built does not name its dict. But the
frames of the traceback hold it, and the recipe says where it belongs.
"""
import inspect
import logging
import re
import traceback
from contextlib import contextmanager
from types import FrameType
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import mmengine.registry
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry, build_functions
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from torch import nn
from torch.utils.data import DataLoader

from mmvssd.checkpoint import unwrapped
from mmvssd.engine.record.signals import signal_behind
from mmvssd.errors import ConfigError
from mmvssd.phrases import similar, suggestion
from mmvssd.processes import is_first

#: Settings that a recipe may be without, and that something reads all the same: arguments of a
#: Runner, what it reads of its config later, and what the commands read.
RUNNER_SETTINGS = {
    *inspect.signature(Runner).parameters,
    'activation_checkpointing', 'compile', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'init_weights_for_test_or_val', 'model_wrapper_cfg', 'sync_bn',
    'custom_imports', 'runner_type', 'strategy', 'tta_model', 'tta_pipeline', 'unguarded'}
#: How alike a new top-level setting is to one that exists, from 0 to 1, if it is misspelt.
MISSPELT = 0.8
#: How names of a phase begin: ``test_pipeline`` is no misspelt ``tta_pipeline``.
PHASES = ('train_', 'val_', 'test_', 'tta_')
#: What takes a dict without a type as its arguments, by the end of its key.
TAKEN_BY = {'randomness': Runner.set_randomness, 'dataloader': DataLoader}
#: What MMEngine looks for in dicts without a type, by their keys.
LOOKED_FOR = {
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'mp_cfg': {'mp_start_method', 'opencv_num_threads'},
    'dist_cfg': {'backend', 'timeout', 'init_backend'},
}
DATALOADER_SETTINGS = {'dataset', 'num_batch_per_epoch'}
#: Where a Config holds what ``--cfg-options`` gave.
OPTIONS = 'given_options'
#: Where it holds what was said of them before there was a log file.
DOUBTS = 'doubtful_options'

Key = Tuple[str, ...]


def merge(cfg: Config, options: dict) -> None:
    """Set what the command line's ``--cfg-options`` give, and warn of settings that are new.

    Only the first of several processes warns.

    Args:
        cfg: The recipe; it is changed.
        options: Settings by dotted key.

    Raises:
        ConfigError: A key leads nowhere, such as to the tenth of three entries, or begins with a
            name that nothing reads and that is nearly one that exists.
    """
    doubts = []
    for option in options:
        _require_spelling(cfg, option)
        message = _newness(cfg, option.split('.'))
        if message and is_first():
            doubts.append(f'--cfg-options: {option} is new, {message}')
            print_log(doubts[-1], logger='current', level=logging.WARNING)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(f'--cfg-options: {_shortened(error.args[0])}') from error
    if any(option.split('.')[0] == 'custom_imports' for option in options):
        _import_again(cfg)  # those of the recipe were imported as it was read
    # beside the recipe, not in it: dumps and copies are of settings only
    object.__setattr__(cfg, OPTIONS, dict(options))
    object.__setattr__(cfg, DOUBTS, doubts)


def _require_spelling(cfg: Config, option: str) -> None:
    name = option.split('.')[0]
    known = _settings_of(cfg, cfg, []) or set()
    phase = next((phase for phase in PHASES if name.startswith(phase)), None)
    if phase:
        known = {other for other in known if other.startswith(phase)}
    close = [] if name in known else [
        # one with a word more, or less, is a name of its own
        other for other in similar(name, known, cutoff=MISSPELT)
        if abs(len(other) - len(name)) <= 2]
    if close:
        raise ConfigError(f'--cfg-options: {option}: neither the recipe nor MMEngine has a setting '
                          f'{name}; did you mean {" or ".join(close)}? One of your own that your '
                          'code reads has to stand in the recipe')


def keep_doubts(cfg: Config) -> None:
    """Write what was said of options into the log files of this run, now that they are open."""
    for doubt in getattr(cfg, DOUBTS, []):
        _write_to_files(logging.WARNING, doubt)


def _import_again(cfg: Config) -> None:
    try:
        import_modules_from_strings(**cfg.custom_imports)
    except (ImportError, TypeError) as error:
        raise ConfigError(f'--cfg-options: custom_imports: {error}') from error


def _newness(cfg: Config, keys: List[str]) -> Optional[str]:
    """Say that the recipe does not have a setting; None if it may be meant."""
    found = cfg
    for depth, key in enumerate(keys):
        if isinstance(found, (list, tuple)) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, (dict, Config)) and key in found:
            found = found[key]
        elif isinstance(found, (dict, Config)):
            known = _settings_of(cfg, found, keys[:depth])
            if known is None or key in known:
                return None
            whose = '.'.join(keys[:depth]) or 'the recipe'
            return f'{whose} has no {key}{suggestion(key, known)}'
        else:
            return None  # a value is replaced, or merging refuses
    return None


def _settings_of(cfg: Config, entry, keys: List[str]) -> Optional[Set[str]]:
    """Return what a dict has or may have; None if what is built of it refuses all else."""
    if not keys:
        return set(entry) | RUNNER_SETTINGS
    kind = entry.get('type')
    if kind is not None:
        kind = _class_of(kind, cfg.get('default_scope')) if isinstance(kind, str) else kind
        return None if kind is None else _swallowed(kind, set(entry))
    for end, taker in TAKEN_BY.items():
        if keys[-1].endswith(end):
            return set(entry) | set(inspect.signature(taker).parameters) | DATALOADER_SETTINGS
    return set(entry) | LOOKED_FOR.get(keys[-1], set())


def _swallowed(kind, present: Set[str]) -> Optional[Set[str]]:
    """Return the arguments that a class knows if it swallows others in ``**kwargs``, else None."""
    known, swallows = present | {'type', '_scope_', '_delete_'}, False
    for base in inspect.getmro(kind) if inspect.isclass(kind) else (kind, ):
        constructor = base.__dict__.get('__init__') if inspect.isclass(kind) else kind
        if inspect.isfunction(constructor):
            parameters = inspect.signature(constructor).parameters
            known |= set(parameters)
            swallows = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            if not swallows:
                return None
    return known if swallows else None


def _class_of(name: str, scope: Optional[str]):
    """Return what some registry has under a name, from a recipe's scope."""
    for registry in vars(mmengine.registry).values():
        if isinstance(registry, Registry):
            with registry.switch_scope_and_registry(scope) as own:
                found = own.get(name)
            if found is not None:
                return found
    return None


@contextmanager
def naming_settings(cfg: Config, everything: bool = False) -> Iterator[None]:
    """Turn what building from a recipe raises into a ConfigError that names the setting.

    Its traceback goes to the log file, if there is one yet.

    Args:
        cfg: The recipe that is built from.
        everything: Take each error for one of the recipe; else only those of a registry's build,
            and of what an option of the command line is about. What a running training raises is
            something else.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        built = [frame for frame in frames if _builds(frame)]
        # ours, and those of files, say all themselves
        explained = isinstance(error, OSError) or type(error).__module__.startswith('mmvssd.')
        concerned = _key_of_running(cfg, frames)
        if explained or signal_behind(error) or not (built or everything or concerned):
            raise
        keep_traceback(error)
        key = _key_of(cfg, frames) or concerned
        raise ConfigError(_explain(cfg, key, error, built[-1] if built else None)) from error


def _builds(frame: FrameType) -> bool:
    """Tell whether a frame is of MMEngine's building, by a registry or by a Runner."""
    module, function = frame.f_globals.get('__name__', ''), frame.f_code.co_name
    return module == build_functions.__name__ or (
        module.startswith(('mmengine.runner', 'mmengine._strategy'))
        and function.startswith(('build_', 'set_', 'setup_')))


def keep_traceback(error: BaseException) -> None:
    """Write a traceback to the log files of this run, if they are open."""
    _write_to_files(logging.ERROR, 'The run was stopped by:',
                    (type(error), error, error.__traceback__))


def _write_to_files(level: int, message: str, error: Any = None) -> None:
    """Log to the files only, not to the terminal."""
    record = logging.LogRecord('mmvssd', level, __file__, 0, message, (), error)
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _explain(cfg: Config, key: Key, error: Exception, built: Optional[FrameType]) -> str:
    message = _message(error, built)
    options = getattr(cfg, OPTIONS, {})
    concerned = [option for option in options if _concerns(option, key)] or list(options)
    given = ' '.join(f'{option}={options[option]}' for option in concerned)
    where = f'{".".join(key)}: ' if key else ''
    return f'{where}{message}' + (f' (--cfg-options {given})' if given else '')


def _concerns(option: str, key: Key) -> bool:
    """Tell whether an option sets something of a dict, or what the dict is in."""
    parts = tuple(option.split('.'))
    return parts[:len(key)] == key or key[:len(parts)] == parts


def _key_of(cfg: Config, frames: List[FrameType]) -> Key:
    """Return the key of a recipe's dict that MMEngine's innermost frame has; () if none has."""
    dicts = list(_dicts(cfg))
    for frame in filter(_builds, reversed(frames)):
        for value in frame.f_locals.values():
            if isinstance(value, dict) and value:
                same = [key for key, entry in dicts if _same(value, entry)]
                if same:  # of equal ones that which an option sets
                    return next((key for key in same for option in getattr(cfg, OPTIONS, {})
                                 if _concerns(option, key)), same[0])
    return ()


def _key_of_running(cfg: Config, frames: List[FrameType]) -> Key:
    """Return the key of the innermost running object that an option sets; () if none does.

    An error of a hook or a layer is one of a setting only if its settings were given.
    """
    # MMEngine raises a hook's error anew, in a frame that calls it `hook`
    owners = [frame.f_locals.get(name) for frame in reversed(frames) for name in ('hook', 'self')]
    runner = next((owner for owner in owners if isinstance(owner, Runner)), None)
    model = getattr(runner, 'model', None)
    if not isinstance(model, nn.Module):  # it is being built
        return ()
    model = unwrapped(model)
    places = {id(module): f'model.{name}' if name else 'model'
              for name, module in model.named_modules()}
    for owner in owners:
        for key in _keys_of_object(cfg, owner, places):
            # the weights that a model begins with are loaded by then
            if any(f'{option}.'.startswith(f'{key}.') and '.init_cfg' not in option
                   for option in getattr(cfg, OPTIONS, {})):
                return tuple(key.split('.'))
    return ()


def _keys_of_object(cfg: Config, owner, places: Dict[int, str]) -> Iterator[str]:
    """Yield the keys of the dicts that an object may have been built of."""
    if id(owner) in places:
        yield places[id(owner)]
    if isinstance(owner, OptimWrapper):
        yield 'optim_wrapper'
    if isinstance(owner, Hook):
        for name, entry in (cfg.get('default_hooks') or {}).items():
            if isinstance(entry, dict) and str(entry.get('type')).endswith(type(owner).__name__):
                yield f'default_hooks.{name}'
        yield 'custom_hooks'
    if isinstance(owner, BaseMetric):
        yield from ('val_evaluator', 'test_evaluator')


def _dicts(value, key: Key = ()) -> Iterator[Tuple[Key, dict]]:
    """Yield all dicts of a recipe but the recipe itself by key, the innermost first."""
    entries = (value.items() if isinstance(value, (dict, Config)) else
               ((str(i), entry) for i, entry in enumerate(value)))
    for name, entry in entries:
        if isinstance(entry, (dict, list, tuple)):
            yield from _dicts(entry, (*key, str(name)))
    if key and isinstance(value, dict):
        yield key, value


def _same(one: dict, other: dict) -> bool:
    """Tell whether two dicts are equal; of data loaders, whose samplers we exchange, their data."""
    try:
        if 'dataset' in one and 'dataset' in other:
            one, other = one['dataset'], other['dataset']
        return bool(one == other)
    except (ValueError, RuntimeError):  # arrays, which have no truth value
        return False


def _message(error: Exception, built: Optional[FrameType]) -> str:
    """Put an error in a sentence, with a suggestion for what may be misspelt."""
    names = built.f_locals if built is not None else {}
    text = _shortened(str(error.args[0] if error.args else '') or _origin(error))
    unknown = re.match(r'(\S+) is not in the (?:\w+::)?([\w ]+) registry', text)
    if unknown:
        registry = names.get('registry')
        known = _names(registry) if isinstance(registry, Registry) else set()
        return (f'there is no {unknown[2]} with the name {unknown[1]}'
                f'{suggestion(unknown[1], known)}')
    text = re.sub(r'^class `\w+` in [\w/.]+: ', '', text)
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", text)
    if unexpected:
        taker = names.get('obj_cls') or (DataLoader if 'DataLoader' in text else None)
        known = _arguments(taker) if taker else set()
        return f'{text}{suggestion(unexpected[1], known)}'
    return f'{type(error).__name__}: {text}'


def _origin(error: Exception) -> str:
    """Name the function that raised an error without a message."""
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    return (f'raised without a message by {frame.f_code.co_name} of '
            f'{frame.f_globals.get("__name__", "a script")}')


def _arguments(taker) -> Set[str]:
    """Return the arguments of a constructor, and of those that it hands others to."""
    kinds = inspect.getmro(taker) if inspect.isclass(taker) else (taker, )
    found = set()
    for kind in kinds:
        constructor = kind.__dict__.get('__init__') if inspect.isclass(taker) else kind
        if inspect.isfunction(constructor):
            found |= set(inspect.signature(constructor).parameters) - {'self', 'args', 'kwargs'}
    return found


def _names(registry: Registry) -> Set[str]:
    """Return the names in a registry and in those above it."""
    names = set()
    while registry is not None:
        names |= set(registry.module_dict)
        registry = registry.parent
    return names


def _shortened(text, longest: int = 500) -> str:
    """Return a message without the whole configs that hosts put into theirs."""
    text = str(text)
    return text if len(text) <= longest else f'{text[:longest]}...'
