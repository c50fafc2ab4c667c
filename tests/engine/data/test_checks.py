"""Data that are missing, empty or others than the recipe's: one error that says so."""
import json

import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets import make_sample_data
from mmvssd.engine.data.checks import check_data, check_dataset
from mmvssd.errors import ConfigError, DataError

CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
SEGMENTOR = 'samples/upernet_vssd-nano_1xb8_digits.py'


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Folder of sample data: six scenes, eight crops."""
    return make_sample_data(tmp_path_factory.mktemp('data') / 'digits', num_scenes=(4, 2),
                            num_crops=(4, 4), progress=False)


@pytest.fixture
def recipe(digits, tmp_path):
    """Read a sample recipe for that folder, with settings changed."""

    def read(name, **settings):
        kind = {CLASSIFIER: 'imagenet', DETECTOR: 'coco', SEGMENTOR: 'ade20k'}[name]
        options = {'model.backbone.init_cfg': None}
        for phase in ('train', 'val'):
            options.update({f'{phase}_dataloader.{key}': value for key, value in (
                ('dataset.data_root', str(digits / kind)), ('batch_size', 2),
                ('num_workers', 0), ('persistent_workers', False))})
        if name == DETECTOR:
            options['val_evaluator.ann_file'] = str(
                digits / kind / 'annotations' / 'instances_val2017.json')
        options.update({key.replace('__', '.'): value for key, value in settings.items()})
        return load_config(name, work_dir=str(tmp_path / 'work'), options=options)

    return read


def coco(folder, digits, **changes):
    """A copy of the training annotations, with some entries replaced."""
    content = json.loads((digits / 'coco/annotations/instances_train2017.json').read_text())
    file = folder / 'changed.json'
    file.write_text(json.dumps({**content, **changes}))
    return str(file)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(images=[], annotations=[]), 'changed.json: holds no images'),
    (dict(annotations=[]), 'changed.json holds no annotations'),
    (dict(categories=[dict(id=1, name='cat')]), 'has the categories cat; its classes are zero'),
])
def test_coco_file_that_leaves_no_images(recipe, digits, tmp_path, changes, message):
    pytest.importorskip('mmdet')
    file = coco(tmp_path, digits, **changes)
    with pytest.raises(DataError, match=f'train_dataloader, CocoDataset: .*{message}'):
        build_trainer(recipe(DETECTOR, train_dataloader__dataset__ann_file=file))


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(annotations=[]), 'holds no annotations'),
    (dict(categories=[dict(id=1, name='cat')]), "no category of the recipe's"),
])
def test_coco_file_that_scores_nothing(recipe, digits, tmp_path, changes, message):
    """In evaluation the host keeps images without annotations, and reports -1."""
    pytest.importorskip('mmdet')
    file = coco(tmp_path, digits, **changes)
    with pytest.raises(DataError, match=f'val_dataloader, CocoDataset: .*{message}'):
        build_trainer(recipe(DETECTOR, val_dataloader__dataset__ann_file=file)).train()


def test_coco_file_cut_short(recipe, tmp_path):
    pytest.importorskip('mmdet')
    (tmp_path / 'cut.json').write_text('{"images": [')
    with pytest.raises(DataError, match=r'cut.json is not valid JSON'):
        build_trainer(recipe(DETECTOR, train_dataloader__dataset__ann_file=str(
            tmp_path / 'cut.json')))


def test_list_without_images(recipe, tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'list.txt').write_text('\n\n')
    with pytest.raises(DataError, match=r'train_dataloader, CustomDataset: .*lists no images'):
        build_trainer(recipe(CLASSIFIER, train_dataloader__dataset__ann_file=str(
            tmp_path / 'list.txt')))


def test_folder_without_images(recipe, tmp_path):
    pytest.importorskip('mmseg')
    (tmp_path / 'note.txt').touch()
    with pytest.raises(DataError, match=r'BaseSegDataset: .* holds no image with the suffix .jpg'):
        build_trainer(recipe(SEGMENTOR, train_dataloader__dataset__data_prefix__img_path=str(
            tmp_path)))


def test_missing_label_maps(recipe, tmp_path):
    pytest.importorskip('mmseg')
    runner = build_trainer(recipe(SEGMENTOR, val_dataloader__dataset__data_prefix__seg_map_path=str(
        tmp_path)))
    with pytest.raises(DataError, match=r'val_dataloader, BaseSegDataset: .*\.png is not there'):
        runner.train()


def test_missing_images(recipe):
    pytest.importorskip('mmpretrain')
    runner = build_trainer(recipe(CLASSIFIER, train_dataloader__dataset__data_prefix='val'))
    with pytest.raises(DataError, match=r'train_dataloader, CustomDataset: .*\.jpg is not there'):
        runner.train()


@pytest.mark.parametrize('name', [CLASSIFIER, DETECTOR, SEGMENTOR])
def test_grey_images(recipe, name):
    pytest.importorskip(load_config(name).default_scope)
    runner = build_trainer(recipe(
        name, train_dataloader__dataset__pipeline__0__color_type='grayscale'))
    with pytest.raises(DataError, match=r'\.jpg: the image has 1 channel, the model takes 3'):
        runner.train()


def test_one_file_of_several_may_be_without_annotations(recipe, digits, tmp_path):
    """Images of nothing beside others."""
    pytest.importorskip('mmdet')
    cfg = recipe(DETECTOR)
    leaf = cfg.train_dataloader.dataset
    leaf.filter_cfg = None
    backgrounds = dict(leaf, ann_file=coco(tmp_path, digits, annotations=[]))
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[leaf, backgrounds])
    cfg.train_dataloader.batch_sampler = None
    check_dataset(build_trainer(cfg).train_dataloader.dataset, 'train')


def test_label_maps_that_nothing_reads_may_be_missing(recipe, tmp_path):
    pytest.importorskip('mmseg')
    loader = build_trainer(recipe(SEGMENTOR, val_dataloader__dataset__data_prefix__seg_map_path=str(
        tmp_path))).val_dataloader
    check_dataset(loader.dataset, 'val', labelled=False)
    with pytest.raises(DataError, match=r'\.png is not there'):
        check_dataset(loader.dataset, 'val')


def test_a_folder_of_label_maps_that_is_inherited(recipe):
    """As Mask2Former's instance segmentation has it from the panoptic one."""
    pytest.importorskip('mmdet')
    cfg = recipe(DETECTOR, train_dataloader__dataset__data_prefix__seg='gone')
    dataset = build_trainer(cfg).train_dataloader.dataset
    assert 'gone' in dataset.get_data_info(0)['seg_map_path']
    check_dataset(dataset, 'train')
    dataset.pipeline.transforms[1].with_seg = True
    with pytest.raises(DataError, match=r'gone/.*\.png is not there'):
        check_dataset(dataset, 'train')


