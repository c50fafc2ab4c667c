"""From a folder of data in each format to a recipe whose data sets read it."""
import argparse
import ast
import importlib.util
import json
import os
import re
import shlex
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmvssd.cli.command_line import add_recipe_arguments
from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.cli.predict import Options, predict
from mmvssd.datasets.formats import MARK
from mmvssd.errors import CheckpointError, ConfigError, DataError
from mmvssd.new_recipe import command, new_recipe
from mmvssd.new_recipe.models import archs
from mmvssd.paths import configs_dir

spec = importlib.util.spec_from_file_location('made_data', Path(__file__).parent / 'made_data.py')
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

IMAGES = ('.jpg', '.png', '.npy')
HOSTS = {'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}


@pytest.fixture
def make(tmp_path):
    """Make data of a kind in a folder with a blank, a quote and a letter beyond ASCII."""

    def make_one(kind):
        root = tmp_path / "my dätä's"
        root.mkdir()
        made.MAKERS[kind][0](root)
        return root

    return make_one


def write(root, out, **options):
    """Write a recipe for a small backbone, and read it."""
    new_recipe(str(root), str(out), **{**dict(arch='vssd-nano'), **options})
    return Config.fromfile(out)


def built(cfg, part):
    """The data set of a part."""
    pytest.importorskip(cfg.default_scope)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return DATASETS.build(cfg[f'{part}_dataloader'].dataset)


def check_objects(dataset, masks):
    assert dataset.metainfo['classes'] == made.CLASSES
    seen = set()
    for index in range(len(dataset)):
        entry = dataset.get_data_info(index)
        assert os.path.isfile(entry['img_path'])
        assert (entry['width'], entry['height']) == (made.WIDTH, made.HEIGHT)
        (one, ) = entry['instances']
        assert one['bbox'] == pytest.approx(made.BOX, abs=1e-3)
        assert ('mask' in one) == masks
        seen.add(one['bbox_label'])
    assert seen <= {0, 1}
    return seen


def check_label_maps(dataset, values):
    for index in range(len(dataset)):
        entry = dataset.get_data_info(index)
        for step in dataset.pipeline.transforms:
            if type(step).__name__ in ('LoadImageFromFile', 'LoadAnnotations'):
                entry = step(entry)
        assert entry['img'].shape[:2] == entry['gt_seg_map'].shape
        assert set(np.unique(entry['gt_seg_map'])) <= values
        assert entry['gt_seg_map'][0, 0] in values


@pytest.mark.parametrize('kind', made.MAKERS)
def test_each_format_is_read_as_it_is(kind, make, tmp_path, monkeypatch, capsys):
    root = make(kind)
    before = made.snapshot(root)
    monkeypatch.chdir(tmp_path)
    _, form, task = made.MAKERS[kind]
    cfg = write(os.path.relpath(root), Path("mine 'ü' {}", 'recipe.py'))
    monkeypatch.chdir('/')  # a recipe is used from anywhere
    assert made.snapshot(root) == before
    assert cfg.default_scope == HOSTS[task]
    train, val = built(cfg, 'train'), built(cfg, 'val')
    assert len(train) > 0
    assert len(val) > 0
    paths = [{entry.get_data_info(index)['img_path'] for index in range(len(entry))}
             for entry in (train, val)]
    assert not paths[0] & paths[1]
    images = {str(path) for path in root.rglob('*') if path.suffix.lower() in IMAGES
              and not {'masks', 'annotations'} & set(path.parts)}
    assert {os.path.abspath(path) for path in paths[0] | paths[1]} == images
    if task == 'det':
        masks = kind not in ('coco-boxes', 'voc', 'yolo')
        assert check_objects(train, masks) == {0, 1}
        check_objects(val, masks)
        assert cfg.val_evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')
        assert (cfg.model.roi_head.mask_head is not None) == masks
    elif task == 'seg':
        check_label_maps(train, {0, 1} if kind != 'ade20k' else {0, 1, 255})
        assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 2
    else:
        for index in range(len(train)):
            entry = train.get_data_info(index)
            name = Path(entry['img_path'])
            known = made.CLASSES[int(name.stem) % 2] if 'csv' in kind else name.parent.name
            assert made.CLASSES[entry['gt_label']] == known
    out = capsys.readouterr().out
    assert len(cfg.classes) == 2
    assert f'{len(train)} train, {len(val)} val' in out


def test_without_masks_there_is_no_mask_head(make, tmp_path):
    pytest.importorskip('mmdet')
    cfg = write(make('coco-boxes'), tmp_path / 'recipe.py', arch='vssd-micro')
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert not model.roi_head.with_mask
    assert model.roi_head.bbox_head.num_classes == 2
    assert model.backbone.dims == (48, 96, 192, 384)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['coco', 'label-maps', 'class-folders'])
