"""From a command line's options to MMEngine's Runner, for all three hosts."""
import logging
import os
from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmvssd.checkpoint import choose_weights, newest_checkpoint, read_checkpoint, require_resumable
from mmvssd.cli.settings import keep_doubts, merge, naming_settings
from mmvssd.cli.terminal import soften_empty_validations, tell_of_details
from mmvssd.engine.checkpoints.work_dir import require_usable
from mmvssd.engine.data.checks import check_data, dicts_of, is_local
from mmvssd.engine.guards import GuardedRunner, builds, guard
from mmvssd.engine.numerics.mixed_precision import use_mixed_precision
from mmvssd.engine.record.drawing import VISUALIZERS
from mmvssd.errors import CheckpointError, ConfigError
from mmvssd.families import FAMILIES
from mmvssd.host_internals import scale_rate_for
from mmvssd.paths import configs_dir, pattern_hint, real_path
from mmvssd.phrases import emptiness, similar
from mmvssd.processes import is_first

#: Heads of MMPreTrain that take one vector an image.
LINEAR_HEADS = ('LinearClsHead', 'MultiLabelLinearClsHead', 'StackedLinearClsHead')


def load_config(path: str, *, work_dir: Optional[str] = None, launcher: str = 'none',
                options: Optional[dict] = None) -> Config:
    """Read a recipe, with the command line's overrides.

    Args:
        path: A file, or a recipe's path below the package's ``configs`` folder.
        work_dir: Folder of logs and checkpoints; else the recipe's own, else
            ``work_dirs/<recipe>`` below the current folder.
        launcher: MMEngine's launcher.
        options: Settings by dotted key, as ``--cfg-options`` gives them.

    Raises:
        ConfigError: There is no such recipe, and those with a similar name are listed; or it
            cannot be read.
    """
    file = find_config(path)
    try:
        cfg = Config.fromfile(file)
    except Exception as error:  # a config is code: whatever it raises
        raise ConfigError(f'{file}: cannot be read as a recipe ({type(error).__name__}: '
                          f'{error})') from error
    cfg.launcher = launcher
    if options:
        merge(cfg, options)
    if work_dir is None:
        work_dir = cfg.get('work_dir')
    if work_dir is not None and emptiness(work_dir):
        raise ConfigError(f'--work-dir: {emptiness(work_dir)}')
    if work_dir and not os.path.isdir(work_dir) and pattern_hint(work_dir):
        raise ConfigError(f'--work-dir: got {work_dir}{pattern_hint(work_dir)}')
    cfg.work_dir = work_dir or str(Path('work_dirs') / file.stem)
    return cfg


def find_config(path: str) -> Path:
    """Locate a recipe as a file, or below the package's ``configs`` folder."""
    root = configs_dir()
    for candidate in (Path(path), root / path, root.parent / path):
        if candidate.is_file():
            return candidate
    recipes = [file for file in sorted(root.rglob('*.py')) if '_base_' not in file.parts]
    names = {file.stem: str(file.relative_to(root)) for file in recipes}
    close = similar(Path(path).stem, names, cutoff=0.3)
    raise ConfigError(f'{path}: no such recipe, neither from {Path.cwd()} nor in {root}; '
                      f'similar: {", ".join(names[name] for name in close) or "none"}'
                      + pattern_hint(path))


