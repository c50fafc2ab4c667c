"""Files that are missing, cut short, or no checkpoints."""
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
    torch.save(dict(state_dict=VSSD(NANO).state_dict()), tmp_path / 'whole.pth')
    for size in (0, 10, 10_000):
        (tmp_path / 'part.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:size])
        with pytest.raises(CheckpointError, match=r'cannot be read as a checkpoint'):
            read_checkpoint(tmp_path / 'part.pth')
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    with pytest.raises(CheckpointError, match=r'holds a Tensor, expected a dict'):
        read_checkpoint(tmp_path / 'tensor.pth')