def test_every_arch_has_a_recipe(kind, make, tmp_path):
    root = make(kind)
    for name in archs():
        cfg = write(root, tmp_path / 'r.py', arch=name, overwrite=True, epochs=1)
        with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
            model = MODELS.build(cfg.model)
        backbone = Config.fromfile(configs_dir() / f'_base_/backbones/{name}.py')
        assert list(model.backbone.dims) == backbone.dims
    assert 'vssd-base' in archs()


def test_the_rate_of_a_recipe_for_larger_batches(make, tmp_path):
    cfg = write(make('class-folders'), tmp_path / 'r.py', arch='vssd-base', batch_size=8)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=8)  # it would go in proportion
    assert '# 0.0012 * (8 / 2048) ** 0.5 = 7.5e-05\n' in (tmp_path / 'r.py').read_text()


def test_names_are_data_and_never_code(tmp_path):
    """Quotes, brackets of MMEngine's own, line breaks and what would be code."""
    names = ["it's", '"', '{{ fileDirname }}', '{{{{$HOME:x}}}}', "'); import os; ('", '한국',
             '<script>', 'a\nb', 'back\\slash', '']
    for name in names[:-1]:
        made.make_coco(tmp_path / 'data', classes=(name, 'x'))
        cfg = write(tmp_path / 'data', tmp_path / 'r.py', overwrite=True)
        assert cfg.classes == (name, 'x')
        assert tuple(built(cfg, 'train').metainfo['classes']) == (name, 'x')
        text = (tmp_path / 'r.py').read_text()
        assert not [node for node in ast.walk(ast.parse(text))
                    if isinstance(node, (ast.Import, ast.Attribute)) and not isinstance(
                        getattr(node, 'value', None), ast.Name)]


def test_a_split_is_seeded_and_keeps_classes_in_training(tmp_path):
    made.make_class_folders(tmp_path / 'data', classes=('a', 'b', 'rare'), count=10)
    for path in sorted((tmp_path / 'data' / 'rare').iterdir())[1:]:
        path.unlink()
    lists = []
    for number, seed in enumerate((0, 0, 1)):
        cfg = write(tmp_path / 'data', tmp_path / f'{number}.py', seed=seed, val_fraction=0.3)
        val = built(cfg, 'val')
        entries = [val.get_data_info(index) for index in range(len(val))]
        assert [sum(entry['gt_label'] == label for entry in entries)
                for label in range(3)] == [3, 3, 0]
        lists.append({entry['img_path'] for entry in entries})
    assert lists[0] == lists[1] != lists[2]


def test_a_file_stands_for_its_folder(tmp_path):
    for kind, name in (('yolo', 'data.yaml'), ('labelme', '0.json'), ('voc', 'Annotations/0.xml'),
                       ('csv', 'labels of all.csv'), ('coco', 'instances.json')):
        made.MAKERS[kind][0](tmp_path / kind)
        whole = write(tmp_path / kind, tmp_path / f'{kind}.py')
        file = write(tmp_path / kind / name, tmp_path / f'{kind}_file.py')
        assert len(built(file, 'train')) == len(built(whole, 'train'))


def test_copies_are_named_with_their_classes(tmp_path, capsys):
    root = tmp_path / 'data'
    for seed in range(8):
        made.picture(root / ('cat', 'dog')[seed % 2] / f'{seed}.png', seed=seed)
    write(root, tmp_path / 'apart.py')
    assert ' cop' not in capsys.readouterr().out
    (root / 'dog' / 'a.png').write_bytes((root / 'cat' / '0.png').read_bytes())
    (root / 'dog' / 'b.png').write_bytes((root / 'dog' / '1.png').read_bytes())
    write(root, tmp_path / 'alike.py')
    said = ' '.join(capsys.readouterr().out.split())
    assert (f'1 image is a copy of one of another class (the first: {root}/dog/a.png is '
            f'{root}/cat/0.png: dog and cat). Keep the one whose class is right') in said
    assert f'1 image is a copy of another one (the first: {root}/dog/b.png is {root}/dog/1.' in said


