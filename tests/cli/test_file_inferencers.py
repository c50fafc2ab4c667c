"""Exported files predict as their checkpoints do, and need neither mmcv nor the hosts."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as coco_mask

import mmvssd
import mmvssd_kernels
from mmvssd.cli.file_inferencers import file_inferencer
from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import Options, predict, predict_with_file
from mmvssd.deployment.export import export
from mmvssd.errors import ConfigError, DataError
from mmvssd.paths import project_root

for package in ('onnx', 'onnxscript', 'onnxruntime', 'mmdet', 'mmseg', 'mmpretrain'):
    pytest.importorskip(package)
if not hasattr(torch.export.Dim, 'DYNAMIC'):
    pytest.skip('this PyTorch cannot leave sizes open', allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore')]
#: A backbone of a block, and a stage that only halves the grid, which is exported in seconds.
SMALLER = {'model.backbone.arch': dict(embed_dims=8, depths=(1, 0), num_heads=(1, 1)),
           'model.backbone.out_indices': (0, 1), 'model.backbone.init_cfg': None}
RECIPES = {
    'detector': ('samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py', {
        'model.neck.in_channels': [8, 16], 'model.neck.num_outs': 3,
        'model.rpn_head.anchor_generator.strides': [4, 8, 16],
        'model.roi_head.bbox_roi_extractor.featmap_strides': [4, 8],
        'model.roi_head.mask_roi_extractor.featmap_strides': [4, 8]}),
    # its pipeline resizes, as that of ADE20K
    'segmentor': ('samples/upernet_vssd-nano_1xb8_digits.py', {
        'model.decode_head': dict(
            _delete_=True, type='FCNHead', in_channels=16, in_index=1, channels=8, num_convs=1,
            num_classes=11, align_corners=False, norm_cfg=dict(type='BN')),
        'model.auxiliary_head': None,
        'test_dataloader.dataset.pipeline': [
            dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 64), keep_ratio=True),
            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]}),
    'classifier': ('samples/vssd-nano_1xb64_digits.py', {
        'model.backbone.out_indices': (1, ), 'model.head.in_channels': 16,
        'data_preprocessor.pad_size_divisor': 48,
        'test_dataloader.dataset.pipeline': [
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=72, edge='short', backend='pillow',
                 interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=64), dict(type='PackInputs')]})}
#: Weights so large that results differ from image to image.
FACTORS = {'detector': {'rpn_head.rpn_cls': 60, 'rpn_head.rpn_reg': 40,
                        'roi_head.bbox_head.fc_cls': 300, 'roi_head.bbox_head.fc_reg': 100},
           'segmentor': {'decode_head.conv_seg': 30}, 'classifier': {'head.fc': 30}}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A recipe, a checkpoint and a file of each host, and images of several shapes."""
    folder = tmp_path_factory.mktemp('exported')
    (folder / 'images').mkdir()
    random = np.random.default_rng(0)
    for name, size in (('a.png', (150, 200)), ('b.jpg', (210, 170)), ('c.png', (64, 64))):
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        cv2.imwrite(str(folder / 'images' / name), cv2.resize(coarse, size[::-1]))
    return folder


@pytest.fixture(scope='module')
def made(folder):
    """Give the recipe, the checkpoint and the file of a kind of model."""
    kinds = {}

    def make(kind):
        if kind not in kinds:
            recipe, options = RECIPES[kind]
            cfg = load_config(recipe, options={**SMALLER, **options})
            init_default_scope(cfg.default_scope)
            torch.manual_seed(0)
            model = MODELS.build(cfg.model)
            with torch.no_grad():
                for name, factor in FACTORS[kind].items():
                    model.get_submodule(name).weight.normal_(0, 0.01).mul_(factor)
            checkpoint, file = str(folder / f'{kind}.pth'), str(folder / f'{kind}.onnx')
            torch.save(dict(state_dict=model.state_dict()), checkpoint)
            export(cfg, checkpoint, file, to='onnx',
                   images=[str(folder / 'images')] if kind == 'detector' else (),
                   result='logits' if kind == 'segmentor' else '')
            kinds[kind] = cfg, checkpoint, file
        init_default_scope(kinds[kind][0].default_scope)
        return kinds[kind]

    return make


def read(file):
    return json.loads(Path(file).read_text())


def found(entry):
    (kind, ) = set(entry) - {'image'}
    return entry[kind]