def build_trainer(cfg: Config, *, resume: Optional[str] = None, amp: bool = False,
                  auto_scale_lr: bool = False) -> Runner:
    """Build a Runner that is ready to train, with all guards (:mod:`mmvssd.engine.guards`).

    Args:
        cfg: The recipe; it is changed.
        resume: 'auto' goes on from the newest whole checkpoint of the work dir, or begins if there
            is none. A path goes on from that checkpoint. None leaves it to the recipe's ``resume``
            and ``load_from``.
        amp: Train in mixed precision, as the recipe's optim_wrapper says. If it does not, in
            bfloat16 on the CPU and on GPUs that have it, else in float16 with a loss scale.
        auto_scale_lr: Scale the learning rate to the batch that really runs: processes x images x
            accumulated steps.

    Raises:
        ConfigError: An option has no ground in the recipe, or the work dir is another run's.
        CheckpointError: The checkpoint cannot be read.
        DataError: A data set is missing.
    """
    require(cfg, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    guard(cfg)
    precision = _mixed_precision(cfg) if amp else None
    if auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise ConfigError('--auto-scale-lr: the recipe has no auto_scale_lr.base_batch_size; '
                              'set it to the global batch that its learning rate was chosen for')
        cfg.auto_scale_lr.enable = True
    _start_from(cfg, resume)
    _check_neck(cfg)
    _check_pretrained(cfg)
    check_data(cfg, 'train', 'val')
    runner = _build(cfg, 'train', 'val')
    soften_empty_validations(runner.logger)
    scale_rate_for(runner, cfg.optim_wrapper.get('accumulative_counts', 1))
    if precision:
        runner.logger.info(precision)
    return runner


def _mixed_precision(cfg: Config) -> str:
    try:
        message = use_mixed_precision(cfg.optim_wrapper)
    except ValueError as error:
        raise ConfigError(f'--amp: {error}') from error
    if cfg.get('strategy') and cfg.optim_wrapper.dtype == 'float16':
        cfg.optim_wrapper.use_fsdp = True  # a loss scale of all processes, not of each
    return message


def _start_from(cfg: Config, resume: Optional[str]) -> None:
    """Set what a run starts from, and with which seed; read it to see that it is whole."""
    for name, path in (('--resume', resume), ('load_from', cfg.get('load_from'))):
        if path is not None and emptiness(path):
            raise ConfigError(f'{name}: {emptiness(path)}')
    if resume is None and cfg.get('resume'):  # in the recipe, or by --cfg-options
        resume = cfg.get('load_from') or 'auto'
    restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0  # torchrun --max-restarts
    if resume == 'auto' or restarted:
        # a job that began anew goes on from what it wrote itself; dist_run.sh notes its start
        since = 0 if resume == 'auto' else float(os.environ.get('MMVSSD_JOB_START', 0))
        newest = newest_checkpoint(cfg.work_dir, since)
        message, level = f'resuming from {newest}', logging.WARNING
        if not newest:
            message = (f'{cfg.work_dir} holds no checkpoint to resume from: the training begins '
                       'anew')
            # nothing was lost of a folder in which nothing ran
            level = logging.INFO if _is_new(cfg.work_dir) else logging.WARNING
        print_log(message, logger='current', level=level)
        resume = newest or (None if resume == 'auto' else resume)
    elif resume:
        require_resumable(resume, may_be_folder=bool(cfg.get('strategy')))
    if is_first() and 'work_dir' not in (cfg.get('unguarded') or []):
        require_usable(cfg.work_dir, new=not resume)
    if resume:
        cfg.resume, cfg.load_from = True, resume
        randomness = cfg.get('randomness') or {}
        if randomness.get('seed') is None:  # it was drawn; the data's order hangs on it
            cfg.randomness = dict(randomness, seed=_seed_of(resume))
        return
    cfg.resume = False
    if cfg.get('load_from'):
        read_checkpoint(cfg.load_from)


def _is_new(folder: str) -> bool:
    return not os.path.isdir(folder) or not os.listdir(folder)


def _seed_of(checkpoint: str) -> Optional[int]:
    return None if Path(checkpoint).is_dir() else read_checkpoint(checkpoint)['meta'].get('seed')


def require(cfg: Config, *names: str) -> None:
    """Raise ConfigError unless a recipe has all of some settings."""
    missing = [name for name in names if cfg.get(name) is None]
    if missing:
        raise ConfigError(f'the recipe has no {" and no ".join(missing)}, needed here; '
                          'a recipe of its host shows what they look like')


def _build(cfg: Config, *phases: str) -> Runner:
    """Build a Runner with the loops of some phases, which read their data sets."""
    check_writable(cfg.work_dir, '--work-dir')
    with naming_settings(cfg, everything=True):
        runner = GuardedRunner.from_cfg(cfg)
        tell_of_details(runner.logger)
        keep_doubts(cfg)
        for phase in phases:
            getattr(runner, f'{phase}_loop')  # built when it is first asked for
    return runner


def check_writable(folder: str, option: str) -> None:
    """Make a folder, and raise ConfigError if it cannot be made or written to.

    Args:
        folder: Its path.
        option: The option that names it, for the error.
    """
    reason = 'no permission to write'
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ConfigError(f'{option}: {folder} cannot be made or written to ({reason}); name '
                          'another folder')


def check_output_file(file: str, option: str) -> None:
    """Make a file's folder, and raise ConfigError if the file cannot be written there."""
    check_writable(str(Path(file).parent), option)
    if Path(file).is_dir():
        raise ConfigError(f'{option}: {file} is a folder, expected a file')


def check_seed(seed: int) -> None:
    """Raise ConfigError unless random generators take the seed."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f'--seed: got {seed}, expected a whole number from 0 to {2**32 - 1}')


def check_device(device: str) -> None:
    """Raise ConfigError unless PyTorch can compute on the device here."""
    try:
        (torch.ones(1, device=device) + 1).item()
    except Exception as error:  # each kind of device has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition('. ')[0]
        fits = ', '.join(['cpu', *(f'cuda:{index}' for index in range(torch.cuda.device_count()))])
        raise ConfigError(f'--device: got {device or "nothing"}, on which PyTorch cannot compute '
                          f'here ({reason}); what fits: {fits}') from error


def _check_neck(cfg: Config) -> None:
    """Raise ConfigError if a linear head of MMPreTrain would get a backbone's maps as they are.

    ConvNeXt's backbone averages them itself, so configs made for it have no neck.
    """
    model = cfg.model
    backbone, head = ((model.get(part) or {}).get('type') for part in ('backbone', 'head'))
    if (model.get('neck') is None and backbone in [family.type for family in FAMILIES.values()]
            and head in LINEAR_HEADS):
        raise ConfigError(f"model.neck: there is none, and {head} takes averages of {backbone}'s "
                          "maps; add neck=dict(type='GlobalAveragePooling') to model")


def _check_pretrained(cfg: Config) -> None:
    """Raise early, with what to do, if a checkpoint to start from is missing."""
    for entry in dicts_of(cfg.model):
        path = entry.get('checkpoint')
        if entry.get('type') == 'Pretrained' and is_local(path) and not Path(path).is_file():
            raise CheckpointError(
                f'{path}: no such checkpoint file (seen from {Path.cwd()}), and training starts '
                'from it. Convert a published file to it with '
                'tools/model_converters/convert_checkpoint.py, name another with --cfg-options '
                'model.backbone.init_cfg.checkpoint=FILE, or start from random weights with '
                '--cfg-options model.backbone.init_cfg=None' + pattern_hint(path))


def build_tester(cfg: Config, checkpoint: str, *, weights: Optional[str] = None,
                 tta: bool = False, show_dir: Optional[str] = None,
                 out: Optional[str] = None, details: bool = False) -> Runner:
    """Build a Runner that is ready to test, with the guards of tests.

    Args:
        cfg: The recipe; it is changed.
        checkpoint: Weights to test.
        weights: 'ema' or 'raw' of a checkpoint that holds both; None leaves it to the recipe's
            EMAHook and without one takes the checkpoint's state_dict.
        tta: Test with the recipe's augmentations, averaged.
        show_dir: Folder for pictures of the predictions.
        out: File for the predictions, a ``.pkl``.
        details: Write down what a page of the run shows of a test.

    Raises:
        ConfigError: An option has no ground in the recipe.
        CheckpointError: The checkpoint cannot be read.
        DataError: The data set is missing.
    """
    require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    guard(cfg)
    cfg.load_from = checkpoint
    if tta:
        _use_tta(cfg)
    if show_dir:
        _draw_into(cfg, real_path(show_dir))
    if out:
        _dump_to(cfg, Path(out))
    if details:
        cfg.default_hooks = dict(cfg.default_hooks, details=dict(type='mmvssd.TestDetailsHook'))
    content = read_checkpoint(checkpoint)
    if weights:
        choose_weights(checkpoint, content, weights)  # they are there
        _test_weights(cfg, weights)
    check_data(cfg, 'test')
    if show_dir:
        check_writable(show_dir, '--show-dir')
    return _build(cfg, 'test')


def _test_weights(cfg: Config, kind: str) -> None:
    hooks = [hook for hook in cfg.get('custom_hooks') or []
             if not builds(cfg, hook, EMAHook)]  # it would swap them
    cfg.custom_hooks = [*hooks, dict(type='mmvssd.TestedWeightsHook', kind=kind)]


def require_tta(cfg: Config) -> None:
    """Raise ConfigError unless a recipe says how to augment images of a test."""
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ConfigError(f'--tta: the recipe has no {" and no ".join(missing)}')


def _use_tta(cfg: Config) -> None:
    require_tta(cfg)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _draw_into(cfg: Config, folder: Path) -> None:
    scope = cfg.get('default_scope')
    if scope not in VISUALIZERS:
        raise ConfigError(f'--show-dir: pictures are drawn for the default_scope '
                          f'{" or ".join(VISUALIZERS)}, the recipe has {scope}')
    hook = dict(type='mmvssd.PredictionDrawingHook', out_dir=str(folder), scope=scope)
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, visualization=hook)


def _dump_to(cfg: Config, out: Path) -> None:
    if out.suffix not in ('.pkl', '.pickle'):
        raise ConfigError(f'--out: got {out}, expected a name that ends with .pkl')
    check_output_file(str(out), '--out')
    kind = 'DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    metrics = cfg.test_evaluator
    metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
    cfg.test_evaluator = [*metrics, dict(type=kind, out_file_path=str(out))]