def test_two_images_of_two_classes(tmp_path, capsys):
    """The least that can be divided; what is lacking then is said."""
    made.make_labelme(tmp_path / 'data', count=2)
    write(tmp_path / 'data', tmp_path / 'r.py')
    said = ' '.join(capsys.readouterr().out.split())
    assert 'class occurs in val and not in training' in said
    assert re.search(r'Sizes: all \d+ x \d+ pixels; median', said)  # of one size
    assert re.search(r'\d+ epochs of 1 step, 1 image each', said)


def test_given_validation(tmp_path):
    made.make_coco(tmp_path / 'a')
    made.make_coco(tmp_path / 'b', count=2)
    cfg = write(tmp_path / 'a', tmp_path / 'r.py', val=str(tmp_path / 'b'))
    assert (len(built(cfg, 'train')), len(built(cfg, 'val'))) == (6, 2)
    assert not (tmp_path / 'r_data').exists()  # both are read as they lie


def test_categories_of_validation_in_another_order(tmp_path):
    """MMDetection numbers classes in the order of each file: the file is written anew."""
    made.make_coco(tmp_path / 'a')
    made.make_coco(tmp_path / 'b', count=3, classes=('dog', 'cat'))
    cfg = write(tmp_path / 'a', tmp_path / 'r.py', val=str(tmp_path / 'b'))
    labels = [built(cfg, 'val').get_data_info(index)['instances'][0]['bbox_label']
              for index in range(3)]
    assert labels == [1, 0, 1]  # dog, cat, dog


def test_a_part_for_testing(tmp_path):
    """Its own files are tested on; without validation, some images of training are set aside."""
    for task, make in (('cls', made.make_class_folders), ('seg', None)):
        root = tmp_path / task
        for part, count in (('train', 5), ('test', 3)):
            if make:
                make(root, parts=(part, ), count=count)
            else:
                made.make_label_maps(root, count=count, images=f'{part}/images',
                                     maps=f'{part}/masks')
        cfg = write(root, tmp_path / f'{task}.py')
        lengths = [len(built(cfg, part)) for part in ('train', 'val', 'test')]
        assert lengths == ([8, 2, 6] if task == 'cls' else [4, 1, 3])


def test_values_of_label_maps(tmp_path, capsys):
    """What they are taken for, and how that is changed."""
    cases = [
        (((0, 255), {}), [0, 1], False), (((0, 1), {}), [0, 1], False),
        (((1, 2), {}), [0, 1], True), (((0, 2), dict(ignore_zero=True)), [1, 255], True),
        (((1, 2), dict(ignore_zero=False)), [1, 2], False),
        (((0, 2), dict(classes=['a', 'b'])), [1, 255], True),
        (((0, 200), {}), [0, 1], False), (((7, 255), {}), [6, 255], True),
        ((((9, 9, 9), (0, 0, 0)), {}), [0, 1], False),  # equal channels
        ((((9, 9, 9), (0, 0, 1)), {}), [0, 1], False)]  # colours
    for number, ((halves, options), values, reduced) in enumerate(cases):
        root = tmp_path / str(number)
        made.make_label_maps(root, halves, count=3)
        if number == 8:  # 9 is no shade of grey
            values = [0, 9]
        cfg = write(root, tmp_path / f'r{number}.py', **options)
        dataset = built(cfg, 'train')
        check_label_maps(dataset, set(values))
        assert dataset.reduce_zero_label == reduced, halves
        entry = dataset.get_data_info(0)
        for step in dataset.pipeline.transforms[:2]:
            entry = step(entry)
        assert sorted(np.unique(entry['gt_seg_map'])) == values, halves


