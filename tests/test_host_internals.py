"""Private names of MMEngine: used in one module, there, and with the meaning that is assumed."""
import ast
import importlib
import inspect
from pathlib import Path

import mmengine
import mmengine.dataset
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmvssd import host_internals

ROOT = Path(__file__).resolve().parent.parent
ADAPTER = Path(host_internals.__file__)
FILES = [path for folder in ('mmvssd', 'tools') for path in sorted((ROOT / folder).rglob('*.py'))
         if path != ADAPTER and (ROOT / 'mmvssd' / 'compat') not in path.parents]
#: Private by their spelling only: of named tuples, and of ``os``.
NOT_PRIVATE = {'_asdict', '_exit', '_fields', '_replace'}
#: Whose private names are no matter of this test: a class's own, and other packages'.
OTHERS = {'self', 'cls', 'torch', 'np'}
MEND = (f'MMEngine {mmengine.__version__} is not as mmvssd/host_internals.py assumes; mend that '
        'module, all else goes through it')


def is_private(name):
    return name.startswith('_') and not name.startswith('__') and name not in NOT_PRIVATE


def own_names(tree):
    """Names that a module, or a class in it, defines or assigns itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def test_no_private_name_of_another_elsewhere():
    """What is neither of the class itself nor of its module is somebody else's."""
    offenders = []
    for file in FILES:
        tree = ast.parse(file.read_text())
        own = own_names(tree)
        for node in ast.walk(tree):
            name = None
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                of_others = isinstance(node.value, ast.Name) and node.value.id in OTHERS
                name = None if of_others or node.attr in own else node.attr
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                parts = [part for alias in node.names for part in alias.name.split('.')]
                parts += (getattr(node, 'module', None) or '').split('.')
                hosts = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'} & set(parts)
                name = next((part for part in parts if hosts and is_private(part)), None)
            elif (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                  and node.func.id in ('getattr', 'setattr', 'hasattr')):
                name = first_text(node.args[1])
                name = name if name and is_private(name) and name not in own else None
            if name:
                offenders.append(f'{file.relative_to(ROOT)}:{node.lineno} {name}')
    assert not offenders


