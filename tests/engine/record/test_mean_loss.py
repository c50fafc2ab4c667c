"""What is logged of a training step is the mean over the processes."""
import json
from pathlib import Path

import pytest
import torch

from mmvssd.engine import MeanLossHook

TOYS = Path(__file__).resolve().parents[2] / 'compat'

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
sys.path.append(sys.argv[2])
from toy_runner import build
from mmvssd.engine import MeanLossHook

folder = Path(sys.argv[1])
runner = build(dict(work_dir=str(folder), launcher='pytorch'))
hook = MeanLossHook()
runner.register_hook(hook)
runner.train()
model = runner.model.module

# reports that differ: in what there is, in kind, and from step to step
rank = runner.rank
loss = torch.tensor([2. * rank], dtype=torch.float16, requires_grad=True)
first = dict(loss=loss, number=rank, text='kept', vector=torch.arange(2.))
hook.after_train_iter(runner, 0, outputs=first)
second = dict(loss=loss.detach() + 1, **({'mine': 5.} if rank else {}))
hook.after_train_iter(runner, 1, outputs=second)
third = dict(loss=torch.tensor(float('nan') if rank else 1.))
hook.after_train_iter(runner, 2, outputs=third)
report = dict(
    own=model.losses, logged=runner.message_hub.get_scalar('train/loss').data[0].tolist(),
    first=[first['loss'].tolist(), first['number'], first['text'], first['vector'].tolist()],
    kind=[str(first['loss'].dtype), first['loss'].requires_grad, loss.grad is None, loss.item()],
    second=[second['loss'].item(), second.get('mine')], third=bool(third['loss'].isnan()),
    weights=torch.cat([p.detach().flatten() for p in model.parameters()]).tolist())
(folder / f'rank{rank}.json').write_text(json.dumps(report))
"""


@pytest.fixture(scope='module')
def reports(run_script, tmp_path_factory):
    """What two processes on the CPU saw."""
    folder = tmp_path_factory.mktemp('two')
    (folder / 'script.py').write_text(SCRIPT)
    done = run_script(folder / 'script.py', folder, TOYS, processes=2)
    assert done.returncode == 0, done.stdout[-3000:]
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_logged_losses_are_means(reports):
    one, two = reports
    assert one['own'] != two['own']
    means = [(a + b) / 2 for a, b in zip(one['own'], two['own'])]
    assert one['logged'] == pytest.approx(means, rel=1e-6)
    assert two['logged'] == one['logged']
    assert one['weights'] == two['weights']


def test_reports_that_differ(reports):
    for rank, report in enumerate(reports):
        assert report['first'] == [[1.], 0.5, 'kept', [0., 1.]]
        assert report['kind'] == ['torch.float16', False, True, 2. * rank]
        assert report['second'] == [2., 5. if rank else None]
        assert report['third']


def test_one_process_is_left_alone():
    outputs = dict(loss=torch.tensor(1., requires_grad=True))
    before = dict(outputs)
    MeanLossHook().after_train_iter(None, 0, outputs=outputs)
    assert outputs['loss'] is before['loss']