def test_augmentations_of_a_test_have_the_size_of_the_data(tmp_path):
    made.make_label_maps(tmp_path / 'data', count=4)
    cfg = write(tmp_path / 'data', tmp_path / 'r.py')
    single = min(built(cfg, 'val')[0]['inputs'].shape[-2:])
    cfg.val_dataloader.dataset.pipeline = cfg.tta_pipeline
    sides = [min(inputs.shape[-2:]) for inputs in built(cfg, 'val')[0]['inputs']]
    assert sides == [share * single for share in (0.75, 1, 1.25) for _ in range(2)]


@pytest.mark.parametrize('kind', ['coco', 'yolo-polygons', 'labelme'])
def test_label_maps_are_painted_from_outlines(kind, make, tmp_path):
    cfg = write(make(kind), tmp_path / 'r.py', task='seg')
    assert cfg.default_scope == 'mmseg'
    assert cfg.classes == ('background', *made.CLASSES)
    dataset = built(cfg, 'train')
    left, top, right, bottom = made.BOX
    seen = set()
    for index in range(len(dataset)):
        entry = dataset.get_data_info(index)
        labels = made.np.asarray(made.Image.open(entry['seg_map_path']))
        assert labels.shape == (made.HEIGHT, made.WIDTH)
        (label, ) = set(np.unique(labels[top:bottom, left:right]))
        assert (labels == label).sum() == (bottom - top) * (right - left)
        assert set(np.unique(labels)) == {0, label}
        seen.add(label)
    assert seen == {1, 2}


def test_boxes_give_no_label_maps(make, tmp_path):
    with pytest.raises(DataError, match='6 objects have a box and no outline'):
        write(make('voc'), tmp_path / 'r.py', task='seg')


def test_a_single_name_stands_beside_a_background(tmp_path):
    for number, halves in enumerate(((0, 1), (0, 255))):
        made.make_label_maps(tmp_path / str(number), halves)
        cfg = write(tmp_path / str(number), tmp_path / f'r{number}.py', classes=['crack'])
        assert cfg.classes == ('background', 'crack')
        check_label_maps(built(cfg, 'train'), {0, 1})


def test_names_that_end_in_a_blank_are_kept(tmp_path):
    """The host strips the lines of its lists, which have names without ending."""
    root = tmp_path / 'data'
    for index in range(6):
        made.picture(root / 'images' / f'{index} .jpg')
        made.label_map(root / 'masks' / f'{index} .png', (0, 1))
    cfg = write(root, tmp_path / 'r.py')
    for part in ('train', 'val'):
        check_label_maps(built(cfg, part), {0, 1})


def test_a_byte_order_mark_is_read_and_not_written(tmp_path):
    root = tmp_path / 'data'
    made.make_coco(root)
    file = root / 'instances.json'
    file.write_bytes(b'\xef\xbb\xbf' + file.read_bytes())
    cfg = write(root, tmp_path / 'r.py', val=str(file))  # the host gets no part as it lies
    assert [check_objects(built(cfg, part), True) for part in ('train', 'val')] == [{0, 1}] * 2


def test_names_that_other_systems_do_not_tell_apart(tmp_path, capsys):
    """Windows and macOS find a file by other capitals, and macOS writes accents apart."""
    names = [f'Bär {index}.JPG' for index in range(6)]
    for kind in ('coco', 'csv'):
        for name in names:
            made.picture(tmp_path / kind / 'images' / unicodedata.normalize('NFD', name))
    listed = [name.lower() for name in names]
    file = tmp_path / 'coco' / 'instances.json'
    file.write_text(json.dumps(made.coco_content(listed)))
    rows = [f'images/{name},{"ab"[index % 2]}' for index, name in enumerate(listed)]
    (tmp_path / 'csv' / 'labels.csv').write_text('\n'.join(['image,label', *rows]))
    cfg = write(tmp_path / 'coco', tmp_path / 'det.py')
    said = ' '.join(capsys.readouterr().out.split())
    assert '6 file names differ from their files in capitals or accents, and are mended' in said
    check_objects(built(cfg, 'train'), masks=True)
    cfg = write(tmp_path / 'csv', tmp_path / 'cls.py')
    assert len(built(cfg, 'train')) == 4
    made.picture(tmp_path / 'coco' / 'images' / unicodedata.normalize('NFC', names[0]))
    with pytest.raises(DataError, match='1 image that it lists is not there'):  # which one?
        write(tmp_path / 'coco', tmp_path / 'other.py')


