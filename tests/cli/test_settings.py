"""Settings that do not fit are named, and those that a recipe does not have."""
import copy
import functools
import inspect
import re
import sys

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from mmvssd.cli import settings
from mmvssd.cli.launch import load_config
from mmvssd.cli.settings import naming_settings
from mmvssd.engine.guards import GuardedRunner
from mmvssd.errors import ConfigError, DataError

CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
SEGMENTOR = 'samples/upernet_vssd-nano_1xb8_digits.py'


@DATASETS.register_module()
class FewOfNothing(BaseDataset):
    """Four images that nothing reads."""

    METAINFO = dict(classes=('a', 'b'))

    def load_data_list(self):
        return [dict(img_path='x', gt_label=0)] * 4


recipe_of = functools.cache(load_config)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Runners write their config out, which takes longer than to build them."""
    monkeypatch.setattr(Config, 'pretty_text', '')


class Trained(Exception):
    """All that a training needs is built."""


def start(folder, recipe, options):
    """Build all that a training needs."""
    pytest.importorskip('mmdet' if recipe is DETECTOR else 'mmseg' if recipe is SEGMENTOR else
                        'mmpretrain')
    cfg = copy.deepcopy(recipe_of(recipe))
    cfg.work_dir = str(folder)
    cfg.model.backbone.init_cfg = None
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset = ConfigDict(type='FewOfNothing', pipeline=[
            dict(type='LoadImageFromFile'), dict(type='Resize', scale=(8, 8))])
        loader.num_workers, loader.persistent_workers = 0, False
    cfg.unguarded = ['data_survey', 'data_check']  # which have nothing to look at
    settings.merge(cfg, options)

    def run():
        raise Trained

    with naming_settings(cfg, everything=True):
        runner = GuardedRunner.from_cfg(cfg)
        runner.train_loop.run = run
        runner.val_loop  # noqa: B018  (built when it is asked for)
    with naming_settings(cfg):
        runner.train()


@pytest.mark.parametrize(('recipe', 'option', 'value', 'message'), [
    # of data loaders, which MMEngine builds without a registry
    (CLASSIFIER, 'train_dataloader.batch_size', 0, 'train_dataloader: ValueError: batch_size'),
    (CLASSIFIER, 'train_dataloader.num_workers', 'x', "train_dataloader: TypeError: '<' not"),
    (CLASSIFIER, 'train_dataloader.batch_siz', 4, 'did you mean batch_size'),
    (CLASSIFIER, 'val_dataloader.collate_fn.type', 'no', 'val_dataloader: TypeError: the first'),
    (CLASSIFIER, 'val_dataloader.sampler.shufle', True, 'did you mean shuffle'),
    (CLASSIFIER, 'train_dataloader.sampler.type', 'No', 'no data sampler with the name No'),
    (CLASSIFIER, 'train_dataloader.dataset.data_rot', 'x', 'did you mean data_root'),
    (CLASSIFIER, 'train_dataloader.dataset.pipeline.1.type', 'Resiz',
     'train_dataloader.dataset.pipeline.1: there is no transform with the name Resiz; did you '
     'mean Resize'),
    # of models
    (CLASSIFIER, 'model.backbone.arch', 'nano2', 'model.backbone: ValueError: arch: unknown name'),
    (CLASSIFIER, 'model.backbone.drop_path', 0.1, 'it is called drop_path_rate here'),
    (CLASSIFIER, 'model.head.num_classes', 'ten', 'model.head: TypeError'),
    (CLASSIFIER, 'model.head.type', 'LinearClsHea', 'did you mean LinearClsHead'),
    (CLASSIFIER, 'model', None, 'TypeError: model should be'),
    (DETECTOR, 'model.roi_head.bbox_head.num_classes', 'x', 'model.roi_head.bbox_head: TypeError'),
    (DETECTOR, 'model.rpn_head.anchor_generator.ratio', [1], 'model.rpn_head.anchor_generator: '),
    (DETECTOR, 'train_dataloader.batch_sampler.type', 'No', 'train_dataloader.batch_sampler: '),
    (DETECTOR, 'val_evaluator.metric', 'foo', 'val_evaluator: KeyError: metric should be one of'),
    (SEGMENTOR, 'model.decode_head.loss_decode.type', 'No', 'model.decode_head.loss_decode: '),
    (SEGMENTOR, 'model.decode_head.in_index', [0, 1], 'model.decode_head: AssertionError'),
    # of what is built as a training starts
    (CLASSIFIER, 'optim_wrapper.optimizer.type', 'AdamQ', 'optim_wrapper: '),
    (CLASSIFIER, 'optim_wrapper.optimizer.lr', -1, 'optim_wrapper: ValueError: Invalid learning'),
    (CLASSIFIER, 'optim_wrapper.optimizer.lrr', 1, 'did you mean lr?'),
    (CLASSIFIER, 'optim_wrapper.type', 'No', 'no optimizer_wrapper with the name No'),
    (CLASSIFIER, 'optim_wrapper.accumulative_counts', 0, 'optim_wrapper: AssertionError'),
    (CLASSIFIER, 'param_scheduler.0.T_max', 0, 'param_scheduler.0: '),
    (CLASSIFIER, 'param_scheduler.0.type', 'No', 'no parameter scheduler with the name No'),
    # of the run
    (CLASSIFIER, 'train_cfg.max_epoch', 3, 'did you mean max_epochs?'),
    (CLASSIFIER, 'default_hooks.logger.type', 'No', 'default_hooks.logger: there is no hook with'),
    (CLASSIFIER, 'custom_hooks.0.type', 'No', 'TypeError: hook should be'),
    (CLASSIFIER, 'randomness.sed', 1, "unexpected keyword argument 'sed'"),
    (CLASSIFIER, 'visualizer.type', 'No', 'there is no visualizer with the name No'),
    (CLASSIFIER, 'launcher', 'no', 'Invalid launcher type: no'),
    (CLASSIFIER, 'runner_type', 'No', 'there is no runner with the name No'),
])
def test_a_setting_that_does_not_fit(tmp_path, recipe, option, value, message):
    with pytest.raises(ConfigError) as caught:
        start(tmp_path, recipe, {option: value, 'train_cfg.val_interval': 1})
    said = str(caught.value)
    assert message in said
    assert f'--cfg-options {option}={value}' in said or f' {option}={value}' in said
    assert len(said) < 900


def test_all_fits(tmp_path):
    with pytest.raises(Trained):  # an error of the training passes
        start(tmp_path, CLASSIFIER, {})


class Built(Hook):
    """What a training has while it runs."""

    def __init__(self, model):
        self.model = model

    def fail(self):
        raise ZeroDivisionError('interval')


def fails_while_running(monkeypatch, option, value, fail):
    """What is said of an error in a running training: of ``fail(runner)``."""
    cfg = copy.deepcopy(recipe_of(CLASSIFIER))
    cfg.default_hooks.built = dict(type='Built', interval=1)
    if option:
        settings.merge(cfg, {option: value})
    runner = Runner.__new__(Runner)
    runner.model = nn.ModuleDict(dict(head=nn.Linear(2, 2), neck=nn.Linear(2, 2)))
    monkeypatch.setattr(Runner, 'train', lambda self: fail(self))
    with naming_settings(cfg):
        runner.train()


@pytest.mark.parametrize(('option', 'fail', 'message'), [
    ('model.head.in_channels', lambda runner: runner.model['head'](torch.ones(1, 7)),
     'model.head: RuntimeError: mat1 and mat2'),
    ('default_hooks.built.interval', lambda runner: Built(runner.model).fail(),
     'default_hooks.built: ZeroDivisionError: interval'),
])
def test_what_only_the_running_training_refuses(monkeypatch, option, fail, message):
    with pytest.raises(ConfigError) as caught:
        fails_while_running(monkeypatch, option, 7, fail)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(f'(--cfg-options {option}=7)')
    # an error of what no option is about is none of a setting
    for other in ('model.neck.in_channels', 'default_hooks.logger.interval', None):
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            fails_while_running(monkeypatch, other, 7, fail)


@pytest.mark.parametrize('error', [NotImplementedError, NotImplementedError(), AssertionError('')])
def test_an_error_without_a_message(error):
    def refuse():
        raise error

    with pytest.raises(ConfigError, match=r'Error: raised without a message by refuse of .*test'), \
            naming_settings(Config({}), everything=True):
        refuse()


def test_modules_that_an_option_imports(tmp_path, monkeypatch):
    for imports in ('no_such_module', 3):
        with pytest.raises(ConfigError, match='--cfg-options: custom_imports: '):
            settings.merge(copy.deepcopy(recipe_of(CLASSIFIER)), {
                'custom_imports.imports': imports})
    (tmp_path / 'module_of_an_option.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    settings.merge(copy.deepcopy(recipe_of(CLASSIFIER)), {
        'custom_imports.imports': ['mmvssd', 'module_of_an_option']})
    assert 'module_of_an_option' in sys.modules


def test_the_log_keeps_the_traceback(tmp_path):
    cfg = recipe_of(CLASSIFIER)
    MMLogger.get_instance('settings', log_file=str(tmp_path / 'log.txt'))
    with pytest.raises(ConfigError, match='could not convert'), naming_settings(cfg, True):
        float('x')
    text = (tmp_path / 'log.txt').read_text()
    assert 'Traceback' in text
    assert "float('x')" in text


@pytest.mark.parametrize('error', [
    DataError('data'), FileNotFoundError('file'), ConfigError('config'), KeyboardInterrupt()],
    ids=repr)
def test_what_says_all_itself_passes(error):
    with pytest.raises(type(error)) as caught, naming_settings(recipe_of(CLASSIFIER), True):
        raise error
    assert caught.value is error


@pytest.mark.parametrize('error', [KeyboardInterrupt(), SystemExit(128 + 15)], ids=repr)
def test_a_signal_is_no_error_of_a_setting(error):
    """MMEngine takes it for an error of the syntax while it writes a config."""
    def disguised():
        try:
            raise error
        except BaseException:
            raise SyntaxError('Failed to format the config file')  # noqa: B904

    with pytest.raises(SyntaxError), naming_settings(recipe_of(CLASSIFIER), True):
        disguised()


def test_arrays_in_a_config():
    """Dicts with them cannot be compared."""
    cfg = load_config(CLASSIFIER, options={'model.backbone.arch': 'no'})
    cfg.model.backbone.extra = torch.ones(2)
    with pytest.raises(ConfigError), naming_settings(cfg, True):
        GuardedRunner.from_cfg(cfg)


@pytest.mark.parametrize(('option', 'said'), [
    ('auto_scale_lr.base_batch_siz', 'auto_scale_lr has no base_batch_siz; did you mean '
                                     'base_batch_size?'),
    ('randomness.sed', 'randomness has no sed; did you mean seed?'),
    ('train_dataloader.batch_siz', 'train_dataloader has no batch_siz; did you mean'),
    ('env_cfg.cudnn_benchmar', 'env_cfg has no cudnn_benchmar; did you mean cudnn_benchmark?'),
    ('env_cfg.dist_cfg.backnd', 'env_cfg.dist_cfg has no backnd; did you mean backend'),
    ('model.test_cfg.rcnn.score_th', 'model.test_cfg.rcnn has no score_th; did you mean '
                                     'score_thr?'),
    ('model.tst_cfg.rcnn.score_thr', None),  # building the detector refuses it
    ('default_hooks.checkpoint.intervall', 'did you mean interval?'),  # swallowed by **kwargs
    ('optim_wrapper.clip_grad.maxnorm', 'did you mean max_norm?'),
    ('foo.bar.baz', 'the recipe has no foo'),
    ('auto_scale_lr.enable', None), ('randomness.deterministic', None),
    ('env_cfg.resource_limit', None), ('train_dataloader.pin_memory', None),
    ('model.backbone.frozen_stages', None), ('model.backbone.frozen_stags', None),
    ('default_hooks.checkpoint.max_keep_ckpts', None), ('unguarded', None), ('resume', None),
    ('find_unused_parameters', None), ('model_wrapper_cfg.broadcast_buffers', None),
    ('tta_model.type', None),
    ('val_pipelines_of_mine', 'the recipe has no val_pipelines_of_mine'),
    ('train_dataloader.dataset.pipeline.0.backend_args', None),
])
def test_a_setting_that_the_recipe_does_not_have(monkeypatch, option, said):
    warnings = []
    monkeypatch.setattr(settings, 'print_log', lambda message, **kwargs: warnings.append(message))
    cfg = copy.deepcopy(recipe_of(DETECTOR))
    cfg.setdefault('auto_scale_lr', dict(base_batch_size=8))
    cfg.setdefault('randomness', dict(seed=0))
    cfg.optim_wrapper.clip_grad = dict(max_norm=1.)
    settings.merge(cfg, {option: 1})
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


@pytest.mark.parametrize(('option', 'meant'), [
    ('train_dataloder.batch_size', 'train_dataloader'), ('optim_wraper.type', 'optim_wrapper'),
    ('modle.backbone.arch', 'model'), ('default_hook.logger.interval', 'default_hooks'),
    ('find_unused_parameter', 'find_unused_parameters'), ('max_epoch', 'max_epochs')])
def test_a_misspelt_part_of_the_recipe(option, meant):
    cfg = copy.deepcopy(recipe_of(DETECTOR))
    cfg.max_epochs = 1
    with pytest.raises(ConfigError, match=f'--cfg-options: {option}: neither the recipe nor '
                                          f'MMEngine has a setting .*; did you mean {meant}'):
        settings.merge(cfg, {option: 1})
    assert option.split('.')[0] not in cfg


@pytest.mark.parametrize('name', ['train_pipeline', 'val_pipeline', 'test_pipeline'])
def test_a_name_of_another_phase_is_not_misspelt(name):
    cfg = Config(dict.fromkeys({'train_pipeline', 'val_pipeline', 'test_pipeline'} - {name}, 0))
    settings.merge(cfg, {name: 1})
    assert cfg[name] == 1


def test_all_that_mmengine_reads_of_a_config_is_known():
    """Its Runners and strategies ask for settings by name."""
    for runner in (Runner, FlexibleRunner):
        source = inspect.getsource(inspect.getmodule(runner))
        read = set(re.findall(r"\bcfg(?:\.get\(|\[)\s*'(\w+)'", source))
        assert {'find_unused_parameters', 'compile'} <= read or runner is FlexibleRunner
        assert read <= settings.RUNNER_SETTINGS


@pytest.mark.parametrize(('rank', 'times'), [('0', 1), ('1', 0)])
def test_the_log_keeps_a_warning_once(tmp_path, monkeypatch, rank, times):
    monkeypatch.setenv('RANK', rank)
    said = []
    monkeypatch.setattr(settings, 'print_log', lambda message, **kwargs: said.append(message))
    cfg = copy.deepcopy(recipe_of(CLASSIFIER))
    settings.merge(cfg, {'foo.bar': 1})
    MMLogger.get_instance('doubts', log_file=str(tmp_path / 'log.txt'))
    settings.keep_doubts(cfg)
    assert len(said) == times
    log = tmp_path / 'log.txt'
    assert (log.read_text() if log.exists() else '').count(
        'WARNING - --cfg-options: foo.bar is new') == times
