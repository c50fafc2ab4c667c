"""What a run was, in one file beside its log."""
import json
import logging
import os
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from mmvssd import compat
from mmvssd.checkpoint import way_on
from mmvssd.engine.record import resumed_settings, run_facts
from mmvssd.engine.record.signals import EndingSignals
from mmvssd.files import strict_json, write_whole
from mmvssd.host_internals import built_loop, has_loaded, is_resuming, source_of
from mmvssd.paths import configs_dir
from mmvssd.processes import is_gone, this_process
from mmvssd.registry import HOOKS
from mmvssd_kernels import dispatch


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Write ``run.json`` into the run's folder, beside its log, at each start.

    It holds what the run's result may depend on: command line, config, versions, patches, commit,
    devices, seed, first checkpoint, precision, batch and learning rate, and the implementation of
    each op. It also says how the run ended. Until that is known its ``status`` is ``running``. A
    process that is killed leaves it so: :func:`read_record` says ``killed`` then, and so does the
    file from the next run in the work dir on. A learning rate that is scaled, or that is for
    another batch, is logged as a warning. So is each setting in which a resumed run differs from
    the one before it. A run that a signal ends says how it goes on.

    The file is written before the run, after its first iteration and at its end.
    """

    # before hooks that may stop the run
    priority = 'HIGHEST'

    def __init__(self):
        self._file: Optional[Path] = None
        self._record = {}
        self._has_seen_ops = False
        self._runner: Any = None
        self._signals = EndingSignals(self._note_signal, self._say_way_on)

    def before_run(self, runner) -> None:
        """Write what is known before the model's weights are."""
        devices = run_facts.devices()  # every process tells its own
        dispatch.forget_used()
        self._has_seen_ops = False
        self._runner = runner
        if is_main_process():
            settle_killed(runner.work_dir)
            self._file = _free_file(Path(runner.log_dir))
            self._record = _known_before(runner, devices)
            self._write()
            self._signals.watch()
            if 'patch_log' in compat.left_out():
                print_log(compat.summary(), logger='current', level=logging.WARNING)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Say what a resumed run was told otherwise than the run before it."""
        if built_loop(runner, 'train') and is_resuming(runner):
            # in each process: some changes raise, and no process may go on without the others
            for change in resumed_settings.changes(runner, checkpoint):
                if is_main_process():
                    print_log(f'Resumed with other settings. {change}', logger='current',
                              level=logging.WARNING)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add what the run that resumes it compares itself with."""
        resumed_settings.note(runner, checkpoint)

    def before_train(self, runner) -> None:
        """Add what the checkpoint that is resumed may have changed, and judge the learning rate."""
        precision = run_facts.training_precision(runner)
        if not is_main_process():
            return
        batch, rate = run_facts.batch(runner), run_facts.rate(runner)
        # there may have been nothing to resume
        resumed = is_resuming(runner) and has_loaded(runner)
        if batch is not None:
            level, message = run_facts.judge_rate(batch, rate, resumed=resumed)
            print_log(message, logger='current', level=level)
        self._record['start'].update(resumed=resumed, epoch=runner.epoch, iteration=runner.iter)
        self._record.update(
            seed=runner.seed, precision=precision,
            batch=batch and dict(batch._asdict(), total=batch.total),
            lr=rate and dict(rate._asdict(), scale=rate.scale))
        self._write()

    def before_test(self, runner) -> None:
        """Add what a test computes in."""
        self._record['precision'] = run_facts.evaluation_precision(runner, runner.test_loop)

    def after_train_iter(self, *args, **kwargs) -> None:
        """Add which implementations the ops ran."""
        self._signals.raise_eaten()
        self._see_ops()

    def after_val_iter(self, *args, **kwargs) -> None:
        """Stop if a signal was to."""
        self._signals.raise_eaten()

    def after_test_iter(self, *args, **kwargs) -> None:
        """Add which implementations the ops ran."""
        self._signals.raise_eaten()
        self._see_ops()

    def after_run(self, runner) -> None:
        """Add that the run came to its end."""
        self._end(runner, status='finished', error=None)

    def after_error(self, runner, error: BaseException) -> None:
        """Add what stopped the run; :mod:`mmvssd.compat.failed_runs` calls this."""
        reason = self._signals.received or f'{type(error).__name__}: {error}'
        self._end(runner, status='stopped', error=reason)
        if self._signals.received:
            self._say_way_on()

    def _note_signal(self, name: str) -> None:
        """Write it down at once: there may be no time for more."""
        self._record.update(status='stopped', error=name, ended=_now())
        self._write()

    def _say_way_on(self) -> None:
        ended = (f'The training was {self._signals.received} after iteration {self._runner.iter}: '
                 f'{way_on(self._runner.work_dir)}' if self._record.get('mode') == 'train' else
                 f'The test was {self._signals.received} before it had scores: the same command '
                 'begins anew')
        print_log(ended, logger='current', level=logging.WARNING)

    def _see_ops(self) -> None:
        if not self._has_seen_ops:
            self._has_seen_ops = True
            self._write()

    def _end(self, runner, **outcome) -> None:
        self._signals.leave()
        self._record.update(outcome, ended=_now())
        if self._record.get('mode') == 'train':
            self._record['reached'] = dict(epoch=runner.epoch, iteration=runner.iter)
        self._write()

    def _write(self) -> None:
        if self._file is not None:  # the main process, and a run that has begun
            self._record['ops'] = dispatch.used()
            write_whole(self._file, strict_json(self._record, indent=1) + '\n')