def test_annotations_as_windows_writes_them(tmp_path, capsys):
    """Endings in capitals, UTF-16, byte order marks, and lists with endings or blanks in names."""
    made.make_yolo(tmp_path / 'yolo')
    for file in sorted((tmp_path / 'yolo' / 'labels').rglob('*.txt')):
        file.rename(file.with_suffix('.TXT'))
    description = tmp_path / 'yolo' / 'data.yaml'
    description.write_text(f'{description.read_text()}\nnc: 5\n')
    cfg = write(tmp_path / 'yolo', tmp_path / 'y.py')
    assert (len(built(cfg, 'train')), len(built(cfg, 'val'))) == (4, 4)
    said = ' '.join(capsys.readouterr().out.split())
    assert "data.yaml: 'nc' is 5, and there are 2 names" in said
    root = tmp_path / 'voc'
    made.make_voc(root)
    for part in ('JPEGImages/0.jpg', 'Annotations/0.xml'):
        (root / part).rename((root / part).with_stem('Bild 1'))
    file = root / 'Annotations' / '1.xml'
    text = f'<?xml version="1.0" encoding="UTF-16"?>{file.read_text()}'
    file.write_bytes(text.encode('utf-16'))
    lines = ['\ufeffBild 1', '1.jpg', '2  1', '3.jpg -1']
    (root / 'ImageSets' / 'Main' / 'train.txt').write_bytes('\r\n'.join(lines).encode())
    cfg = write(root, tmp_path / 'v.py')
    assert 'Images: 4 train, 2 val; validation given' in capsys.readouterr().out
    assert (len(built(cfg, 'train')), len(built(cfg, 'val'))) == (4, 2)


def test_classes_that_differ_only_in_capitals(tmp_path, capsys):
    made.make_class_folders(tmp_path / 'data', classes=('Cat', 'cat', 'dog'))
    write(tmp_path / 'data', tmp_path / 'r.py')
    said = ' '.join(capsys.readouterr().out.split())
    assert "differ only in capitals, blanks or accents (the first: 'Cat' and 'cat')" in said


def test_boxes_without_area_are_no_objects(tmp_path, capsys):
    made.make_coco(tmp_path / 'data', classes=('cat', ))
    file = tmp_path / 'data' / 'instances.json'
    content = json.loads(file.read_text())
    content['annotations'].append(dict(content['annotations'][0], id=77, bbox=[5, 5, 0, 0]))
    file.write_text(json.dumps(content))
    write(tmp_path / 'data', tmp_path / 'r.py')
    said = ' '.join(capsys.readouterr().out.split())
    assert '1 box without area in its image, left out (the first: annotation 77 of 0.jpg' in said
    assert 'cat 5 + 1' in said


def test_palettes_of_indexed_label_maps(tmp_path):
    """The classes' colours; indices that mean other colours from file to file are no classes."""
    made.make_label_maps(tmp_path / 'a', palette=[1, 2, 3, 250, 128, 7])
    assert write(tmp_path / 'a', tmp_path / 'a.py').palette == [(1, 2, 3), (250, 128, 7)]
    cfg = write(tmp_path / 'a', tmp_path / 'b.py', classes=['x', 'y', 'z'])
    assert len(cfg.palette) == 3  # of three classes the files have two
    made.label_map(tmp_path / 'a' / 'masks' / '0.png', (1, 0), [250, 128, 7, 1, 2, 3])
    cfg = write(tmp_path / 'a', tmp_path / 'c.py')
    assert cfg.classes == ('colour_010203', 'colour_fa8007')
    for entry in map(built(cfg, 'train').get_data_info, range(4)):
        assert made.np.asarray(made.Image.open(entry['seg_map_path']))[0, 0] == 0


@pytest.mark.parametrize(('halves', 'options', 'black'), [
    ((0, 255), {}, [True, False]), ((0, 1), {}, [True, False]), ((0, 255), dict(classes=['tree']),
                                                                 [True, False]),
    ((0, 2), {}, [True, False, False]), ((1, 2), {}, [False, False]),
    ((0, 255), dict(classes=['Background', 'tree']), [True, False]),
    ((0, 1), dict(classes=['sky', 'tree']), [False, False]),
    (((0, 0, 0), (9, 0, 1)), {}, [True, False])])
