"""What a training loop says of the training that it is to go on with."""
from types import SimpleNamespace

import pytest

from mmvssd.engine import EpochBasedTrainLoop, IterBasedTrainLoop
from mmvssd.engine.train import loops
from mmvssd.errors import ConfigError

KINDS = [(EpochBasedTrainLoop, 'epoch'), (IterBasedTrainLoop, 'iter')]


def loop_at(kind, unit, done, last, resume=True):
    loop = kind.__new__(kind)
    loop._runner = SimpleNamespace(_resume=resume)
    vars(loop).update({f'_{unit}': done, f'_max_{unit}s': last})
    return loop


@pytest.mark.parametrize(('kind', 'unit'), KINDS)
def test_fewer_steps_than_are_done(kind, unit):
    with pytest.raises(ConfigError, match=rf'train_cfg.max_{unit}s: got 3, and the checkpoint .* '
                                          r'trained for 5. Set more'):
        loop_at(kind, unit, 5, 3)._require_rest()
    loop_at(kind, unit, 5, 3, resume=False)._require_rest()


@pytest.mark.parametrize(('kind', 'unit'), KINDS)
def test_as_many_are_said(kind, unit, monkeypatch):
    said = []
    monkeypatch.setattr(loops, 'print_log', lambda line, **kwargs: said.append(line))
    loop_at(kind, unit, 2, 3)._require_rest()
    assert not said
    loop_at(kind, unit, 3, 3)._require_rest()
    assert said == [f'The checkpoint that is resumed has been trained for all 3 {unit}s: it is '
                    'evaluated, and nothing is left to train']


@pytest.mark.parametrize(('kind', 'unit', 'name'), [
    (EpochBasedTrainLoop, 'epoch', 'epoch'), (IterBasedTrainLoop, 'iter', 'iteration')])
def test_why_a_resumed_run_validates_again(kind, unit, name, monkeypatch):
    said, validated = [], []
    monkeypatch.setattr(loops, 'print_log', lambda line, **kwargs: said.append(line))
    loop = loop_at(kind, unit, 2, 3)
    loop._runner.val_loop = SimpleNamespace(run=lambda: validated.append(len(said)))
    vars(loop).update(val_begin=1, dynamic_milestones=[0], dynamic_intervals=[2])
    loop._validate(2, 3)
    loop._validate(1, 3, again=True)  # it was not time to, then
    assert not said
    loop._validate(2, 3, again=True)
    assert said == [f'{name} 2 is validated again: its checkpoint was written before its scores']
    assert validated == [0, 1]
    loop._runner._resume = False  # a script that trains on
    loop._validate(2, 3, again=True)
    assert len(said) == 1