def first_text(node):
    """How a string, or an f-string, begins."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def subclasses():
    """Classes of this package on classes of MMEngine, with the private names that they use."""
    for file in FILES:
        tree = ast.parse(file.read_text())
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        if file.parts[-1] == '__init__.py' or ROOT / 'tools' in file.parents or not classes:
            continue
        module = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
        for node in classes:
            used = {part.attr for part in ast.walk(node)
                    if isinstance(part, ast.Attribute) and is_private(part.attr)
                    and isinstance(part.value, ast.Name) and part.value.id == 'self'}
            used |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)
                     and is_private(part.attr) and isinstance(part.value, ast.Call)}  # super()._x
            used |= {part.name for part in node.body
                     if isinstance(part, ast.FunctionDef) and is_private(part.name)}
            if used:
                yield module, node.name, used


def names_in(kind):
    """Private names that a class of MMEngine defines or assigns."""
    return {name for name in own_names(ast.parse(inspect.getsource(inspect.getmodule(kind))))
            if is_private(name)}


def test_inherited_names_are_declared():
    found = {}
    for module, name, used in subclasses():
        if module == 'mmvssd.models.classifiers.mesa':
            pytest.importorskip('mmpretrain')
        kind = getattr(importlib.import_module(module), name)
        hosts = [base for base in kind.__mro__ if base.__module__.startswith('mmengine.')]
        inherited = {attribute for attribute in used for base in hosts
                     if attribute in names_in(base)}
        if inherited:
            found[f'{module}.{name}'] = inherited
    declared = {name: set(names) for name, names in host_internals.INHERITED.items()}
    declared.pop('mmvssd.engine.train.loops._ResumableLoop')  # a part of the two loops
    assert found == declared, MEND


def test_default_hooks(tmp_path):
    """MMEngine takes None for these, and for no others."""
    runner = build(tmp_path, default_hooks=dict.fromkeys(host_internals.DEFAULT_HOOKS))
    assert runner.hooks == [], MEND
    assert len(build(tmp_path).hooks) == len(host_internals.DEFAULT_HOOKS), MEND


class Points(Dataset):
    metainfo = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(index)]))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.layer(torch.stack(inputs)).square().mean())


def build(work_dir, kind=Runner, **settings):
    return kind(
        model=Model(), work_dir=str(work_dir), train_cfg=dict(by_epoch=True, max_epochs=1),
        train_dataloader=dict(dataset=Points(), batch_size=2, num_workers=0,
                              sampler=dict(type='DefaultSampler', shuffle=True)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=2),
        launcher='none', env_cfg={}, **settings)


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_runners(tmp_path, kind):
    runner = build(tmp_path, kind, experiment_name=f'{kind.__name__}_1')
    assert [host_internals.built_loop(runner, phase) for phase in ('train', 'val', 'test')] == [
        None, None, None], MEND
    assert not host_internals.is_resuming(runner), MEND
    assert host_internals.source_of(runner) is None, MEND
    runner.train()
    assert host_internals.built_loop(runner, 'train') is runner.train_loop, MEND
    assert not host_internals.has_loaded(runner), MEND
    assert host_internals.accumulated_batches(runner.optim_wrapper) == 2, MEND

    file = str(tmp_path / 'epoch_1.pth')
    resumed = build(tmp_path, kind, load_from=file, resume=True,
                    experiment_name=f'{kind.__name__}_2')
    resumed.train()
    assert host_internals.is_resuming(resumed), MEND
    assert host_internals.source_of(resumed) == file, MEND
    assert host_internals.has_loaded(resumed), MEND
    assert resumed.iter == 2


def test_a_flexible_runner_that_resumes_by_name(tmp_path):
    runner = build(tmp_path, FlexibleRunner, resume='some.pth', experiment_name='by_name')
    assert host_internals.is_resuming(runner), MEND
    assert host_internals.source_of(runner) == 'some.pth', MEND


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_the_rate_counts_accumulated_batches(tmp_path, kind):
    """One step of 2 x 2 images, a base of 8: half the rate."""
    runner = build(tmp_path, kind, auto_scale_lr=dict(enable=True, base_batch_size=8),
                   experiment_name=f'{kind.__name__}_rate')
    host_internals.scale_rate_for(runner, 2)
    runner.train()
    assert runner.optim_wrapper.get_lr()['lr'] == [0.05], MEND


def test_other_wrappers_accumulate_nothing():
    assert host_internals.accumulated_batches(object()) == 1
    parameter = nn.Parameter(torch.ones(1))
    wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=1.), accumulative_counts=3)
    assert host_internals.accumulated_batches(wrapper) == 3, MEND


def test_endless_batches(monkeypatch):
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)
    passes = []

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            passes.append(epoch)

    loader = DataLoader([1, 2], sampler=Sampler([1, 2]), batch_size=2)
    batches = host_internals.endless_batches(loader, 5)
    assert [next(batches).tolist() for _ in range(3)] == [[1, 2]] * 3, MEND
    assert passes == [6, 7], MEND


def test_the_losses_of_a_head():
    heads = pytest.importorskip('mmpretrain.models.heads')
    from mmpretrain.structures import DataSample
    head = heads.LinearClsHead(num_classes=2, in_channels=1,
                               loss=dict(type='mmpretrain.CrossEntropyLoss'))
    losses = host_internals.head_losses(head, torch.zeros(1, 2), [DataSample().set_gt_label(1)])
    assert losses['loss'].item() == pytest.approx(0.6931, abs=1e-4), MEND


def test_whose_scores_are_a_softmax():
    heads = pytest.importorskip('mmpretrain.models.heads')
    from mmpretrain.structures import DataSample
    head = heads.LinearClsHead(num_classes=2, in_channels=1,
                               loss=dict(type='mmpretrain.CrossEntropyLoss'))
    logits = torch.tensor([[1., 3.]])
    found, = head._get_predictions(logits, [DataSample()])
    assert torch.allclose(found.pred_score, logits.softmax(1)[0]), MEND
    assert host_internals.scores_are_softmax(head), MEND
    of_labels = object.__new__(heads.MultiLabelLinearClsHead)  # only its class is asked
    assert not host_internals.scores_are_softmax(of_labels), MEND


def test_a_data_set_with_other_entries():
    dataset = host_internals.filled(mmengine.dataset.BaseDataset(lazy_init=True), [dict(a=3)])
    assert len(dataset) == 1, MEND
    assert dataset.get_data_info(0) == dict(a=3, sample_idx=0), MEND
