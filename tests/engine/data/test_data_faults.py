"""Training data with faults: left out, counted, told of, and the run goes on."""
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope

from mmvssd.cli.launch import load_config
from mmvssd.datasets import make_sample_data
from mmvssd.engine.data import data_faults
from mmvssd.engine.data.data_faults import (
    BACKGROUND,
    NO_ANNOTATION,
    NO_AREA,
    NO_SUCH_CLASS,
    DataFaultsHook,
    faults_of,
)
from mmvssd.engine.data.training_data import MOST_UNREADABLE, SeededDataset, SeededIndex
from mmvssd.errors import DataError, UnreadableImageError
from mmvssd.phrases import numbered

DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Sample data, in the current folder."""
    monkeypatch.chdir(tmp_path)
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(8, 4), num_crops=(8, 4),
                     progress=False)
    return tmp_path / 'data' / 'sample_digits'


def spoil_coco(digits):
    """An annotation of each fault; returns the names of four images, the last without any."""
    file = digits / 'coco' / 'annotations' / 'instances_train2017.json'
    coco = json.loads(file.read_text())
    names = {image['id']: image['file_name'] for image in coco['images']}
    first = {image: next(a for a in coco['annotations'] if a['image_id'] == image)
             for image in names}
    flat, outside, unknown, alone = list(names)[:4]
    first[flat].update(bbox=[5, 5, 0, 9], area=0)
    first[outside]['bbox'] = [-50, 5, 20, 20]
    first[unknown]['category_id'] = 77
    coco['annotations'] = [a for a in coco['annotations'] if a['image_id'] != alone]
    file.write_text(json.dumps(coco))
    return [names[image] for image in (flat, outside, unknown, alone)]


@pytest.mark.parametrize('filtered', [True, False])
def test_what_the_reader_of_coco_files_leaves_out(digits, filtered):
    pytest.importorskip('mmdet')
    flat, _, unknown, alone = spoil_coco(digits)
    cfg = load_config(DETECTOR).train_dataloader.dataset
    cfg.filter_cfg.filter_empty_gt = filtered
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(dict(type='mmengine.ConcatDataset', datasets=[cfg]))
    faults = faults_of(dataset)
    no_annotation = NO_ANNOTATION if filtered else BACKGROUND
    assert {kind: fault.count for kind, fault in faults.items()} == {
        NO_AREA: 2, NO_SUCH_CLASS: 1, no_annotation: 1}
    assert flat in faults[NO_AREA].first
    assert faults[NO_SUCH_CLASS].first.endswith(f'{unknown}, category 77')
    assert len(dataset) == 8 - filtered
    assert Path(faults[no_annotation].first).name == alone


def test_clean_data_have_no_faults(digits):
    pytest.importorskip('mmdet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert not faults_of(DATASETS.build(load_config(DETECTOR).train_dataloader.dataset))


def test_annotations_keep_their_ids(tmp_path):
    coco = pytest.importorskip('mmdet.datasets').CocoDataset
    annotation = dict(image_id=1, category_id=1, area=4, iscrowd=0)
    boxes = {3: [0, 0, 4, 4], 5: [90, 90, 4, 4], 9: [1, 1, 3, 3]}  # the second is left out
    content = dict(categories=[dict(id=1, name='a')],
                   images=[dict(id=1, file_name='a.jpg', width=9, height=9)],
                   annotations=[dict(annotation, id=key, bbox=box) for key, box in boxes.items()])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = coco(ann_file=str(tmp_path / 'a.json'), metainfo=dict(classes=('a', )),
                   data_prefix=dict(img=''))
    assert [one['ann_id'] for one in dataset.get_data_info(0)['instances']] == [3, 9]


class Images(list):
    """A data set of files, read by a pipeline's own loader."""

    def __getitem__(self, index):
        from mmcv.transforms import LoadImageFromFile
        return LoadImageFromFile()(dict(img_path=super().__getitem__(index)))['img_path']


@pytest.fixture
def images(tmp_path):
    """Ten images; four cannot be read."""
    paths = [str(tmp_path / f'{index}.png') for index in range(10)]
    for path in paths:
        cv2.imwrite(path, np.zeros((4, 4, 3), np.uint8))
    Path(paths[2]).write_text('no image')
    Path(paths[5]).write_bytes(b'')
    Path(paths[6]).unlink()
    Path(paths[7]).write_bytes(Path(paths[7]).read_bytes()[:20])
    return paths