def test_background_is_black(halves, options, black, tmp_path):
    """And nothing else, so that what is looked for stands out in pictures."""
    made.make_label_maps(tmp_path / 'data', halves, count=3)
    cfg = write(tmp_path / 'data', tmp_path / 'r.py', **options)
    assert [tuple(colour) == (0, 0, 0) for colour in cfg.palette] == black
    assert len(set(map(tuple, cfg.palette))) == len(cfg.classes)


def test_colours_with_names(tmp_path):
    """In the order of the file that names them, whatever occurs first."""
    made.make_label_maps(tmp_path / 'data', ((0, 0, 0), (128, 64, 0)))
    (tmp_path / 'data' / 'class_dict.csv').write_text(
        'name,r,g,b\nroad,128,64,0\nsky,0,0,0\ncar,1,2,3\n')
    cfg = write(tmp_path / 'data', tmp_path / 'r.py')
    assert cfg.classes == ('road', 'sky', 'car')
    assert cfg.palette == [(128, 64, 0), (0, 0, 0), (1, 2, 3)]
    entry = built(cfg, 'train').get_data_info(0)
    pixels = made.np.asarray(made.Image.open(entry['seg_map_path']))
    assert (pixels[0, 0], pixels[-1, -1]) == (1, 0)


def test_names_of_folders_that_only_seem_to_be_classes(tmp_path):
    """Parts are no classes; a folder around all classes is none; a class may be called train."""
    made.make_coco_in_parts(tmp_path / 'coco')
    with pytest.raises(DataError, match='It holds COCO JSON, which is of --task det'):
        write(tmp_path / 'coco', tmp_path / 'r.py', task='cls')
    made.make_class_folders(tmp_path / 'wrapped' / 'all')
    assert write(tmp_path / 'wrapped', tmp_path / 'w.py').classes == made.CLASSES
    made.make_class_folders(tmp_path / 'named', classes=('bus', 'train'))
    assert write(tmp_path / 'named', tmp_path / 'n.py').classes == ('bus', 'train')


def test_what_tools_leave_out_is_added(tmp_path):
    """Areas, crowds, sizes and slashes of a COCO file are written into a new one."""
    made.make_coco(tmp_path / 'data')
    file = tmp_path / 'data' / 'instances.json'
    content = json.loads(file.read_text())
    for one in content['annotations']:
        del one['area'], one['iscrowd']
    for one in content['images']:
        del one['width'], one['height']
        one['file_name'] = 'images\\' + one['file_name']
    file.write_text(json.dumps(content))
    before = file.read_bytes()
    cfg = write(tmp_path / 'data', tmp_path / 'r.py')
    assert check_objects(built(cfg, 'train'), True) == {0, 1}
    assert file.read_bytes() == before


def test_a_first_try_without_a_gpu(tmp_path, monkeypatch, capsys):
    root = tmp_path / 'data'
    made.MAKERS['coco'][0](root)

    def hint(**options):
        new_recipe(str(root), str(tmp_path / 'r.py'), overwrite=True, **options)
        lines = capsys.readouterr().out.splitlines()
        return next((line for line in lines if line.startswith('No GPU here')), '')

    monkeypatch.setattr(command, 'accelerator', lambda: None)
    assert hint().endswith(' For a first try: --arch vssd-nano --epochs 5 --overwrite')
    assert hint(arch='vssd-nano').endswith(' For a first try: --epochs 5 --overwrite')
    assert hint(arch='vssd-nano', epochs=5) == hint(arch='vmamba-nano', epochs=5) == ''
    monkeypatch.setattr(command, 'accelerator', lambda: 'MMEngine runs on cuda')
    assert hint() == ''


def test_background_is_trained_on(tmp_path, capsys):
    made.make_yolo(tmp_path / 'data')
    for name in ('train0', 'train1'):
        (tmp_path / 'data' / 'labels' / 'train' / f'{name}.txt').write_text('')
    cfg = write(tmp_path / 'data', tmp_path / 'r.py')
    assert len(built(cfg, 'train')) == 4
    assert 'Background: 2 images of training have no object' in capsys.readouterr().out


