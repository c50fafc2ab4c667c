"""The sample data: what the hosts read from it, and that it appears complete or not at all."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmvssd.datasets import CLASSES, PALETTE, SEG_CLASSES, make_sample_data, sample_data, scenes

REPO = Path(__file__).parents[2]
COUNTS = dict(num_scenes=(12, 5), num_crops=(30, 20), progress=False)
FEW = dict(num_scenes=(2, 1), num_crops=(10, 10), progress=False)
ADE_SPLITS = {'train': 'training', 'val': 'validation'}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_sample_data(tmp_path_factory.mktemp('made') / 'sample_digits', **COUNTS)


def hashes(root):
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob('*')) if path.is_file()}


def names(folder):
    """What is in a folder, but for the lock, which some versions of filelock leave behind."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith('.lock'))


def coco_scenes(root, split):
    """For each scene: its picture, its ADE20K labels, and its annotations with their masks."""
    coco = COCO(root / 'coco' / 'annotations' / f'instances_{split}2017.json')
    folder = ADE_SPLITS[split]
    for i, image in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
        picture = cv2.imread(str(root / 'coco' / f'{split}2017' / image['file_name']))
        labels = cv2.imread(
            str(root / 'ade20k' / 'annotations' / folder / f'ADE_{split}_{i + 1:08d}.png'),
            cv2.IMREAD_UNCHANGED)
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        yield picture, labels, annotations, [coco.annToMask(a).astype(bool) for a in annotations]


# What is written


def test_counts_names_and_shapes(root):
    splits = zip(('train', 'val'), COUNTS['num_scenes'], COUNTS['num_crops'])
    for split, num_scenes, num_crops in splits:
        assert len(names(root / 'coco' / f'{split}2017')) == num_scenes
        assert len(names(root / 'ade20k' / 'images' / ADE_SPLITS[split])) == num_scenes
        assert len(names(root / 'ade20k' / 'annotations' / ADE_SPLITS[split])) == num_scenes
        assert names(root / 'imagenet' / split) == sorted(CLASSES)
        crops = list((root / 'imagenet' / split).glob('*/*.jpg'))
        assert len(crops) == num_crops
        assert cv2.imread(str(crops[0])).shape == (64, 64, 3)
    shapes = {picture.shape for picture, *_ in coco_scenes(root, 'train')}
    assert shapes == {(128, 128, 3), (128, 160, 3), (160, 128, 3)}
    assert len(SEG_CLASSES) == len(PALETTE) == len(set(PALETTE)) == len(CLASSES) + 1


def test_scenes_of_coco_and_ade20k_are_the_same(root):
    for split, folder in ADE_SPLITS.items():
        coco = sorted((root / 'coco' / f'{split}2017').iterdir())
        ade = sorted((root / 'ade20k' / 'images' / folder).iterdir())
        assert [p.read_bytes() for p in coco] == [p.read_bytes() for p in ade]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_masks_boxes_areas_and_labels_agree(root, split):
    for picture, labels, annotations, masks in coco_scenes(root, split):
        assert labels.shape == picture.shape[:2]
        assert 1 <= len(annotations) <= 6
        owners = np.sum(masks, axis=0)
        assert owners.max() == 1  # the visible parts only: no pixel is of two digits
        for annotation, mask in zip(annotations, masks):
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation['bbox'] == box
            assert annotation['area'] == mask.sum()
            assert annotation['iscrowd'] == 0
            # categories are 1 + digit, labels 1 + index in SEG_CLASSES
            assert np.all(labels[mask] == annotation['category_id'] + 1)
        touched = cv2.dilate(owners.astype(np.uint8), np.ones((3, 3), np.uint8)) > owners
        assert np.array_equal(labels == 0, touched)
        assert np.all(labels[(owners == 0) & ~touched] == 1)


