"""One training at a time in a work dir, and one run's checkpoints."""
import atexit
import json
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Optional

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook

from mmvssd.checkpoint import checkpoints_of
from mmvssd.errors import ConfigError
from mmvssd.host_internals import is_resuming
from mmvssd.processes import is_gone, is_this, this_process
from mmvssd.registry import HOOKS

LOCK = 'training.lock'
#: Seconds between two signs of life of a lock's owner.
BEAT = 15
#: Seconds without one after which an owner that cannot be seen from here is taken to be gone.
SILENCE = 120


class WorkDirLock:
    """A file of a work dir that says which process trains there.

    It is made in one step, on shared file systems too. An owner of this machine that is gone is
    seen at once. Of one on another machine, the file's time tells: the owner renews it. That time
    and the present are both the file system's, whatever the machines' clocks say.

    Args:
        work_dir: The folder.
    """

    def __init__(self, work_dir: str):
        self._file = Path(work_dir) / LOCK
        self._content = json.dumps(dict(this_process(), since=time.strftime('%Y-%m-%d %H:%M:%S')))
        self._is_held = threading.Event()

    def acquire(self) -> None:
        """Take the lock, from an owner that is gone as well.

        Raises:
            ConfigError: A training runs in the work dir.
        """
        while not self._make():
            held = _read(self._file)
            self.require_free()
            _put_away(self._file, held)
        self._is_held.set()
        threading.Thread(target=self._renew, daemon=True).start()
        atexit.register(self.release)

    def require_free(self) -> None:
        """Raise ConfigError if another process, which may still be there, holds the lock."""
        text = _read(self._file)
        if text is None:
            return
        owner = _owner(text)
        gone = True if is_this(owner) else is_gone(owner)
        silent = _silence(self._file) if gone is None else 0
        if gone or silent > SILENCE:
            return
        raise ConfigError(
            f'{self._file.parent}: process {owner.get("pid")} on {owner.get("host")} has been '
            f'training here since {owner.get("since")}. Two trainings in one work dir would mix '
            'their checkpoints: name another with --work-dir, or wait for its end'
            + (f'. If it is gone, start again in {SILENCE} seconds, or remove {self._file}'
               if gone is None else ''))

    def is_kept(self) -> bool:
        """Tell whether the lock is still this one's; it is not if someone has removed it."""
        return _read(self._file) == self._content

    def release(self) -> None:
        """Remove the lock if it is this one's; a second call does nothing."""
        if self._is_held.is_set():
            self._is_held.clear()
            atexit.unregister(self.release)
            if self.is_kept():
                self._file.unlink(missing_ok=True)

    def _make(self) -> bool:
        """Make the file whole with its content, unless it is there."""
        draft = self._file.with_name(f'{LOCK}.{uuid.uuid4().hex[:8]}')
        try:
            draft.write_text(self._content)
            os.link(draft, self._file)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return _make_plainly(self._file, self._content)
        finally:
            draft.unlink(missing_ok=True)
        return True

    def is_kept_or_free(self) -> bool:
        """Tell whether the lock is this one's, after taking it again if it was merely removed."""
        return self.is_kept() or self._make() or self.is_kept()

    def _renew(self) -> None:
        while self._is_held.is_set():
            time.sleep(BEAT)
            try:
                if self._is_held.is_set() and self.is_kept():
                    os.utime(self._file)
            except OSError:  # a shared disk that is away for a while
                continue


def _make_plainly(file: Path, content: str) -> bool:
    try:
        with open(file, 'x') as new:
            new.write(content)
    except FileExistsError:
        return False
    return True


def _put_away(file: Path, content: Optional[str]) -> None:
    """Remove a lock that is still the given one; one that was made meanwhile is put back."""
    aside = file.with_name(f'{LOCK}.{uuid.uuid4().hex[:8]}')
    try:
        os.rename(file, aside)
    except FileNotFoundError:
        return
    try:
        if _read(aside) != content:
            os.link(aside, file)
    except OSError:  # there is a newer one, or a file system without hard links
        pass
    finally:
        aside.unlink()


def _read(file: Path) -> Optional[str]:
    try:
        return file.read_text(errors='replace')
    except (FileNotFoundError, NotADirectoryError):  # nor is there a work dir yet
        return None


def _owner(text: str) -> dict:
    try:
        owner = json.loads(text)
    except ValueError:  # of a file that was being written
        owner = {}
    return owner if isinstance(owner, dict) else {}


def _silence(file: Path) -> float:
    """Return the seconds since a lock's owner gave a sign of life, by the file system's clock."""
    probe = file.with_name(f'{LOCK}.{uuid.uuid4().hex[:8]}')
    probe.touch()
    try:
        with open(file):  # has a shared file system look up the file's time anew
            return probe.stat().st_mtime - file.stat().st_mtime
    except FileNotFoundError:
        return SILENCE + 1
    finally:
        probe.unlink()


def require_usable(work_dir: str, *, new: bool) -> None:
    """Raise ConfigError if a training could not begin in a work dir, before anything is built.

    Args:
        work_dir: The folder.
        new: The training goes on from no checkpoint.
    """
    WorkDirLock(work_dir).require_free()
    if new:
        require_unused(work_dir)


def require_unused(work_dir: str) -> None:
    """Raise ConfigError if a work dir holds checkpoints, which a new run would mix with its own."""
    found = checkpoints_of(work_dir, best=True)
    if found:
        raise ConfigError(
            f'{work_dir}: holds {len(found)} checkpoint{"s" * (len(found) > 1)} of another run, '
            f'such as {found[0].name}. Go on from them with --resume, name another folder with '
            '--work-dir, or move them away: a new run would mix its checkpoints with them')


@HOOKS.register_module()
class WorkDirHook(Hook):
    """Hold a training's work dir: no other training writes there, nor a new run beside old files.

    The main process takes the lock; all processes stop if it cannot.
    """

    # before hooks that write into the folder
    priority = 'HIGHEST'

    def __init__(self):
        self._lock: Optional[WorkDirLock] = None

    def before_train(self, runner) -> None:
        """Take the lock.

        Raises:
            ConfigError: Another training holds it, or a new run would begin beside checkpoints.
        """
        refusal = [self._refusal(runner) if is_main_process() else None]
        broadcast_object_list(refusal)
        if refusal[0]:
            raise ConfigError(refusal[0])

    def _refusal(self, runner) -> Optional[str]:
        lock = WorkDirLock(runner.work_dir)
        try:
            lock.acquire()
            self._lock = lock
            if not is_resuming(runner) and not runner.iter:  # nor trained on by a script
                require_unused(runner.work_dir)
        except (ConfigError, OSError) as error:  # the other processes wait for an answer
            self._release()
            return str(error)
        return None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raise ConfigError if another training has taken the work dir over meanwhile."""
        if self._lock is not None and not self._lock.is_kept_or_free():
            raise ConfigError(f'{runner.work_dir}: this training was silent for so long that '
                              'another one took its place; its checkpoint is not written')

    def after_run(self, runner) -> None:
        """Give the lock back."""
        self._release()

    def after_error(self, runner, error: BaseException) -> None:
        """Give the lock back; :mod:`mmvssd.compat.failed_runs` calls this."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