def test_an_unreadable_image_is_replaced(images, tmp_path):
    pytest.importorskip('mmcv')
    listed = tmp_path / 'unreadable.txt'
    dataset = SeededDataset(Images(images), str(listed))
    epoch = [dataset[SeededIndex(index, (3, 0, index))] for index in range(10)]
    broken = {images[index] for index in (2, 5, 6, 7)}
    assert [one for one, path in zip(epoch, images) if path not in broken] == [
        path for path in images if path not in broken]
    assert not broken & set(epoch)
    again = SeededDataset(Images(images), str(listed))  # in another worker
    assert [again[SeededIndex(index, (3, 0, index))] for index in range(10)] == epoch
    lines = listed.read_text().splitlines()
    assert sorted(line.partition(': cannot be read as an image')[0] for line in lines) == sorted(
        broken)


def test_all_processes_images_are_told_of(tmp_path, monkeypatch):
    """By the one that has a log, those of the run that is resumed not again."""
    said = []
    monkeypatch.setattr(data_faults, 'print_log', lambda text, **kwargs: said.append(text))
    listed = tmp_path / 'unreadable_images.txt'
    listed.write_text('old.png: cannot be read\n')
    runner = SimpleNamespace(work_dir=str(tmp_path), _train_loop={}, _resume=True, hooks=[])
    hook = DataFaultsHook()
    hook.before_run(runner)
    for name in ('a.png', 'b.png'):
        with listed.open('a') as file:
            file.write(f'{name}: cannot be read\n')
        hook.after_train_epoch(runner)
    hook.after_train(runner)
    assert [text.partition(':')[0] for text in said] == [
        'a.png', 'b.png', 'Faults of the training data']
    assert ' 3 images that cannot be read' in said[-1]


def test_images_of_which_none_can_be_read_stop_it(tmp_path):
    pytest.importorskip('mmcv')
    paths = [str(tmp_path / f'{index}.png') for index in range(MOST_UNREADABLE * 3)]
    dataset = SeededDataset(Images(paths), str(tmp_path / 'unreadable.txt'))
    with pytest.raises(UnreadableImageError, match=r'\.png: cannot be read'):
        dataset[SeededIndex(0, (3, 0, 0))]


def test_other_errors_pass(tmp_path):
    class Wrong(Images):
        def __getitem__(self, index):
            raise KeyError('gt_bboxes')

    with pytest.raises(KeyError, match='gt_bboxes'):
        SeededDataset(Wrong('a'), str(tmp_path / 'unreadable.txt'))[0]
    assert not list(tmp_path.iterdir())


def test_an_error_of_settings_is_none_of_a_file():
    loading = pytest.importorskip('mmcv.transforms')
    with pytest.raises(DataError, match="the step LoadImageFromFile .*KeyError: 'img_path'"):
        loading.LoadImageFromFile()({})


def test_the_error_passes_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImageError('a.png: cannot be read')))
    assert str(error) == 'a.png: cannot be read'


def test_unreadable_label_maps_are_named(tmp_path):
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    (tmp_path / 'labels.png').write_text('no image')
    with pytest.raises(UnreadableImageError, match=r'labels\.png: cannot be read'):
        loading.LoadAnnotations()(dict(seg_map_path=str(tmp_path / 'labels.png'),
                                       reduce_zero_label=False, seg_fields=[]))


@pytest.mark.slow
def test_a_training_goes_on_and_sums_up(digits, tmp_path, run_tool):
    pytest.importorskip('mmdet')
    *_, alone = spoil_coco(digits)
    train = digits / 'coco' / 'train2017'
    broken = next(path for path in sorted(train.iterdir()) if path.name != alone)
    broken.write_bytes(b'no image')
    settings = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2',
                'train_dataloader.batch_size=4', 'model.backbone.init_cfg=None']
    out = run_tool('train.py', DETECTOR, '--work-dir', 'run', '--cfg-options', *settings)
    path = f'data/sample_digits/coco/train2017/{broken.name}'
    assert out.count(f'{path}: cannot be read as an image') == 2  # before the run, and when met
    summary = next(line for line in out.splitlines() if 'Faults of the training data' in line)
    for part in ('1 image that cannot be read', numbered(NO_AREA, 2), numbered(NO_SUCH_CLASS, 1),
                 numbered(NO_ANNOTATION, 1)):
        assert part in summary
    assert path in (tmp_path / 'run' / 'unreadable_images.txt').read_text()

    # a score of other images than asked for is none
    val = sorted((digits / 'coco' / 'val2017').iterdir())[0]
    val.write_bytes(b'no image')
    out = run_tool('test.py', DETECTOR, 'run/epoch_2.pth', expect=2)
    assert f'{val.name}: cannot be read as an image' in out
