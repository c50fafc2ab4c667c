"""Choose the checkpoint that a run is resumed from, and make sure that it can be."""
import logging
import os
import re
import zipfile
from datetime import datetime
from pathlib import Path
from typing import List, Optional

from mmengine.logging import print_log

from mmvssd.checkpoint.reading import expanded, read_checkpoint
from mmvssd.compat import ENVIRONMENT_VARIABLE, left_out
from mmvssd.compat.checkpoint_contents import inspect
from mmvssd.errors import CheckpointError
from mmvssd.phrases import numbered

#: What a run goes on from, by its name in a checkpoint.
RESUMED = dict(state_dict=dict, optimizer=dict, message_hub=dict, meta=dict)


def newest_checkpoint(work_dir: str, since: float = 0) -> Optional[str]:
    """Find the newest checkpoint of a work dir that a run can be resumed from.

    Newest by the time and the iteration that a checkpoint holds: copying changes a file's own time.
    A file that is cut short or damaged is reported, and the one before it taken. Best checkpoints
    are not looked at: they hold no optimizer. A checkpoint that is a folder (of a sharded model) is
    taken as it is, by its file's time and number.

    Args:
        work_dir: The run's folder.
        since: Leave out files that were written before this, in seconds since the epoch.

    Returns:
        The checkpoint's path, or None if there is none.

    Raises:
        CheckpointError: There are some, and none of them is whole.
    """
    found = sorted((path for path in checkpoints_of(work_dir) if path.stat().st_mtime >= since),
                   key=_age, reverse=True)
    for path in found:
        try:
            require_resumable(str(path), may_be_folder=True)
        except CheckpointError as error:
            print_log(f'{error}; the checkpoint before it is looked at', logger='current',
                      level=logging.WARNING)
        else:
            return str(path)
    if found:
        none = numbered(f'[its checkpoint cannot|none of its {len(found)} checkpoints can]',
                        len(found))
        raise CheckpointError(f'{work_dir}: {none} be resumed from; start anew in another '
                              'work dir, without --resume')
    return None


def checkpoints_of(work_dir: str, *, best: bool = False) -> List[Path]:
    """List the checkpoints that trainings wrote into a work dir, or to where it points.

    Args:
        work_dir: The folder.
        best: List the best ones of evaluations as well.
    """
    folder = Path(work_dir)
    pointer = folder / 'last_checkpoint'  # MMEngine's; it may name another folder
    text = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    folders = {folder.resolve(), *([Path(text).resolve().parent] if text else [])}
    return [path for folder in folders for path in folder.glob('*.pth')
            if re.fullmatch(r'(best_.+_)?(epoch|iter)_\d+' if best else r'(epoch|iter)_\d+',
                            path.stem)]


def way_on(work_dir: str) -> str:
    """Say how a training that was ended goes on, by the files of its work dir; none is read."""
    written = max(checkpoints_of(work_dir), key=lambda path: path.stat().st_mtime, default=None)
    if written is None:
        return 'no checkpoint was written yet, and the same command begins where this one did'
    return f'the same command with --resume goes on from {written}'


def _age(path: Path) -> tuple:
    """Return what sorts a checkpoint by when it was written; of a damaged one, its file's time."""
    written = datetime.fromtimestamp(path.stat().st_mtime)
    try:
        meta = inspect(path).value['meta']
        written = datetime.strptime(meta['time'], '%Y%m%d_%H%M%S')
        return written, int(meta['iter']), path.stat().st_mtime
    except Exception:  # of a damaged file, which may be anything
        return written, int(path.stem.rpartition('_')[2]), path.stat().st_mtime


def require_resumable(path: str, *, may_be_folder: bool = False) -> None:
    """Raise CheckpointError unless a checkpoint is undamaged and holds all that a run goes on from.

    PyTorch reads a damaged file without complaint: the checksums are looked at here.

    Args:
        path: The checkpoint.
        may_be_folder: Take a folder, as strategies for sharded models write them, as it is.
    """
    path = expanded(path)
    if may_be_folder and path and os.path.isdir(path) and os.listdir(path):
        return
    checkpoint = read_checkpoint(path)
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            damaged = str(error)
        if damaged:
            raise CheckpointError(f'{path}: damaged, its checksums do not fit ({damaged})')
    absent = RESUMED.keys() - checkpoint.keys()
    if absent:
        raise CheckpointError(f'{path}: holds no {", no ".join(sorted(absent))}; a run cannot be '
                              'resumed from it')
    for name, kind in RESUMED.items():
        if not isinstance(checkpoint[name], kind):
            raise CheckpointError(f'{path}: its {name} is a {type(checkpoint[name]).__name__}; a '
                                  'run cannot be resumed from it')
    require_progress(path, checkpoint)


def require_progress(source: str, checkpoint: dict) -> None:
    """Raise CheckpointError unless a checkpoint tells how far its training has come.

    Args:
        source: What the checkpoint is called in the error.
        checkpoint: What :func:`read_checkpoint` returned.
    """
    meta = checkpoint.get('meta') or {}
    for name in ('epoch', 'iter'):
        if not isinstance(meta.get(name), int) or meta[name] < 0:
            raise CheckpointError(f'{source}: its meta has {name}={meta.get(name)!r}, expected a '
                                  'count; a run cannot be resumed from it')
    if 'config' in meta and 'config_strings' in left_out():
        raise CheckpointError(f'{source}: its meta holds the text of a config, which MMEngine '
                              f'would run; {ENVIRONMENT_VARIABLE} leaves out the patch that '
                              'prevents it')