@pytest.mark.parametrize('kind', RECIPES)
def test_the_json_of_the_checkpoint(made, folder, tmp_path, kind):
    cfg, checkpoint, file = made(kind)
    images = str(folder / 'images')
    expected = read(predict(cfg, checkpoint, images, str(tmp_path / 'a'), device='cpu',
                            options=Options(score_thr=0.05)))
    entries = read(predict_with_file(file, images, str(tmp_path / 'b'),
                                     options=Options(score_thr=0.05, batch_size=2)))
    assert [entry['image'] for entry in entries] == [entry['image'] for entry in expected]
    for entry, true in zip(entries, expected):
        assert len(found(true)) > 1
        assert [own['category'] for own in found(entry)] == [
            own['category'] for own in found(true)]
        for own, other in zip(found(entry), found(true)):
            assert own.keys() == other.keys()
            for name, bar in (('score', 1e-5), ('share', 1e-4), ('bbox', 1e-3)):
                assert own.get(name) == pytest.approx(other.get(name), abs=bar)
            if 'segmentation' in own:
                masks = [coco_mask.decode(it['segmentation']) for it in (own, other)]
                assert masks[0].shape == masks[1].shape
                assert np.mean(masks[0] != masks[1]) <= 1e-4
    for name in os.listdir(tmp_path / 'a' / 'pictures'):
        pictures = [cv2.imread(str(tmp_path / run / 'pictures' / name)) for run in 'ab']
        assert pictures[0].shape == pictures[1].shape
        apart = np.abs(pictures[0].astype(int) - pictures[1])
        # the hosts' colors of masks are random, and the names of segments half transparent
        assert np.mean(apart) < dict(classifier=1, detector=40, segmentor=10)[kind]
    assert len(os.listdir(tmp_path / 'b' / 'pictures')) == 3


BLOCKED = """
import runpy, sys
from pathlib import Path
for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision', 'pycocotools', 'onnx',
             'onnxscript', 'sklearn', 'numba', 'triton'):
    sys.modules[name] = None
images, *files = sys.argv[1:]
import mmvssd
package = Path(mmvssd.__file__).parent
print(package)
assert not (package.parent / 'tools').exists()
for number, file in enumerate(files):
    sys.argv = ['', '--model', file, images, '--out-dir', str(number), '--score-thr', '0.05']
    runpy.run_module('mmvssd.predict', run_name='__main__')
"""


