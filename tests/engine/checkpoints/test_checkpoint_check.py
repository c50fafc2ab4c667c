"""Classes of a checkpoint beside those of the data that it is tested on."""
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from mmvssd.engine import CheckpointCheckHook
from mmvssd.engine.checkpoints import checkpoint_check, class_order
from mmvssd.errors import CheckpointError

NAMES = ('cat', 'dog', 'pig', 'cow')
SILENT = dict(
    same=NAMES, list=list(NAMES), array=np.array(NAMES), none=None, empty=())
STOPS = {
    'reversed': (NAMES[::-1], "another order.*number 0 is 'cow' in the checkpoint and 'cat' in the "
                              'data.*metainfo.classes'),
    'swapped': (('dog', 'cat', 'pig', 'cow'), "number 0 is 'dog'"),
    'reversed, one renamed': (('cow', 'hog', 'dog', 'cat'), "number 0 is 'cow'"),
    'reversed, in capitals': (('COW', 'PIG', 'DOG', 'CAT'), "number 0 is 'COW'"),
    'moved by one': (('background', *NAMES[:3]), "number 0 is 'background'"),
    'fewer': (NAMES[:3], r'trained on 3 classes \(cat, dog, pig\), the data of test_dataloader '
                         r'have 4 \(cat, dog, pig, cow\)'),
    'more': ((*NAMES, 'hen'), 'trained on 5 classes'),
    'a number': (4, r'are a int \(4\), expected a list of names'),
    'a text': ('cat,dog', r"are a str \('cat,dog'\), expected a list of names"),
}
WARNS = {
    'one renamed': (('cat', 'hound', 'pig', 'cow'), "number 1 is 'hound' in the checkpoint and"),
    'all renamed': (('Katze', 'Hund', 'Schwein', 'Kuh'), "number 0 is 'Katze'"),
    'numbers': ((0, 1, 2, 3), 'number 0 is 0 in the checkpoint'),
    'capitals': (('Cat', 'dog', 'pig', 'cow'), "number 0 is 'Cat'"),
}


class Loop(BaseLoop):
    def __init__(self, dataset=None):
        self.dataset = dataset
        self._dataloader = SimpleNamespace(dataset=dataset)

    @property
    def dataloader(self):
        return self._dataloader

    def run(self):
        pass


class Data(Dataset):
    """Names, and one entry."""

    def __init__(self, names):
        self.metainfo = {} if names is None else dict(classes=names)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return index


@pytest.fixture
def said(monkeypatch):
    lines = []

    def note(line, level=logging.INFO, **_):
        lines.append((level, line))

    monkeypatch.setattr(checkpoint_check, 'print_log', note)
    return lines


def load(meta, data=None, model=None, **loops):
    """Have the hook look at a checkpoint that fits in all but its ``meta``."""
    model = model or nn.Linear(1, 1)
    data = Data(NAMES) if data is None else data
    loops = dict(dict(_train_loop=None, _val_loop=None, _test_loop=Loop(data)), **loops)
    runner = SimpleNamespace(model=model, _resume=False, _load_from='x.pth', work_dir='w', **loops)
    checkpoint = dict(state_dict=model.state_dict(), **({} if meta is None else dict(meta=meta)))
    CheckpointCheckHook().after_load_checkpoint(runner, checkpoint)


def of(classes):
    return dict(dataset_meta=dict(classes=classes))


@pytest.mark.parametrize('name', SILENT)
def test_the_same_classes_or_none(name, said):
    load(of(SILENT[name]))
    assert said == []


@pytest.mark.parametrize('meta', [None, {}, dict(dataset_meta=None), dict(dataset_meta={}),
                                  dict(family='vssd', arch='nano')])
def test_checkpoints_without_names(meta, said):
    """As converted ones are, and those of folders of images."""
    load(meta)
    assert said == []


@pytest.mark.parametrize('name', STOPS)
def test_other_numbers_and_orders_stop_a_test(name):
    classes, message = STOPS[name]
    with pytest.raises(CheckpointError, match=rf'(?s)x.pth: .*{message}.*unguarded='):
        load(of(classes))


@pytest.mark.parametrize('name', WARNS)
def test_other_names_are_told_of(name, said):
    classes, message = WARNS[name]
    load(of(classes))
    ((level, line), ) = said
    assert level == logging.WARNING
    assert message in line


