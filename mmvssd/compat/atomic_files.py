"""Checkpoints that are whole or not there.

MMEngine writes a file of the local disk under its own name. A run that is killed meanwhile, or a
disk that is full, leaves half a checkpoint in the place of a good one. Here the file is written
under another name, a checkpoint brought to the disk, and given its own.

Feature: a file is replaced whole or not at all.
"""
from pathlib import Path

from mmengine.fileio import LocalBackend

from mmvssd.compat.patching import wrap_once
from mmvssd.files import written_whole


def apply() -> None:
    """Wrap what MMEngine writes local files with."""
    for name in ('put', 'put_text'):
        wrap_once(LocalBackend, name, _put)


def _put(original, self, content, filepath, *args, **kwargs):
    file = Path(filepath)
    # pictures may be thousands: only checkpoints are worth a wait for the disk
    with written_whole(file, durable=file.suffix == '.pth') as partial:
        original(self, content, str(partial), *args, **kwargs)