def test_a_checkpoint_of_the_backbone_and_of_another(tmp_path, make):
    root = make('coco')
    backbone = Config.fromfile(configs_dir() / '_base_/backbones/vssd-nano.py').backbone
    weights = {f'backbone.{name}': value for name, value in MODELS.build(
        backbone).state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / 'nano.pth')
    cfg = write(root, tmp_path / 'r.py', checkpoint=str(tmp_path / 'nano.pth'))
    assert cfg.model.backbone.init_cfg == dict(
        type='Pretrained', prefix='backbone.', checkpoint=str(tmp_path / 'nano.pth'))
    for options, message in ((dict(checkpoint='none.pth'), '--checkpoint: none.pth: no such file'),
                             (dict(checkpoint=str(tmp_path / 'nano.pth'), arch='vssd-micro'),
                              'not the weights of this VSSD')):
        with pytest.raises(CheckpointError, match=message):
            write(root, tmp_path / 'other.py', **options)
        assert not (tmp_path / 'other.py').exists()


def test_what_is_there_is_not_replaced(make, tmp_path, monkeypatch, capsys):
    root, out = make('coco'), tmp_path / 'r.py'
    write(root, out)
    text = out.read_bytes()
    with pytest.raises(ConfigError, match='is there already'):
        write(root, out)
    assert out.read_bytes() == text
    former = tmp_path / 'work_dirs' / 'r'
    former.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    write(root, out, overwrite=True, seed=1)
    assert capsys.readouterr().out.endswith(f'tools/train.py {shlex.quote(str(out))}\n')
    (former / 'epoch_1.pth').touch()  # of which a new training would not begin
    write(root, out, overwrite=True, seed=1)
    assert capsys.readouterr().out.endswith(' --work-dir work_dirs/r_2\n')
    assert (tmp_path / 'r_data' / MARK).is_file()
    (tmp_path / 'r_data' / MARK).unlink()  # a folder of the user's own
    before = made.snapshot(tmp_path / 'r_data')
    with pytest.raises(ConfigError, match='r_data.* not made by this command'):
        write(root, out, overwrite=True)
    assert made.snapshot(tmp_path / 'r_data') == before
    assert not list(tmp_path.glob('*.partial*'))


def test_data_of_a_renamed_recipe_are_kept(make, tmp_path, monkeypatch):
    """They are replaced only if that is asked for, and not if something then fails."""
    root, out, folder = make('voc'), tmp_path / 'r.py', tmp_path / 'r_data'
    write(root, out)
    out.rename(tmp_path / 'renamed.py')
    before = made.snapshot(folder)
    with pytest.raises(ConfigError, match=r'converted data of r\.py.*--overwrite'):
        write(root, out)
    assert made.snapshot(folder) == before
    replace = os.replace

    def fail(source, target):
        if target == out:
            raise OSError('no space')
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', fail)
        with pytest.raises(OSError, match='no space'):
            write(root, out, overwrite=True, seed=1)
    assert made.snapshot(folder) == before
    assert not out.exists()
    write(root, out, overwrite=True, seed=1)
    assert made.snapshot(folder) != before
    assert not list(tmp_path.glob('*.partial*'))


def test_a_recipe_within_the_data(make):
    """What is converted comes beside it, in a folder of its own; the rest stays as it is."""
    root = make('voc')
    before = made.snapshot(root)
    cfg = write(root, root / 'recipe.py')
    after = made.snapshot(root)
    assert {path: after[path] for path in before} == before
    assert len(built(cfg, 'train')) == 4
    write(root, root / 'recipe.py', overwrite=True)  # what it wrote itself is no data
    with pytest.raises(ConfigError, match='converted data would replace'):
        write(root / 'recipe_data', root / 'recipe.py', overwrite=True)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(arch='vssd-tinny'), "--arch: got 'vssd-tinny'; did you mean vssd-tiny"),
    (dict(arch='resnet50'), "--arch: got 'resnet50'. Known: vmamba-base"),
    (dict(val_fraction=1.5), '--val-fraction: got 1.5'),
    (dict(epochs=0), '--epochs: got 0'),
    (dict(batch_size=0), '--batch-size: got 0'),
    (dict(seed=-1), '--seed: got -1'),
])
def test_options_that_do_not_fit(options, message, make, tmp_path):
    with pytest.raises(ConfigError, match=message):
        write(make('coco'), tmp_path / 'r.py', **options)
    with pytest.raises(ConfigError, match='ends with .py'):
        write(tmp_path, tmp_path / 'r.txt')
    assert not list(tmp_path.glob('r*'))


