"""The text of a config in a checkpoint is not run."""
import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.runner import FlexibleRunner, Runner

from mmvssd.errors import CheckpointError

_spec = importlib.util.spec_from_file_location('toy', Path(__file__).with_name('toy_runner.py'))
toy_runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy_runner)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Return the checkpoint of a training whose texts make a file, and that file's path."""
    folder = tmp_path_factory.mktemp('run')
    toy_runner.build(dict(work_dir=str(folder), max_epochs=1)).train()
    checkpoint, marker = torch.load(folder / 'epoch_1.pth'), folder / 'marker'
    text = f'x = __import__("pathlib").Path({str(marker)!r}).touch()\ngpu_ids = []\n'
    checkpoint['meta'].update(config=text, cfg=text)
    checkpoint['message_hub']['runtime_info']['cfg'] = text
    torch.save(checkpoint, folder / 'epoch_1.pth')
    return folder / 'epoch_1.pth', marker


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_a_run_is_resumed_without_it(saved, tmp_path, kind):
    file, marker = saved
    runner = toy_runner.build(dict(work_dir=str(tmp_path), max_epochs=2))
    if kind is FlexibleRunner:
        runner = FlexibleRunner(
            model=toy_runner.ToyModel(), work_dir=str(tmp_path), train_cfg=runner._train_loop,
            train_dataloader=runner._train_dataloader, optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=0.01)), experiment_name='flexible')
    runner._resume, runner._load_from = (True, str(file))
    runner.train()
    assert runner.epoch == 2
    assert runner.iter == 8
    assert not marker.exists()
    Config.fromstring(torch.load(file)['meta']['config'], '.py')  # a script of the user's own
    assert marker.exists()
    marker.unlink()


def test_an_inferencer_asks_for_a_recipe(saved):
    file, marker = saved
    with pytest.raises(CheckpointError, match='needs a recipe beside its weights'):
        BaseInferencer._init_model(None, {}, str(file), 'cpu')
    assert not marker.exists()