def read_record(file: Path) -> dict:
    """Read a ``run.json``; the ``status`` of a run whose process is gone is ``killed``.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no JSON.
    """
    record = json.loads(file.read_text())
    if record['status'] == 'running' and is_gone(record.get('process') or {}):
        record.update(status='killed', error='its process ended without a word, as by SIGKILL or '
                                             'with its machine')
    return record


def settle_killed(work_dir: str) -> None:
    """Write into a work dir's records of runs that were killed that they were."""
    for file in Path(work_dir).glob('*/run*.json'):
        try:
            record = read_record(file)
            if record['status'] == 'killed':
                write_whole(file, strict_json(record, indent=1) + '\n')
        except (OSError, ValueError, KeyError, TypeError):  # a user's own file of that name
            continue


def _known_before(runner, devices: dict) -> dict:
    return dict(
        status='running', error=None, mode=_mode(runner), started=_now(), ended=None,
        process=this_process(),
        command=shlex.join(getattr(sys, 'orig_argv', None) or [sys.executable, *sys.argv]),
        folder=os.getcwd(), work_dir=str(Path(runner.work_dir).resolve()),
        recipe=_recipe(runner.cfg.filename), config=_config(runner),
        start=dict(checkpoint=_checkpoint(runner), resumed=is_resuming(runner),
                   pretrained=run_facts.pretrained(runner.cfg.get('model'))),
        # a FlexibleRunner's own attribute of that name fails
        seed=runner.seed,
        deterministic=bool((runner.cfg.get('randomness') or {}).get('deterministic')),
        processes=runner.world_size, devices=devices,
        MMVSSD_KERNEL=os.environ.get(dispatch.ENVIRONMENT_VARIABLE),
        versions=run_facts.versions(), checkout=run_facts.checkout(),
        patches=dict(in_effect=compat.in_effect(), idle=compat.idle(),
                     left_out=compat.left_out()))


def _mode(runner) -> str:
    return next(mode for mode in ('train', 'test', 'val') if built_loop(runner, mode))


def _checkpoint(runner) -> Optional[str]:
    """Return what will be loaded; for a host's --resume MMEngine looks for it and keeps no note."""
    if is_resuming(runner) and source_of(runner) is None:
        return find_latest_checkpoint(runner.work_dir)
    return source_of(runner)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec='seconds')


def _recipe(filename: Optional[str]) -> Optional[str]:
    """Return a recipe's path, below the project's configs if it is one of these."""
    if filename is None:
        return None
    path, root = Path(filename).resolve(), configs_dir()
    return str(path.relative_to(root) if root in path.parents else path)


def _config(runner) -> str:
    """Return the path in the run's folder of its config, with all that the command line changed.

    The visualizer writes it there, unless it was told to keep nothing; then it is written now. The
    one in the work dir is replaced at the next start.
    """
    folder = Path(runner.log_dir)
    written = folder / 'vis_data' / 'config.py'
    if not written.is_file():
        written = folder / 'config.py'
        runner.cfg.dump(str(written))
    return str(written.relative_to(folder))


def _free_file(folder: Path) -> Path:
    """Return ``run.json``, or ``run_2.json`` and so on if one Runner trains and then tests."""
    file, number = folder / 'run.json', 1
    while file.exists():
        number += 1
        file = folder / f'run_{number}.json'
    return file
