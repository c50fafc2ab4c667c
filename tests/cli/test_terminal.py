"""What of MMEngine's log, and of the hosts' words beside it, reaches the terminal."""
import importlib.util
import json
import logging
import os
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.fileio import FileClient
from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.utils.data import DataLoader

from mmvssd.cli import terminal
from mmvssd.cli.terminal import keep_details_off, soften_empty_validations, tell_of_details

#: A part of each kind of detail, as today's MMEngine logs them.
DETAILS = ('System environment:', 'Config:\n', 'Hooks will be executed', 'paramwise_options --',
           'Distributed training is not used', 'Patches of mmvssd')
OTHER_SCOPE = 'Failed to search registry with scope "mmdet" in the "{}" registry tree. As a'
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


def test_frozen_parameters_are_no_news(details_off, tmp_path, capsys):
    MMLogger.get_instance('frozen', log_file=str(tmp_path / 'run.log'))
    model = Model(nn.Linear(1, 1), nn.BatchNorm1d(1))
    model[0].requires_grad_(False)
    DefaultOptimWrapperConstructor(
        dict(optimizer=dict(type='SGD', lr=1, weight_decay=0.1)), dict(norm_decay_mult=0))(model)
    assert 'requires_grad' not in capsys.readouterr().out
    assert (tmp_path / 'run.log').read_text().count('requires_grad=False') == 2


def test_a_logger_without_a_file(details_off, capsys):
    logger = MMLogger('no file', log_level='INFO')
    tell_of_details(logger)
    logger.log(logging.INFO, 'paramwise_options -- a:b=1')
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('tree', ['function', 'inferencer', 'strategy'])
def test_scopes_without_a_registry_are_no_news(details_off, tmp_path, capsys, tree):
    file = tmp_path / 'run.log'
    logger = MMLogger(f'scopes-{tree}', log_file=str(file))
    logger.warning(OTHER_SCOPE.format(tree))
    logger.warning(OTHER_SCOPE.format('model'))
    shown = capsys.readouterr().out
    assert f'"{tree}"' not in shown
    assert '"model"' in shown
    assert f'"{tree}"' in file.read_text()


def test_a_terminal_whose_reader_has_gone_is_said_once(details_off, capsys):
    """As of ``train.py | head``; the log file goes on."""
    logger = MMLogger('gone')
    handler, = logger.handlers
    outlet, inlet = os.pipe()
    os.close(outlet)
    with open(inlet, 'w', buffering=1) as pipe:
        handler.stream = pipe
        logger.info('first')
        logger.info('second')
        os.dup2(os.open(os.devnull, os.O_WRONLY), inlet)  # for what is left in the buffer
    assert capsys.readouterr().err == 'terminal: the log cannot be written (Broken pipe)\n'


def test_a_log_on_a_full_disk_is_said_once(details_off, tmp_path, capsys):
    file = tmp_path / 'full.log'
    logger = MMLogger('full', log_file=str(file))
    handler, = (one for one in logger.handlers if isinstance(one, logging.FileHandler))
    handler.stream.close()
    handler.stream = open('/dev/full', 'w')  # noqa: SIM115  the handler closes it
    logger.info('first')
    logger.info('second')
    shown = capsys.readouterr()
    assert shown.err == f'{file}: the log cannot be written (No space left on device)\n'
    assert [line.rpartition(' ')[2] for line in shown.out.splitlines()] == ['first', 'second']
    # a fault of the program keeps its stack
    handler.handle(logging.LogRecord('full', logging.INFO, __file__, 0, '%d', ('x', ), None))
    assert 'Logging error' in capsys.readouterr().err


def test_results_of_a_test_have_no_prefix(details_off, tmp_path, capsys):
    MMLogger('prefix', log_file=str(tmp_path / 'log')).warning(
        'The prefix is not set in metric class DumpResults.')
    assert capsys.readouterr().out == ''


def warned(module, text):
    """How many warnings of that text a module of that name shows, of two from different lines."""
    with warnings.catch_warnings(record=True) as caught:
        for line in (1, 2):
            warnings.warn_explicit(text, UserWarning, f'{module}.py', line, module=module)
    return len(caught)


