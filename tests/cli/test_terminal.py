"""What of MMEngine's log reaches the terminal."""
import logging

import pytest
from mmengine.fileio import FileClient
from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import Runner
from torch import nn

from mmvssd.cli.terminal import keep_details_off, tell_of_details

#: A part of each kind of detail, as today's MMEngine logs them.
DETAILS = ('System environment:', 'Config:\n', 'Hooks will be executed', 'paramwise_options --',
           'Distributed training is not used', 'Patches of mmvssd')
DEPRECATED = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


@pytest.fixture
def details_off(monkeypatch):
    monkeypatch.setattr(MMLogger, '__init__', MMLogger.__init__)  # what was there comes back
    monkeypatch.setattr(FileClient, '_instances', {})  # it warns as one is made
    keep_details_off()
    keep_details_off()


class Model(nn.Sequential):
    def forward(self, *args, **kwargs):
        return {}


def log_all(folder, level):
    """Build a Runner and have all of it logged that a training logs before its first step."""
    runner = Runner(Model(nn.Linear(1, 1), nn.BatchNorm1d(1)), str(folder), log_level=level,
                    experiment_name=folder.name, cfg=dict(setting=1))
    optimizer = dict(type='SGD', lr=1, weight_decay=0.1)
    DefaultOptimWrapperConstructor(dict(optimizer=optimizer), dict(norm_decay_mult=0))(runner.model)
    hook = runner.hooks[-1]
    assert type(hook).__name__ == 'CheckpointHook'
    hook.before_train(runner)
    tell_of_details(runner.logger)
    runner.logger.info('Config: a line of another kind')
    runner.logger.warning('Config:\nis doubtful')
    file, = folder.glob('*/*.log')
    return file, file.read_text()


def test_the_terminal_gets_no_details_and_the_file_all(details_off, tmp_path, capsys):
    file, kept = log_all(tmp_path / 'quiet', 'INFO')
    shown = capsys.readouterr().out
    assert all(text in kept for text in (*DETAILS, *DEPRECATED))
    assert not [text for text in (*DETAILS, *DEPRECATED) if text in shown.replace(
        'WARNING - Config:\nis doubtful', '')]
    assert f'all else: {file}' in shown
    assert 'Config: a line of another kind' in shown  # only what is listed is kept off
    assert 'Config:\nis doubtful' in shown  # a warning is none of the details
    assert len(shown.splitlines()) < 10


def test_debugging_prints_all(details_off, tmp_path, capsys):
    _, kept = log_all(tmp_path / 'loud', 'DEBUG')
    shown = capsys.readouterr().out
    assert [text for text in (*DETAILS, *DEPRECATED) if text not in kept] == []
    assert [text for text in (*DETAILS, *DEPRECATED) if text not in shown] == []


def test_a_logger_without_a_file(details_off, capsys):
    logger = MMLogger('no file', log_level='INFO')
    tell_of_details(logger)
    logger.log(logging.INFO, 'paramwise_options -- a:b=1')
    assert capsys.readouterr().out == ''
