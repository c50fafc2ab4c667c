"""Trainings that the guards did not expect go on, and the log says what is not guarded."""
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DATASETS, LOOPS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import EpochBasedTrainLoop as HostEpochBasedTrainLoop
from torch import nn
from torch.utils.data import Dataset

from mmvssd.cli.launch import build_trainer
from mmvssd.errors import CheckpointError

PLACES = (DATASETS, LOOPS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS)


class Points(Dataset):
    """Without metainfo, as PyTorch's data sets are."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([float(index), 1.])


class TwoHalves(nn.Module):
    """No BaseModel: no data preprocessor, and a step of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x):
        return dict(loss=self.second(self.first(x).relu()).square().mean())

    def train_step(self, data, optim_wrapper):
        x = torch.stack(data)
        if isinstance(optim_wrapper, OptimWrapperDict):
            for wrapper in optim_wrapper.values():
                wrapper.update_params(self(x)['loss'])
        else:
            optim_wrapper.update_params(self(x)['loss'])
        return self(x)


class EachHalf:
    """Makes an optimizer for each half."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        pass

    def __call__(self, model):
        model = getattr(model, 'module', model)
        return OptimWrapperDict(**{
            name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.01))
            for name, part in model.named_children()})


class CountingLoop(HostEpochBasedTrainLoop):
    """A loop of the user's own."""

    def run_epoch(self):
        self.counted = True
        super().run_epoch()


@pytest.fixture(autouse=True)
def registered():
    classes = (Points, CountingLoop, TwoHalves, EachHalf)
    for place, kind in zip(PLACES, classes):
        place.register_module(module=kind)
    yield
    for place, kind in zip(PLACES, classes):
        place.module_dict.pop(kind.__name__)


def train(folder, **settings):
    """Train; returns the Runner and its log."""
    cfg = Config(dict(
        dict(model=dict(type='TwoHalves'), work_dir=str(folder), experiment_name=folder.name,
             train_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type='Points'),
                                   sampler=dict(type='DefaultSampler', shuffle=True)),
             train_cfg=dict(by_epoch=True, max_epochs=2), randomness=dict(seed=1),
             optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01))), **settings))
    runner = build_trainer(cfg)
    runner.train()
    (log, ) = folder.glob('*/*.log')
    return runner, log.read_text()


def test_a_plain_module(tmp_path):
    runner, log = train(tmp_path)
    assert runner.iter == 6
    assert 'Guards on: train_loop, checkpoint, ' in log
    assert 'WARNING - Guard' not in log
    (record, ) = tmp_path.glob('*/run.json')
    assert json.loads(record.read_text())['status'] == 'finished'


def test_a_fault_in_a_plain_module(tmp_path):
    """A step without data preprocessor is run again too."""
    with pytest.raises(ArithmeticError, match='learning rate 1e.30.*'):
        train(tmp_path, optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e30)))


def test_several_optimizers(tmp_path):
    runner, log = train(tmp_path, optim_wrapper=dict(constructor='EachHalf'))
    assert runner.iter == 6
    assert 'got a OptimWrapperDict, expected an OptimWrapper of one optimizer. Losses and ' in log


def test_an_own_loop(tmp_path):
    runner, log = train(tmp_path, train_cfg=dict(type='CountingLoop', max_epochs=2))
    assert runner.train_loop.counted
    assert 'Guards on: checkpoint, ' in log
    assert 'Guard train_loop is off (a CountingLoop): a run that is killed' in log


def test_left_out(tmp_path):
    runner, log = train(tmp_path, unguarded=['train_loop', 'checkpoint'],
                        default_hooks=dict(finite_check=None))
    assert type(runner.train_loop) is HostEpochBasedTrainLoop
    for name in ('train_loop', 'checkpoint', 'finite_check'):
        assert f'Guard {name} is off (left out): ' in log
    assert 'FiniteCheckHook' not in log


def test_ranks_with_seeds_of_their_own(tmp_path):
    """The data still have one seed; see ``randomness.diff_rank_seed``."""
    one = train(tmp_path / 'one', randomness=dict(seed=1))[0].model.state_dict()
    other = train(tmp_path / 'other', randomness=dict(seed=1, diff_rank_seed=True))[0]
    assert other.train_dataloader.batch_sampler.sampler.seed == 1
    assert all(torch.equal(value, one[name]) for name, value in other.model.state_dict().items())


def test_a_checkpoint_of_another_model(tmp_path):
    """It stops a run, and the error says how to load what fits."""
    other = TwoHalves()
    other.third = nn.Linear(1, 1)
    torch.save(dict(state_dict=other.state_dict(), optimizer={}, message_hub={},
                    meta=dict(epoch=1, iter=2)),
               tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'2 unknown: third.*\n.*leave this check out'):
        train(tmp_path / 'resumed', load_from=str(tmp_path / 'other.pth'), resume=True)
    runner, _ = train(tmp_path / 'started', load_from=str(tmp_path / 'other.pth'))
    assert runner.iter == 6  # another head may be brought