@pytest.fixture
def unfiltered(details_off):
    """The warnings of a fresh process, in which each line warns once."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter('default')
        yield


@pytest.mark.parametrize(('module', 'start'), terminal.OWN_WARNINGS)
def test_the_hosts_own_warnings_are_left_out(unfiltered, module, start):
    """They are in the hosts that are installed, and only they are left out."""
    source = importlib.util.find_spec(pytest.importorskip(module.partition('.')[0]) and module)
    words = ''.join(Path(source.origin).read_text().replace("'", '').replace('"', '').split())
    foreign = 'torch.cuda.amp' in start or 'broadcast' in start  # PyTorch says them there
    assert foreign or ''.join(start.replace("'", '').split()) in words
    assert warned(module, f'{start} more') == 2
    keep_details_off()
    assert warned(module, f'{start} more') == 0
    assert warned(module, 'another text') == 2
    assert warned(f'{module}.other', f'{start} more') == 2


@pytest.mark.parametrize('first', [True, False])
def test_one_process_warns_for_all(unfiltered, monkeypatch, first):
    """Of too many workers it warns once for each number of them."""
    monkeypatch.setattr(terminal, 'is_first', lambda: first)
    monkeypatch.setattr(terminal, '_checked', set())
    monkeypatch.setattr(DataLoader, 'check_worker_number_rationality',
                        DataLoader.check_worker_number_rationality)
    keep_details_off()
    for module, start in terminal.ONE_FOR_ALL:
        assert warned(module, f'{start}for each process') == 2 * first
    with warnings.catch_warnings(record=True) as caught:
        for number in (997, 997, 998):
            warnings.simplefilter('always')  # as whoever adds a filter: Python forgets what it said
            DataLoader([1], num_workers=number)
    assert len([one for one in caught if ' will create 99' in str(one.message)]) == 2 * first


def test_annotations_are_read_in_silence(details_off, tmp_path, capsys):
    coco = pytest.importorskip('pycocotools.coco')
    file = tmp_path / 'a.json'
    file.write_text(json.dumps(dict(
        info=dict(year=2017), images=[dict(id=1)], categories=[dict(id=1, name='a')],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 1, 1], area=1)])))
    read = coco.COCO(str(file))
    read.loadRes([dict(image_id=1, category_id=1, bbox=[0, 0, 1, 1], score=1.)])
    assert capsys.readouterr().out == ''
    read.info()  # what is asked for is printed
    assert capsys.readouterr().out == 'year: 2017\n'


def test_a_checkpoint_that_does_not_fit_is_no_page_of_names(details_off, capsys):
    """The commands say it themselves, in a few lines."""
    load_state_dict(nn.Linear(1, 1), {'other.weight': torch.ones(1)})
    assert capsys.readouterr().out == ''
    print_log('something else', logger=None)
    assert capsys.readouterr().out == 'something else\n'


def test_a_validation_that_finds_nothing_is_one_line(capsys, tmp_path):
    """As MMDetection and MMEngine log it, which their files are asked for."""
    metric = importlib.util.find_spec('mmdet.evaluation.metrics.coco_metric')
    assert metric is None or terminal.NOTHING_FOUND in Path(metric.origin).read_text()
    log = tmp_path / 'log'
    logger = MMLogger('empty', log_file=str(log))
    soften_empty_validations(logger)
    no_best = f'{terminal.NO_BEST}will be skipped in this evaluation.'
    for _ in range(2):
        logger.error(terminal.NOTHING_FOUND)
        logger.warning(no_best)
    logger.error('something else')
    for text in (capsys.readouterr().out, log.read_text()):
        levels = [line.split(' - ')[2] for line in text.splitlines()]
        assert ['INFO' in level for level in levels] == [True, True, False]
        assert text.count('Validation found no objects') == 2
    logger.warning(no_best)  # of another reason
    assert no_best in capsys.readouterr().out
