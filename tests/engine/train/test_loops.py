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