def test_schedule_in_the_recipe(make, tmp_path):
    cfg = write(make('class-folders'), tmp_path / 'r.py', epochs=7, batch_size=4)
    assert cfg.train_cfg.max_epochs == 7
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 4
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3 * (4 / 1024) ** 0.5, rel=0.05)
    assert cfg.param_scheduler[1].end == 14  # 8 images, 2 steps an epoch
    assert cfg.val_evaluator.topk == (1, )


#: What lets a training end in seconds: few images, small ones, few regions.
QUICK = {
    'det': ['train_cfg.max_epochs=1', 'train_dataloader.dataset.pipeline.2.scale=(64,64)',
            'val_dataloader.dataset.pipeline.1.scale=(64,64)', 'val_dataloader.num_workers=0',
            'val_dataloader.persistent_workers=False', 'train_dataloader.dataset.indices=2',
            'val_dataloader.dataset.indices=1', 'model.train_cfg.rpn_proposal.max_per_img=20',
            'model.train_cfg.rcnn.sampler.num=16', 'model.test_cfg.rpn.max_per_img=10'],
    'seg': ['train_cfg.max_iters=1', 'train_dataloader.batch_size=2'],
    'cls': ['train_cfg.max_epochs=1'],
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['voc', 'label-maps-colours', 'csv', 'class-folders-arrays'])
def test_it_trains_and_predicts(kind, make, run_tool, tmp_path):
    """By the commands that it names, from another folder."""
    root = make(kind)
    task = made.MAKERS[kind][2]
    pytest.importorskip(HOSTS[task])
    out = run_tool('new_recipe.py', root, '--task', task, '--arch', 'vssd-nano', '--out',
                   'mine/recipe.py')
    assert 'Train with: python tools/train.py mine/recipe.py' in out
    run_tool('train.py', 'mine/recipe.py', '--cfg-options', *QUICK[task],
             'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1')
    (checkpoint, ) = (path for path in (tmp_path / 'work_dirs' / 'recipe').glob('*_1.pth')
                      if not path.name.startswith('best'))
    image = next(path for path in sorted(root.rglob('*')) if path.suffix.lower() in IMAGES)
    run_tool('predict.py', 'mine/recipe.py', checkpoint, image)
    assert (tmp_path / 'predictions' / 'predictions.json').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['labelme', 'yolo-polygons'])
def test_what_is_converted_trains_and_predicts(kind, make, tmp_path, monkeypatch):
    """In this process: the commands themselves are run above."""
    pytest.importorskip('mmdet')
    monkeypatch.chdir(tmp_path)
    root, recipe = make(kind), tmp_path / f'{kind}.py'
    assert write(root, recipe).model.roi_head.mask_head.num_classes == 2
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    options = [*QUICK['det'], 'train_dataloader.num_workers=0',
               'train_dataloader.persistent_workers=False']
    args = parser.parse_args([str(recipe), '--cfg-options', *options])
    runner = build_trainer(load_config(args.config, options=args.cfg_options))
    weight = next(runner.model.rpn_head.parameters())
    before = weight.detach().clone()
    runner.train()
    assert not torch.equal(before, weight)
    (checkpoint, ) = (tmp_path / 'work_dirs' / kind).glob('epoch_1.pth')
    image = next(path for path in root.rglob('*') if path.suffix.lower() == '.jpg')
    file = predict(load_config(args.config, options=args.cfg_options), str(checkpoint), str(image),
                   'predictions', options=Options(score_thr=0, workers=0))
    (entry, ) = json.loads(file.read_text())
    assert {one['category'] for one in entry['instances']} <= set(made.CLASSES)
    assert all('segmentation' in one for one in entry['instances'])
