"""The checkpoint that a run is resumed from: the newest one that is whole."""
import os

import pytest
import torch

from mmvssd.checkpoint import newest_checkpoint, require_resumable, resuming, way_on
from mmvssd.errors import CheckpointError

CHECKPOINT = dict(state_dict={}, optimizer={}, message_hub={}, meta=dict(epoch=1, iter=4, seed=7))


def written(folder, **contents):
    """Checkpoints by name, each written a second after the one before."""
    for age, (name, content) in enumerate(contents.items()):
        torch.save(content, folder / f'{name}.pth')
        os.utime(folder / f'{name}.pth', (1e9 + age, 1e9 + age))
    return folder


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == 'cut short':
        content = content[:len(content) // 2]
    elif how == 'empty':
        content = b''
    else:  # a byte of the weights, of which PyTorch would not say a word
        where = content.index(torch.arange(7.).numpy().tobytes())
        content[where + 5] ^= 1
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, (times.st_atime, times.st_mtime))


@pytest.mark.parametrize('how', ['cut short', 'empty', 'a byte changed'])
def test_a_damaged_newest_checkpoint_is_told_of_and_passed_over(tmp_path, monkeypatch, how):
    said = []
    monkeypatch.setattr(resuming, 'print_log', lambda text, **kwargs: said.append(text))
    full = dict(CHECKPOINT, state_dict=dict(weight=torch.arange(7.)))
    written(tmp_path, epoch_10=full, epoch_2=full, epoch_3=full, best_score_epoch_3=full)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')
    assert not said
    damage(tmp_path / 'epoch_3.pth', how)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    assert len(said) == 1
    assert f'{tmp_path / "epoch_3.pth"}: ' in said[0]


def test_what_cannot_be_resumed_from_is_passed_over(tmp_path):
    weights = dict(state_dict={}, meta={})
    written(tmp_path, iter_2=CHECKPOINT, iter_4=weights)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')
    with pytest.raises(CheckpointError, match='holds no message_hub, no optimizer'):
        require_resumable(str(tmp_path / 'iter_4.pth'))


def test_no_checkpoint_and_none_that_is_whole(tmp_path):
    assert newest_checkpoint(str(tmp_path)) is None
    written(tmp_path, epoch_1=CHECKPOINT)
    damage(tmp_path / 'epoch_1.pth', 'cut short')
    with pytest.raises(CheckpointError, match='its checkpoint cannot be resumed'):
        newest_checkpoint(str(tmp_path))


def test_checkpoints_kept_elsewhere(tmp_path):
    """MMEngine's ``out_dir``."""
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'run').mkdir()
    written(tmp_path / 'elsewhere', epoch_1=CHECKPOINT)
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'elsewhere' / 'epoch_1.pth'))
    assert newest_checkpoint(str(tmp_path / 'run')).endswith('/elsewhere/epoch_1.pth')


def test_newest_by_what_the_checkpoints_say(tmp_path):
    """Copying a work dir, or looking at a file, may change the times of files."""
    def at(iteration, time=None):
        meta = dict(CHECKPOINT['meta'], iter=iteration, **(dict(time=time) if time else {}))
        return dict(CHECKPOINT, meta=meta)

    written(tmp_path, epoch_3=at(12, '20261126_120000'), epoch_2=at(8, '20261126_115959'),
            epoch_1=at(4, '20261126_115958'))
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')
    # of one second; and of a run that went back
    written(tmp_path, epoch_4=at(16, '20261126_120000'), epoch_9=at(36, '20261125_120000'))
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_4.pth')


def test_the_way_on_of_a_training_that_was_ended(tmp_path):
    (tmp_path / 'best_score_epoch_9.pth').touch()
    assert way_on(str(tmp_path)).startswith('no checkpoint was written yet')
    written(tmp_path, epoch_10=CHECKPOINT, epoch_2=CHECKPOINT)
    assert way_on(str(tmp_path)) == (
        f'the same command with --resume goes on from {tmp_path / "epoch_2.pth"}')


def test_the_text_of_a_config_without_the_patch(tmp_path, monkeypatch):
    """MMEngine would run it."""
    meta = dict(CHECKPOINT['meta'], config='gpu_ids = []')
    written(tmp_path, epoch_1=dict(CHECKPOINT, meta=meta))
    require_resumable(str(tmp_path / 'epoch_1.pth'))
    monkeypatch.setattr(resuming, 'left_out', lambda: ['config_strings'])
    with pytest.raises(CheckpointError, match='holds the text of a config, which MMEngine would r'):
        require_resumable(str(tmp_path / 'epoch_1.pth'))
