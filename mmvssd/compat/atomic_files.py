"""Checkpoints that are whole or not there.

MMEngine writes a file of the local disk under its own name. A run that is killed meanwhile, or a
disk that is full, leaves half a checkpoint in the place of a good one. Here the file is written
under another name, a checkpoint brought to the disk, and given its own.

Feature: a file is replaced whole or not at all.
"""
import os
import uuid

from mmengine.fileio import LocalBackend

from mmvssd.compat.patching import wrap_once

#: What a file's name ends with while it is being written.
PARTIAL = '.partial'


def apply() -> None:
    """Wrap what MMEngine writes local files with."""
    for name in ('put', 'put_text'):
        wrap_once(LocalBackend, name, _put)


def _put(original, self, content, filepath, *args, **kwargs):
    # of this process: MMEngine has all of them write a test's scores
    partial = f'{filepath}.{uuid.uuid4().hex[:8]}{PARTIAL}'
    try:
        original(self, content, partial, *args, **kwargs)
        if str(filepath).endswith('.pth'):  # pictures may be thousands
            with open(partial, 'rb') as file:
                os.fsync(file.fileno())
        os.replace(partial, filepath)
    except OSError:
        if os.path.exists(partial):
            os.remove(partial)
        raise