def test_neither_mmcv_nor_a_host_is_needed(made, folder, tmp_path):
    """In a fresh process and a foreign folder, where their import fails, and without ``tools``."""
    files = [made(kind)[2] for kind in RECIPES]
    installed = tmp_path / 'installed'
    for package in (mmvssd, mmvssd_kernels):
        source = Path(package.__file__).parent
        shutil.copytree(source, installed / source.name,
                        ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    done = subprocess.run(
        [sys.executable, '-c', BLOCKED, folder / 'images', *files], cwd=tmp_path, text=True,
        capture_output=True, check=False, env=dict(os.environ, PYTHONPATH=str(installed)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(installed / 'mmvssd')
    for number, file in enumerate(files):
        here = predict_with_file(file, str(folder / 'images'), str(tmp_path / 'here'),
                                 options=Options(score_thr=0.05))
        assert read(tmp_path / str(number) / 'predictions.json') == read(here)


def test_openvino(made, folder, tmp_path):
    pytest.importorskip('openvino')
    cfg, checkpoint, file = made('classifier')
    export(cfg, checkpoint, str(tmp_path / 'model.xml'), to='openvino')
    images = str(folder / 'images')
    entries, expected = (read(predict_with_file(str(model), images, str(tmp_path / 'out')))
                         for model in (tmp_path / 'model.xml', file))
    for entry, true in zip(entries, expected):
        assert [own['category'] for own in entry['classes']] == [
            own['category'] for own in true['classes']]
        assert entry['classes'][0]['score'] == pytest.approx(true['classes'][0]['score'], abs=1e-5)
    (tmp_path / 'model.bin').unlink()
    with pytest.raises(ConfigError, match=r'model.xml: openvino cannot read it'):
        file_inferencer(str(tmp_path / 'model.xml'), 0.3)


@pytest.mark.parametrize('name', ['a.png', 'b.jpg'])
def test_an_example_with_numpy_and_pillow(made, folder, tmp_path, monkeypatch, capsys, name):
    """The docs' example of a classifier resizes and crops as the recipe, and finds the same."""
    _, _, file = made('classifier')
    monkeypatch.chdir(tmp_path)
    Path('model.onnx').symlink_to(file)
    Path('photo.jpg').symlink_to(folder / 'images' / name)
    page = (project_root() / 'docs' / 'deployment.md').read_text()
    example = next(block for block in re.findall(r'```python\n(.*?)```', page, re.DOTALL)
                   if "'ResizeEdge'" in block)
    assert 'cv2' not in example
    assert 'torch' not in example
    names = {}
    exec(compile(example, 'deployment.md', 'exec'), names)
    (entry, ) = read(predict_with_file(file, 'photo.jpg', 'out'))
    best = entry['classes'][0]
    assert names['classes'][names['best']] == best['category']
    assert names['scores'].max() == pytest.approx(best['score'], abs=4e-6)


def test_an_example_with_numpy_and_opencv(made, folder, tmp_path, monkeypatch):
    """The docs' example finds what the file finds."""
    _, _, file = made('detector')
    monkeypatch.chdir(tmp_path)
    Path('detector.onnx').symlink_to(file)
    cv2.imwrite('photo.jpg', cv2.imread(str(folder / 'images' / 'b.jpg')))
    page = (project_root() / 'docs' / 'deployment.md').read_text()
    (example, ) = (block for block in re.findall(r'```python\n(.*?)```', page, re.DOTALL)
                   if 'detector.onnx' in block)
    assert len(example.splitlines()) <= 50
    names = {}
    exec(compile(example, 'deployment.md', 'exec'), names)
    (entry, ) = read(predict_with_file(file, 'photo.jpg', 'out'))
    above = names['scores'] >= 0.3
    assert above.sum() == len(entry['instances']) > 0
    assert np.allclose(names['boxes'][above], [own['bbox'] for own in entry['instances']])
    assert [names['classes'][label] for label in names['labels'][above]] == [
        own['category'] for own in entry['instances']]
    last = coco_mask.decode(entry['instances'][-1]['segmentation'])
    # OpenCV places pixels to a 32nd of a cell
    assert np.mean((names['inside'] >= 0.5) != last) < 1e-3
    assert np.any(cv2.imread('found.png') != cv2.imread('photo.jpg'))


def changed(file, to, **facts):
    """Copy an ONNX file with other metadata; None takes one out."""
    import onnx
    model = onnx.load(file)
    kept = {entry.key: entry.value for entry in model.metadata_props} | facts
    onnx.helper.set_model_props(model, {name: value for name, value in kept.items()
                                        if value is not None})
    onnx.save(model, to)
    return str(to)


def test_files_that_are_not_ours(made, tmp_path):
    _, _, file = made('classifier')
    (tmp_path / 'text.onnx').write_text('no model')
    for name, reason in (('none.onnx', 'no such file'), ('weights.pth', 'ends with .onnx or .xml'),
                         ('text.onnx', 'onnxruntime cannot read it')):
        with pytest.raises(ConfigError, match=f'--model: .*{name}.*{reason}') as caught:
            file_inferencer(str(tmp_path / name), 0.3)
        assert '\n' not in str(caught.value)
    pipeline = json.dumps([dict(type='LoadImageFromFile'), dict(type='Pad', size=(3, 3))])
    channels = json.dumps(dict(channels=None, normalizes_itself=True))
    for facts, reason in (
            (dict(task=None, pipeline=None), 'says nothing of task, pipeline; is it a file of'),
            (dict(task='sorting'), 'is of the task sorting, expected one of detection, segm'),
            (dict(result='logits'), 'gives logits; export with --result scores'),
            (dict(pipeline=pipeline), "'Pad'.* with the steps Resize, ResizeEdge"),
            (dict(preprocessing=channels), 'unknown channels'),
            (dict(preprocessing='7'), 'its preprocessing is 7, which no file')):
        with pytest.raises(ConfigError, match=reason):
            file_inferencer(changed(file, tmp_path / 'changed.onnx', **facts), 0.3)


def test_a_detector_of_cropped_images(made, tmp_path):
    """Its boxes would be at another place."""
    _, _, file = made('detector')
    pipeline = json.dumps([dict(type='LoadImageFromFile'), dict(type='Resize', scale=(90, 90)),
                           dict(type='CenterCrop', crop_size=64)])
    with pytest.raises(ConfigError, match='its pipeline has CenterCrop'):
        file_inferencer(changed(file, tmp_path / 'cropped.onnx', pipeline=pipeline), 0.3)


def test_an_image_that_the_file_does_not_take(made, folder, tmp_path):
    """The others are done, and it is told in a line."""
    _, _, file = made('detector')
    images = tmp_path / 'images'
    images.mkdir()
    cv2.imwrite(str(images / 'a.png'), np.zeros((1, 900, 3), np.uint8))
    cv2.imwrite(str(images / 'b.png'), cv2.imread(str(folder / 'images' / 'a.png')))
    (images / 'c.png').write_bytes(b'\x89PNG\r\n')
    with pytest.raises(DataError, match='2 of 3 images were left out') as caught:
        predict_with_file(file, str(images), str(tmp_path / 'out'))
    first, second = str(caught.value).splitlines()[1:]
    assert 'a.png: has 900 x 1 pixels, of which the recipe' in first
    assert 'c.png: cannot be read as an image' in second
    assert [Path(entry['image']).name
            for entry in read(tmp_path / 'out' / 'predictions.json')] == ['b.png']
