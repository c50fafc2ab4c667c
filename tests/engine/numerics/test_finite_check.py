"""Numbers that are not finite stop a training, or its steps are skipped, before the optimizer."""
import math

import pytest
from toy_training import WAYS, Toy, Watch, WatchAfter, build, same, toy, weights_of

from mmvssd.engine import FiniteCheckHook
from mmvssd.errors import ConfigError, NumericalFault


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('optimizer', ['AdamW', 'SGD'])
def test_skip_leaves_all_as_it_was(way, optimizer, tmp_path, said):
    watch, after = Watch(), WatchAfter()
    momentum = dict(momentum=0.9) if optimizer == 'SGD' else {}
    model = toy(way)
    runner = build(tmp_path, model, FiniteCheckHook('skip', max_skips=1), watch, after, epochs=2,
                   optim_wrapper=dict(optimizer=dict(type=optimizer, lr=0.01, weight_decay=0.1,
                                                     **momentum),
                                      clip_grad=dict(max_norm=1.0)))
    runner.train()
    for step in range(8):
        left, _ = after.after[step]
        assert same(watch.before[step], left) == (step in (2, 6))
    assert all(map(math.isfinite, weights_of(runner) + watch.losses[3:6] + watch.losses[7:]))
    assert model.stem[1].num_batches_tracked == 6
    # the second run of a step drew what the first drew
    assert model.drawn[2] == model.drawn[3]
    assert model.drawn[7] == model.drawn[8]
    assert [text.count('folder/5.png') > 0 for text in said] == [True, True, False]
    assert said[1].endswith('The step is skipped; 2 so far')
    assert said[2].startswith('FiniteCheckHook: 2 of 8 steps were skipped')


@pytest.mark.parametrize('action', ['stop', 'skip'])
def test_a_sound_training_is_not_changed(action, tmp_path, said):
    runs = []
    for number, hooks in enumerate(([], [FiniteCheckHook(action)])):
        watch, after = Watch(), WatchAfter()
        runner = build(tmp_path / str(number), toy(), *hooks, watch, after, epochs=2)
        runner.train()
        assert not any(module._forward_hooks or module._forward_pre_hooks
                       for module in runner.model.modules())
        runs.append([watch.before, after.after])
    assert same(*runs)
    expected = ['FiniteCheckHook: 0 of 8 steps were skipped for numbers that are not finite']
    assert said == (expected if action == 'skip' else [])


def test_large_gradients_are_no_fault(tmp_path):
    """The sum of their squares would not be finite in float32."""

    class Large(Toy):
        def forward(self, *args, **kwargs):
            return {name: loss * 1e25 for name, loss in super().forward(*args, **kwargs).items()}

    build(tmp_path, Large(), FiniteCheckHook()).train()


def test_too_many_in_a_row_stop(tmp_path, said):
    runner = build(tmp_path, toy('forward', always=True), FiniteCheckHook('skip', max_skips=2))
    with pytest.raises(NumericalFault, match='Iteration 3 of 4'):
        runner.train()
    assert said[-1].endswith('2 steps in a row were skipped before this one, as many as max_skips '
                             'allows')


def test_the_count_survives_a_resume(tmp_path, said):
    build(tmp_path, toy('forward'), FiniteCheckHook('skip')).train()
    build(tmp_path, toy('forward'), FiniteCheckHook('skip'), epochs=3, resume=True).train()
    assert [text.splitlines()[-1] for text in said if 'so far' in text] == [
        f'The step is skipped; {count} so far' for count in (1, 2, 3)]
    assert said[-1].startswith('FiniteCheckHook: 3 of 12 steps were skipped')


def test_accumulated_gradients(tmp_path, said):
    """The step that two batches make is left out; the one that holds the image is named."""
    watch, after = Watch(), WatchAfter()
    runner = build(tmp_path, toy('backward'), FiniteCheckHook('skip'), watch, after, epochs=2,
                   optim_wrapper=dict(accumulative_counts=2, clip_grad=dict(max_norm=1.0)))
    runner.train()
    assert same(watch.before[2], after.after[3][0])
    assert not same(watch.before[0], after.after[1][0])
    assert said[0].startswith('Iteration 4 of 8 ')
    assert 'First iteration 3, in the backward pass, breaking' in said[0]
    assert said[0].count('First') == 1
    assert all(map(math.isfinite, weights_of(runner)))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(action='ignore'), r"action is 'ignore', expected 'stop' or 'skip'"),
    (dict(max_skips=0), r'max_skips is 0, expected a whole number of steps, 1 or more'),
    (dict(max_skips=2.5), r'max_skips is 2.5, expected a whole number'),
])
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        FiniteCheckHook(**options)