def test_the_suffix_is_the_data_sets_own(recipe, digits, tmp_path):
    """Cityscapes' images end with _leftImg8bit.png; another error there is not about them."""
    pytest.importorskip('mmseg')
    (tmp_path / 'a_leftImg8bit.png').touch()
    options = dict(type='CityscapesDataset', data_root=str(tmp_path), data_prefix=dict(
        img_path='.', seg_map_path='.'), pipeline=[dict(type='Misspelt')])
    cfg = recipe(SEGMENTOR)
    cfg.train_dataloader.dataset = options
    with pytest.raises(ConfigError, match=r'no transform with the name Misspelt'):
        build_trainer(cfg)


def test_files_elsewhere_are_not_looked_for():
    remote = dict(backend='petrel', path_mapping={'data/': 's3://data/'})
    dataset = dict(type='CocoDataset', data_root='data/gone')
    for place in (dict(dataset, backend_args=remote),
                  dict(dataset, pipeline=[dict(type='LoadImageFromFile', backend_args=remote)])):
        check_data(Config(dict(train_dataloader=dict(dataset=place))), 'train')
    with pytest.raises(DataError, match=r'data_root: data/gone is not there'):
        check_data(Config(dict(train_dataloader=dict(dataset=dict(
            dataset, backend_args=dict(backend='local'))))), 'train')


def test_a_pipeline_may_make_the_channels_fit(recipe):
    pytest.importorskip('mmpretrain')
    cfg = recipe(CLASSIFIER)
    load, *rest = cfg.train_dataloader.dataset.pipeline
    load.color_type = 'grayscale'
    cfg.train_dataloader.dataset.pipeline = [load, dict(type='GreyToColour'), *rest]

    @TRANSFORMS.register_module(name='GreyToColour', force=True)
    class GreyToColour:
        def __call__(self, results):
            results['img'] = results['img'][..., None].repeat(3, -1)
            return results

    check_dataset(build_trainer(cfg).train_dataloader.dataset, 'train', 3)


def test_other_errors_pass(recipe):
    pytest.importorskip('mmpretrain')
    cfg = recipe(CLASSIFIER, train_dataloader__dataset__pipeline=[dict(type='Misspelt')])
    with pytest.raises(ConfigError, match=r'no transform with the name Misspelt'):
        build_trainer(cfg)


def test_annotations_of_no_bytes(tmp_path):
    (tmp_path / 'none.json').touch()
    cfg = Config(dict(val_evaluator=dict(ann_file=str(tmp_path / 'none.json'))))
    with pytest.raises(DataError, match=r'val_evaluator, ann_file: .*none.json is empty'):
        check_data(cfg, 'val')