def test_a_digit_stands_off_from_the_ground_around_it(root):
    for picture, _, _, masks in coco_scenes(root, 'train'):
        ground = ~np.any(masks, axis=0)
        around = cv2.dilate(np.uint8(~ground), np.ones((9, 9), np.uint8)).astype(bool) & ground
        for mask in masks:
            inside = cv2.erode(np.uint8(mask), np.ones((3, 3), np.uint8)).astype(bool)
            if inside.any():  # of a thin visible part nothing may be left
                gap = picture[inside].mean(0) - picture[around].mean(0)
                assert np.linalg.norm(gap) > 60


def test_grounds_are_textured(root):
    spreads = [picture[labels == 1].std(axis=0).max()
               for picture, labels, *_ in coco_scenes(root, 'train')]
    assert min(spreads) > 2
    assert np.median(spreads) > 6


def test_train_and_val_share_no_digit(root):
    seen = {}
    for split in ('train', 'val'):
        of_scenes = {a['source'] for *_, annotations, _ in coco_scenes(root, split)
                     for a in annotations}
        of_crops = {int(p.stem.split('_')[1]) for p in (root / 'imagenet' / split).glob('*/*')}
        seen[split] = of_scenes | of_crops
    assert not seen['train'] & seen['val']
    assert max(seen['train']) < 1438 <= min(seen['val'])


def test_labels_are_those_of_the_source(root):
    pool = scenes.load_digits('val')
    digit_of = dict(zip(pool.sources.tolist(), pool.labels.tolist()))
    for *_, annotations, _ in coco_scenes(root, 'val'):
        assert all(a['category_id'] == digit_of[a['source']] + 1 for a in annotations)
    for path in (root / 'imagenet' / 'val').glob('*/*'):
        assert path.parent.name == CLASSES[digit_of[int(path.stem.split('_')[1])]]


# How a scene is drawn


def test_later_digits_hide_earlier_ones_but_not_too_much(monkeypatch):
    full, draw_digit = [], scenes._draw_digit

    def recorded(*args):
        cover = draw_digit(*args)
        full.append(np.count_nonzero(cover >= 0.5))
        return cover

    monkeypatch.setattr(scenes, '_draw_digit', recorded)
    pool, shown = scenes.load_digits('train'), []
    for seed in range(20):
        full.clear()
        scene = scenes.draw_scene(
            pool, np.arange(3), (160, 160), (40, 50), np.random.default_rng(seed))
        assert len(scene.labels) == len(full)  # on so much room each one finds its place
        shown += [np.count_nonzero(scene.owner == i) / area for i, area in enumerate(full)]
    assert min(shown) >= 0.6
    assert min(shown) < 1


def test_a_digit_without_a_place_is_left_out():
    pool = scenes.load_digits('train')
    scene = scenes.draw_scene(pool, np.arange(20), (66, 66), (60, 64), np.random.default_rng(0))
    assert 1 <= len(scene.labels) < 20
    assert len(scene.labels) == len(scene.sources)
    assert np.array_equal(np.unique(scene.owner), np.arange(-1, len(scene.labels)))


@pytest.mark.parametrize('size', [16., 23.7, 64.])
def test_a_digit_is_as_large_as_asked_for(size):
    pool = scenes.load_digits('val')
    for ink in pool.images[:30]:
        cover = scenes._draw_digit(ink, size, np.random.default_rng(0))
        assert abs(max(cover.shape) - size) <= 2
        assert 0 <= cover.min() < 0.5 < cover.max() <= 1


# The same arguments, the same data


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second, other = (
        hashes(make_sample_data(tmp_path / name, seed=seed, **FEW))
        for name, seed in [('a', 3), ('b', 3), ('c', 4)])
    assert first == second
    pictures = {name for name in first if name.endswith('.jpg')} & other.keys()
    assert pictures
    assert all(first[name] != other[name] for name in pictures)


def test_a_larger_set_begins_with_the_smaller_one(root, tmp_path):
    few, many = hashes(make_sample_data(tmp_path / 'few', **FEW)), hashes(root)
    for name in few:
        if name.startswith(('ade20k', 'imagenet/train')):
            assert few[name] == many[name]


