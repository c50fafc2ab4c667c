"""Early stopping goes on counting where a run is resumed."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EarlyStoppingHook

from mmvssd.engine import ResumableEarlyStoppingHook

SCORES = [0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]


def epochs(hook, begin, end, resume=False):
    """Evaluate, and stop if the hook says so; returns the last epoch."""
    loop = SimpleNamespace(stop_training=False)
    runner = SimpleNamespace(train_loop=loop, logger=SimpleNamespace(info=print), _resume=resume)
    for epoch in range(begin, end):
        hook.after_val_epoch(runner, dict(accuracy=SCORES[epoch]))
        if loop.stop_training:
            return epoch
    return None


def saved(hook, folder):
    checkpoint = dict(meta={})
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, folder / 'epoch_1.pth')
    return torch.load(folder / 'epoch_1.pth')


def build(kind=ResumableEarlyStoppingHook, **settings):
    return kind(monitor='accuracy', rule='greater', patience=3, min_delta=0.01, **settings)


@pytest.mark.parametrize('stopped', [1, 2, 3, 4])
def test_the_patience_of_a_resumed_run_is_what_was_left(tmp_path, stopped):
    whole = epochs(build(), 0, len(SCORES))
    assert whole == epochs(build(EarlyStoppingHook), 0, len(SCORES)) == 4
    first, second = build(), build()
    assert epochs(first, 0, stopped) is None
    resumed = SimpleNamespace(_resume=True)
    second.after_load_checkpoint(resumed, saved(first, tmp_path))
    assert epochs(second, stopped, len(SCORES)) == whole


def test_a_new_run_begins_to_count(tmp_path):
    """From the weights of another one; and a checkpoint without a count."""
    first = build()
    epochs(first, 0, 4)
    for resume, checkpoint in ((False, saved(first, tmp_path)), (True, dict(meta={})), (True, {})):
        hook = build()
        hook.after_load_checkpoint(SimpleNamespace(_resume=resume), checkpoint)
        assert hook.wait_count == 0
