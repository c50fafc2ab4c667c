"""The newest good checkpoint is there at any time."""
from types import SimpleNamespace

import pytest
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from mmvssd.engine import SafeCheckpointHook


class Stop(Exception):
    """In place of a kill, while a checkpoint is written."""


def save(hook, folder, steps, writing=None, scores=None):
    """Have a hook save checkpoints after some epochs, as MMEngine's Runner would have it.

    With scores there is an evaluation after each.
    """
    info = {}
    runner = SimpleNamespace(
        work_dir=str(folder),
        message_hub=SimpleNamespace(update_info=info.__setitem__, get_info=info.get,
                                    runtime_info=info),
        logger=SimpleNamespace(info=lambda text: None), iter=0, max_iters=9, max_epochs=9,
        save_checkpoint=lambda out_dir, filename, *args, **kwargs: (writing or write)(
            folder / filename))
    hook.before_train(runner)
    for index, step in enumerate(steps):
        runner.epoch = step - 1
        hook.after_train_epoch(runner)
        runner.epoch = step
        if scores:
            hook.after_val_epoch(runner, dict(accuracy=scores[index]))
    return info


def write(file):
    file.write_text('weights')


def names(folder):
    return sorted(file.name for file in folder.glob('*.pth*'))


@pytest.mark.parametrize(('hook', 'left'), [(CheckpointHook, []),
                                            (SafeCheckpointHook, ['epoch_1.pth'])])
def test_the_last_one_stays_until_the_next_is_written(tmp_path, hook, left):
    """MMEngine's own leaves none, which is what this is for."""
    def write_but_once(file):
        if file.name != 'epoch_1.pth':
            raise Stop
        write(file)

    with pytest.raises(Stop):
        save(hook(interval=1, max_keep_ckpts=1), tmp_path, (1, 2), write_but_once)
    assert names(tmp_path) == left


@pytest.mark.parametrize(('hook', 'left'), [
    (CheckpointHook, []), (SafeCheckpointHook, ['best_accuracy_epoch_1.pth'])])
def test_the_best_one_stays_until_a_better_is_written(tmp_path, hook, left):
    def write_but_once(file):
        if file.name == 'best_accuracy_epoch_2.pth':
            raise Stop
        write(file)

    with pytest.raises(Stop):
        save(hook(interval=1, save_best='accuracy', rule='greater'), tmp_path, (1, 2),
             write_but_once, (1, 2))
    assert sorted(file.name for file in tmp_path.glob('best*')) == left


def test_a_better_one_of_the_same_name_stays(tmp_path):
    """As where a run begins anew in its folder; the outdated best ones go."""
    hook = SafeCheckpointHook(interval=1, save_best='accuracy', rule='greater')
    save(hook, tmp_path, (1, 1), scores=(1, 2))
    assert [file.name for file in tmp_path.glob('best*')] == ['best_accuracy_epoch_1.pth']
    save(hook, tmp_path, (2, 3), scores=(3, 4))
    assert sorted(file.name for file in tmp_path.glob('best*')) == [
        'best_accuracy_epoch_1.pth', 'best_accuracy_epoch_3.pth']


def test_outdated_ones_go(tmp_path):
    info = save(SafeCheckpointHook(interval=1, max_keep_ckpts=2), tmp_path, (1, 2, 3, 4, 4))
    assert names(tmp_path) == ['epoch_3.pth', 'epoch_4.pth']
    assert info['keep_ckpt_ids'] == [3, 4]
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    for name in ('epoch_3.pth.1a2b.partial', 'notes.partial'):
        (tmp_path / name).touch()
    save(SafeCheckpointHook(), tmp_path, ())
    assert [file.name for file in tmp_path.iterdir()] == ['notes.partial']


def test_the_backend_is_left_as_it_was(tmp_path):
    hook = SafeCheckpointHook(interval=1, max_keep_ckpts=1)
    save(hook, tmp_path, (1, 2))
    assert 'remove' not in vars(hook.file_backend)
    assert isinstance(hook.file_backend, LocalBackend)
