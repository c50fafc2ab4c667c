"""From options to a Runner, as far as it needs no training."""
import logging
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook

from mmvssd.cli import launch
from mmvssd.cli.launch import (
    build_tester,
    build_trainer,
    check_device,
    check_output_file,
    check_seed,
    check_writable,
    load_config,
)
from mmvssd.engine.data.checks import check_data
from mmvssd.errors import CheckpointError, ConfigError, DataError


def test_recipes_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py')
    assert cfg.work_dir == 'work_dirs/mask-rcnn_vssd-tiny_fpn_1x_coco'
    assert load_config('configs/classification/vssd-tiny_8xb128_in1k.py').default_scope


def test_a_misspelt_recipe_names_the_similar():
    with pytest.raises(ConfigError, match=r'similar: .*mask-rcnn_vssd-tiny_fpn_1x_coco.py'):
        load_config('mask-rcnn_vssd-tiny_fpn_1x_coc.py')


def test_options_override(tmp_path):
    cfg = load_config('classification/vssd-tiny_8xb128_in1k.py', work_dir=str(tmp_path),
                      options={'model.backbone.arch': 'micro'}, launcher='pytorch')
    assert cfg.model.backbone.arch == 'micro'
    assert cfg.work_dir == str(tmp_path)
    assert cfg.launcher == 'pytorch'


def test_weights_are_chosen_without_the_average(tmp_path):
    """EMAHook would exchange them, by whatever name the config has it."""
    hooks = [dict(type='EMAHook'), dict(type='mmpretrain.EMAHook'), dict(type=EMAHook),
             dict(type='NumClassCheckHook')]
    cfg = Config(dict(default_scope='mmpretrain', custom_hooks=hooks))
    launch._test_weights(cfg, 'raw')
    assert cfg.custom_hooks == [hooks[-1], dict(type='mmvssd.TestedWeightsHook', kind='raw')]


def test_pictures_for_a_config_without_hooks(tmp_path):
    cfg = Config(dict(default_scope='mmdet'))
    launch._draw_into(cfg, tmp_path)
    assert cfg.default_hooks.visualization.out_dir == str(tmp_path)


def test_missing_data_is_named(tmp_path):
    cfg = load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py',
                      options={'model.backbone.init_cfg': None})
    with pytest.raises(DataError, match=r'train_dataloader, CocoDataset, data_root: data/coco/ is '
                                        r'not there .*make_sample_data.py'):
        build_trainer(cfg)
    options = {f'{phase}_dataloader.dataset.data_root': str(tmp_path)
               for phase in ('train', 'val')}
    cfg.merge_from_dict(options)
    with pytest.raises(DataError, match=r'ann_file: .*/annotations/instances_train2017.json'):
        build_trainer(cfg)
    for split in ('train', 'val'):
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        (tmp_path / 'annotations' / f'instances_{split}2017.json').write_text('{}')
    with pytest.raises(DataError, match=r'val_evaluator, ann_file: data/coco/annotations'):
        build_trainer(cfg)


def test_wrapped_data_sets_are_looked_into(tmp_path):
    inner = dict(type='Inner', data_root=str(tmp_path / 'gone'))
    cfg = Config(dict(train_dataloader=dict(dataset=dict(
        type='ConcatDataset', datasets=[dict(data_root=str(tmp_path)), inner]))))
    with pytest.raises(DataError, match=r'Inner, data_root'):
        check_data(cfg, 'train')


@pytest.mark.parametrize(('options', 'message'), [
    (dict(tta=True), '--tta: the recipe has no tta_model and no tta_pipeline'),
    (dict(out='predictions.json'), '--out: got predictions.json, expected .* .pkl'),
])
def test_options_without_ground(options, message):
    cfg = load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py')
    with pytest.raises(ConfigError, match=message):
        build_tester(cfg, 'checkpoint.pth', **options)


def test_auto_scale_lr_needs_a_base():
    cfg = load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py')
    cfg.pop('auto_scale_lr')
    with pytest.raises(ConfigError, match=r'base_batch_size'):
        build_trainer(cfg, auto_scale_lr=True)


def test_a_missing_start_names_the_ways_out():
    cfg = load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py')
    with pytest.raises(CheckpointError, match=r'vssd-tiny_in1k.pth: no such .*convert_checkpoint'):
        build_trainer(cfg)


@pytest.mark.parametrize('backbone', ['mmvssd.VSSD', 'mmvssd.VMamba'])
def test_a_classifier_without_a_neck(backbone, tmp_path):
    """As configs for ConvNeXt have none."""
    options = {'model.neck': None, 'model.backbone.type': backbone}
    cfg = load_config('samples/vssd-nano_1xb64_digits.py', work_dir=str(tmp_path), options=options)
    message = rf"model.neck: .* LinearClsHead takes averages of {backbone}'s maps; add neck=dict"
    with pytest.raises(ConfigError, match=message):
        build_trainer(cfg)


def test_a_config_that_cannot_be_read(tmp_path):
    for text in ('model = dict(', "_base_ = './gone.py'", 'a = no_name', 'a = 1 / 0',
                 "_base_ = ['mmdet::gone/gone.py']", 'a = dict(b=1).c',
                 'custom_imports = dict(imports=["no_such_module"])'):
        (tmp_path / 'mine.py').write_text(text)
        with pytest.raises(ConfigError, match=r'mine.py: cannot be read as a recipe'):
            load_config(str(tmp_path / 'mine.py'))


