"""Files that are missing, cut short, or no checkpoints."""
import os

import pytest
import torch

from mmvssd.checkpoint import read_checkpoint
from mmvssd.errors import CheckpointError
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD

NANO = FAMILIES['vssd'].nano


def test_missing_truncated_and_foreign_files(tmp_path, load):
    with pytest.raises(CheckpointError, match=r'gone.pth: no such checkpoint file'):
        load(str(tmp_path / 'gone.pth'))
    for epoch in (96, 100):
        (tmp_path / f'epoch_{epoch}.pth').touch()
    os.utime(tmp_path / 'epoch_96.pth', (0, 0))
    with pytest.raises(CheckpointError, match=r'best_\*.pth: no such .*a best_\*.pth is there only '
                                              r'after .*newest first: \S+_100.pth, \S+_96.pth$'):
        load(str(tmp_path / 'best_*.pth'))
    torch.save(dict(state_dict=VSSD(NANO).state_dict()), tmp_path / 'whole.pth')
    for size in (0, 10, 10_000):
        (tmp_path / 'part.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:size])
        with pytest.raises(CheckpointError, match=r'cannot be read as a checkpoint'):
            read_checkpoint(tmp_path / 'part.pth')
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    with pytest.raises(CheckpointError, match=r'holds a Tensor, expected a dict'):
        read_checkpoint(tmp_path / 'tensor.pth')