def test_data_that_is_there_is_left_alone(root, monkeypatch):
    messages = []
    monkeypatch.setattr(sample_data, 'print_log', lambda message, logger: messages.append(message))
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert make_sample_data(root, **COUNTS) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before
    assert len(messages) == 1
    assert 'already what is asked for' in messages[0]


# Interruptions


def failing_draw(after):
    calls = 0

    def draw(*args):
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return scenes.draw_scene(*args)

    return draw


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_data, 'draw_scene', failing_draw(after=5))
    with pytest.raises(KeyboardInterrupt):
        make_sample_data(tmp_path / 'digits', **FEW)
    assert names(tmp_path) == []


def test_an_error_while_replacing_keeps_the_old(tmp_path, monkeypatch):
    root = make_sample_data(tmp_path / 'digits', **FEW)
    before = hashes(root)
    monkeypatch.setattr(sample_data, 'draw_scene', failing_draw(after=5))
    with pytest.raises(KeyboardInterrupt):
        make_sample_data(root, seed=1, overwrite=True, **FEW)
    assert hashes(root) == before
    assert names(tmp_path) == ['digits']


def test_a_killed_run_leaves_no_half_set_and_the_next_one_cleans_up(tmp_path):
    code = ('import sys; from mmvssd.datasets import make_sample_data; '
            'make_sample_data(sys.argv[1], num_scenes=(100000, 1), progress=False)')
    run = subprocess.Popen([sys.executable, '-c', code, str(tmp_path / 'digits')], cwd=REPO)
    try:
        pictures = tmp_path / '.digits.partial' / 'coco' / 'train2017'
        deadline = time.monotonic() + 120
        while not (pictures.is_dir() and len(names(pictures)) > 3):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert names(tmp_path) == ['.digits.partial']
    make_sample_data(tmp_path / 'digits', **FEW)
    assert names(tmp_path) == ['digits']


def test_processes_that_make_the_same_root_take_turns(tmp_path):
    code = ('import sys; from mmvssd.datasets import make_sample_data; '
            'make_sample_data(sys.argv[1], num_scenes=(20, 1), num_crops=(10, 10), progress=False)')
    command = [sys.executable, '-c', code, str(tmp_path / 'digits')]
    runs = [subprocess.Popen(command, cwd=REPO) for _ in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert names(tmp_path) == ['digits']


# What is refused


def test_other_data_is_replaced_only_when_asked_for(tmp_path):
    root = make_sample_data(tmp_path / 'digits', **FEW)
    with pytest.raises(FileExistsError, match=r'seed is 0, asked for 5.*overwrite=True'):
        make_sample_data(root, seed=5, **FEW)
    make_sample_data(root, seed=5, overwrite=True, **FEW)
    assert json.loads((root / 'metadata.json').read_text())['seed'] == 5
    assert names(tmp_path) == ['digits']


@pytest.mark.parametrize('metadata', [None, '{', '[]', '{"seed": 0}'])
def test_what_is_no_sample_data_is_never_replaced(tmp_path, metadata):
    (tmp_path / 'thesis.tex').write_text('years of work')
    if metadata is not None:
        (tmp_path / 'metadata.json').write_text(metadata)
    with pytest.raises(FileExistsError, match='not sample data'):
        make_sample_data(tmp_path, overwrite=True, **FEW)
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'digits').mkdir()
    assert (make_sample_data(tmp_path / 'digits', **FEW) / 'metadata.json').exists()


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'cannot write .*give another root'):
        make_sample_data(tmp_path / 'file' / 'digits', **FEW)


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match='cannot write'):
        make_sample_data(tmp_path / 'digits', **FEW)


@pytest.mark.parametrize(('argument', 'value'), [
    ('num_scenes', (0, 1)), ('num_scenes', 5), ('num_scenes', (1, 2, 3)), ('num_crops', (10, -1)),
    ('num_crops', (1.5, 2)), ('image_size', 95), ('image_size', '128'), ('crop_size', 31),
    ('seed', -1), ('seed', None), ('seed', True),
])
def test_wrong_arguments_are_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=argument):
        make_sample_data(tmp_path / 'digits', **{**FEW, argument: value})
    assert names(tmp_path) == []