@pytest.mark.parametrize(('build', 'without', 'message'), [
    (build_trainer, 'train_dataloader', 'no train_dataloader, needed'),
    (lambda cfg: build_tester(cfg, 'checkpoint.pth', tta=True), 'test_dataloader',
     'no test_dataloader, needed'),
    (lambda cfg: build_tester(cfg, 'checkpoint.pth', out='a.pkl'), 'test_evaluator',
     'no test_evaluator, needed'),
])
def test_a_recipe_without_what_is_asked_for(build, without, message):
    cfg = load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py', options={without: None})
    with pytest.raises(ConfigError, match=message):
        build(cfg)


def test_an_option_for_what_is_not_there():
    with pytest.raises(ConfigError, match=r'--cfg-options: .*99'):
        load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py',
                    options={'train_dataloader.dataset.pipeline.99.type': 'Resize'})


def test_folders_to_write_to(tmp_path):
    check_writable(str(tmp_path / 'new' / 'folder'), '--work-dir')
    assert (tmp_path / 'new' / 'folder').is_dir()
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(ConfigError, match=rf'--work-dir: {path} cannot be made or written to'):
            check_writable(str(path), '--work-dir')


@pytest.mark.parametrize(('options', 'message'), [
    (dict(out='file/predictions.pkl'), '--out: file cannot be made or written to'),
    (dict(out='folder.pkl'), '--out: folder.pkl is a folder'),
])
def test_predictions_that_cannot_be_written(tmp_path, monkeypatch, options, message):
    """Said before the evaluation, not after it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    (tmp_path / 'folder.pkl').mkdir()
    cfg = load_config('detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py')
    with pytest.raises(ConfigError, match=message):
        build_tester(cfg, 'checkpoint.pth', **options)


@pytest.mark.parametrize('device', ['foo', 'cuda' if not torch.cuda.is_available() else 'cuda:99x'])
def test_devices_that_are_not_there(device):
    with pytest.raises(ConfigError, match=f'--device: got {device}, '):
        check_device(device)


@pytest.mark.parametrize('seed', [-1, 2**32, 10**25])
def test_seeds_that_no_generator_takes(seed):
    check_seed(0)
    check_seed(2**32 - 1)
    with pytest.raises(ConfigError, match=f'--seed: got {seed}, expected .* 0 to 4294967295'):
        check_seed(seed)


def test_output_files(tmp_path):
    check_output_file(str(tmp_path / 'new' / 'file.json'), '--out')
    assert (tmp_path / 'new').is_dir()
    (tmp_path / 'file').touch()
    for wrong, message in (('new', 'is a folder'), ('file/below', 'cannot be made or written to')):
        with pytest.raises(ConfigError, match=f'--out: .*{message}'):
            check_output_file(str(tmp_path / wrong), '--out')


@pytest.fixture
def interrupted(tmp_path):
    """A recipe, and a work dir with a checkpoint of it; the data are there in name."""
    torch.save(dict(state_dict={}, optimizer={}, message_hub={},
                    meta=dict(epoch=3, iter=12, seed=77)), tmp_path / 'epoch_3.pth')
    return load_config('classification/vssd-tiny_8xb128_in1k.py', work_dir=str(tmp_path))


def test_a_resumed_run_keeps_its_seed(interrupted, tmp_path):
    launch._start_from(interrupted, 'auto')
    assert interrupted.resume
    assert interrupted.load_from == str(tmp_path / 'epoch_3.pth')
    assert interrupted.randomness.seed == 77
    interrupted.randomness.seed = 5  # set by the user, who is warned by MMEngine
    launch._start_from(interrupted, 'auto')
    assert interrupted.randomness.seed == 5


@pytest.mark.parametrize('resume', [None, 'auto', 'other.pth'])
def test_a_restarted_process_goes_on_by_itself(interrupted, tmp_path, monkeypatch, resume):
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    launch._start_from(interrupted, resume)
    assert interrupted.load_from == str(tmp_path / 'epoch_3.pth')


def test_a_restarted_process_takes_no_older_runs_checkpoint(interrupted, tmp_path, monkeypatch):
    """Unless the job itself was asked to resume."""
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    monkeypatch.setenv('MMVSSD_JOB_START', str(time.time() + 10))
    with pytest.raises(ConfigError, match='holds 1 checkpoint of another run'):
        launch._start_from(interrupted, None)
    launch._start_from(interrupted, 'auto')
    assert interrupted.load_from == str(tmp_path / 'epoch_3.pth')


def test_nothing_to_resume_is_said(interrupted, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(launch, 'print_log', lambda message, *, logger, level: said.append(
        (level, message)))
    interrupted.work_dir = str(tmp_path / 'new')
    interrupted.load_from = None
    launch._start_from(interrupted, 'auto')
    assert not interrupted.get('resume')
    message = f'{tmp_path / "new"} holds no checkpoint to resume from: the training begins anew'
    assert said == [(logging.INFO, message)]
    # a run that was killed before its first checkpoint is news
    (tmp_path / 'new' / '20260101_000000').mkdir(parents=True)
    launch._start_from(interrupted, 'auto')
    assert said[1:] == [(logging.WARNING, message)]


def test_weights_alone_cannot_be_resumed(interrupted, tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match='weights.pth: holds no message_hub, no meta, no opt'):
        launch._start_from(interrupted, str(tmp_path / 'weights.pth'))