def test_a_text_in_place_of_all():
    with pytest.raises(CheckpointError, match='x.pth: its meta.dataset_meta is a str, expected'):
        load(dict(dataset_meta='cat'))


@pytest.mark.parametrize('meta', [dict(CLASSES=NAMES[::-1]),
                                  dict(dataset_meta=dict(CLASSES=NAMES[::-1]))])
def test_names_of_older_versions(meta):
    with pytest.raises(CheckpointError, match='another order'):
        load(meta)


def wrapped(how):
    data = BaseDataset(metainfo=dict(classes=NAMES), lazy_init=True)
    return dict(concat=lambda: ConcatDataset([data, data], lazy_init=True),
                repeat=lambda: RepeatDataset(data, 2, lazy_init=True),
                subset=lambda: Subset(Data(NAMES), [0]),
                subset_of_concat=lambda: Subset(torch.utils.data.ConcatDataset([Data(NAMES)]), [0])
                )[how]()


@pytest.mark.parametrize('how', ['concat', 'repeat', 'subset', 'subset_of_concat'])
def test_data_sets_in_others(how, said):
    load(of(NAMES), wrapped(how))
    assert said == []
    with pytest.raises(CheckpointError, match='another order'):
        load(of(NAMES[::-1]), wrapped(how))


@pytest.mark.parametrize('data', [Data(None), Data(()), [1, 2]])
def test_data_without_names(data, said):
    load(of(NAMES[:2]), data)
    assert said == []


def test_a_validation_is_a_test():
    with pytest.raises(CheckpointError, match='data of val_dataloader have 4'):
        load(of(NAMES[:2]), _test_loop=None, _val_loop=Loop(Data(NAMES)))


@pytest.mark.parametrize('classes', [NAMES[::-1], NAMES[:2], 4])
def test_training_from_other_classes(classes, said):
    """Fine-tuning is what a model of other classes is for."""
    load(of(classes), _train_loop=Loop(Data(NAMES)))
    assert said == []


def test_models_that_are_told_their_classes(said):
    model = nn.Linear(1, 1)
    model.language_model = nn.Identity()
    load(of(NAMES[::-1]), model=model)
    RPN = type('RPN', (nn.Linear, ), {})
    load(of(NAMES[:2]), model=RPN(1, 1))
    assert said == []


def test_numbers_may_be_counted_from_one_and_names_stand_twice():
    assert not class_order.are_reordered(['1', '2', '3'], ['0', '1', '2'])
    assert class_order.are_reordered(['2', '1', '0'], [0, 1, 2])
    assert not class_order.are_reordered(['crane', 'dog', 'crane'], ['crane bird', 'dog', 'crane'])


def test_a_training_is_told_where_the_weights_lie():
    model = nn.ModuleDict(dict(backbone=nn.Linear(1, 1)))
    runner = SimpleNamespace(model=model, _resume=False, _load_from='x.pth', work_dir='w',
                             _train_loop=Loop(Data(NAMES)), _val_loop=None, _test_loop=None)
    hook = CheckpointCheckHook()
    hook.after_load_checkpoint(runner, dict(state_dict=model.state_dict()))
    for checkpoint, message in (
            (dict(model=model.state_dict()), 'The weights lie under model.*unguarded='),
            (dict(state_dict=model.backbone.state_dict()), "The names fit with 'backbone.' before"),
            (dict(state_dict={**model.state_dict(), 'backbone.bias': None}),
             '1 unusable: backbone.bias: None, expected a tensor')):
        with pytest.raises(CheckpointError, match=f'(?s){message}'):
            hook.after_load_checkpoint(runner, checkpoint)


def test_a_real_runner_stops_before_it_tests(tmp_path):
    """With MMEngine's own loop, loader and call of the hook."""
    model = nn.Linear(1, 1)
    torch.save(dict(state_dict=model.state_dict(), meta=of(NAMES[::-1])), tmp_path / 'x.pth')
    runner = Runner(model, str(tmp_path), test_dataloader=DataLoader(Data(NAMES)),
                    test_cfg=dict(type='TestLoop'), test_evaluator=[],
                    load_from=str(tmp_path / 'x.pth'), custom_hooks=[CheckpointCheckHook()],
                    experiment_name='classes', default_hooks=dict(logger=None))
    with pytest.raises(CheckpointError, match='in another order'):
        runner.test()