def test_command_line(tmp_path):
    root = make_sample_data(tmp_path / 'digits', **FEW)
    script = REPO / 'tools' / 'dataset_tools' / 'make_sample_data.py'
    command = [sys.executable, script, root, '--num-scenes', '2', '1', '--num-crops', '10', '10',
               '--seed', '1']
    options = dict(env={**os.environ, 'PYTHONPATH': str(REPO)}, capture_output=True, text=True)
    refused = subprocess.run(command, **options)
    assert refused.returncode == 1
    assert '--force' in refused.stderr
    assert 'Traceback' not in refused.stderr
    subprocess.run([*command, '--force'], check=True, **options)
    assert json.loads((root / 'metadata.json').read_text())['seed'] == 1


# What the hosts read


def test_mmdet_reads_the_instances(root):
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    dataset = CocoDataset(
        ann_file='annotations/instances_train2017.json',
        data_root=str(root / 'coco'),
        data_prefix=dict(img='train2017/'),
        metainfo=dict(classes=CLASSES, palette=PALETTE[1:]),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[LoadImageFromFile(), LoadAnnotations(with_bbox=True, with_mask=True)])
    assert len(dataset) == COUNTS['num_scenes'][0]
    for results, scene in zip(dataset, coco_scenes(root, 'train')):
        picture, _, annotations, masks = scene
        assert np.array_equal(results['img'], picture)
        assert np.array_equal(results['gt_masks'].masks.astype(bool), masks)
        assert [d + 1 for d in results['gt_bboxes_labels']] == [
            a['category_id'] for a in annotations]
        boxes = results['gt_masks'].get_bboxes(dst_type='hbox')
        assert np.array_equal(results['gt_bboxes'].tensor, boxes.tensor)
        assert not results['gt_ignore_flags'].any()


def test_mmseg_reads_the_labels(root):
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    dataset = BaseSegDataset(
        data_root=str(root / 'ade20k'),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        metainfo=dict(classes=SEG_CLASSES, palette=PALETTE),
        reduce_zero_label=True,
        pipeline=[LoadImageFromFile(), LoadAnnotations()])
    assert len(dataset) == COUNTS['num_scenes'][1]
    for results, (picture, labels, _, masks) in zip(dataset, coco_scenes(root, 'val')):
        assert np.array_equal(results['img'], picture)
        seg_map = results['gt_seg_map']
        assert np.array_equal(seg_map == 255, labels == 0)
        assert np.array_equal(seg_map[seg_map != 255], labels[labels != 0] - 1)
        assert set(np.unique(seg_map)) <= {*range(len(SEG_CLASSES)), 255}
        assert np.all(seg_map[np.any(masks, axis=0)] > 0)


@pytest.mark.parametrize('kind', ['folders', 'list', 'imagenet'])
def test_mmpretrain_reads_the_crops(root, kind):
    from mmpretrain.datasets import CustomDataset, ImageNet

    place = dict(data_root=str(root / 'imagenet'))
    if kind == 'folders':
        dataset = CustomDataset(data_prefix='train', **place)
    elif kind == 'list':
        dataset = CustomDataset(data_prefix='train', ann_file='meta/train.txt',
                                metainfo=dict(classes=CLASSES), **place)
    else:
        dataset = ImageNet(split='train', metainfo=dict(classes=CLASSES), **place)
    assert len(dataset) == COUNTS['num_crops'][0]
    assert tuple(dataset.CLASSES) == (tuple(sorted(CLASSES)) if kind == 'folders' else CLASSES)
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        assert Path(info['img_path']).exists()
        assert Path(info['img_path']).parent.name == dataset.CLASSES[info['gt_label']]
    assert np.all(np.bincount(dataset.get_gt_labels()) == 3)
