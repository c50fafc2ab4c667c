"""Classifiers in 8 bits: what the file computes, and when there is none."""
import copy
import importlib
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch

from mmvssd.cli.launch import load_config
from mmvssd.deployment import quantization
from mmvssd.deployment.onnx_models import OnnxModel, to_onnx
from mmvssd.deployment.quantization import Scores, quantize
from mmvssd.errors import ConfigError, DataError, ExportError

RECIPE = 'samples/vssd-nano_1xb64_digits.py'
CLASSES = ['dark', 'light']
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    """A recipe on class folders of dark and of light images, whose sizes differ."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('data')
    random = np.random.default_rng(0)
    for name, least in zip(CLASSES, (0, 140)):
        (folder / name).mkdir()
        for i in range(9):
            side = 32 if i % 2 else 40
            pixels = random.integers(least, least + 110, (side, side, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f'{i}.png'), pixels)
    data = dict(_delete_=True, type='CustomDataset', data_root=str(folder), data_prefix='',
                pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    return load_config(RECIPE, options={'train_dataloader.dataset': data,
                                        'test_dataloader.dataset': data})


class Lightness(torch.nn.Module):
    """Tells light images from dark ones, by what a convolution sums."""

    def __init__(self, normalizes):
        super().__init__()
        self.normalizes = normalizes
        self.conv = torch.nn.Conv2d(3, 8, 3, bias=False)
        self.fc = torch.nn.Linear(8, 2)
        with torch.no_grad():
            self.conv.weight.fill_(0.1)
            self.fc.weight.copy_(torch.tensor([[-0.1], [0.1]]).expand(2, 8))

    def forward(self, images):
        if self.normalizes:
            mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (MEAN, STD))
            images = (images - mean) / std
        return self.fc(self.conv(images).mean((2, 3))).softmax(1)


@pytest.fixture(scope='module', params=[False, True], ids=['normalized', 'normalizes'])
def exported(request, tmp_path_factory):
    """An ONNX file with the metadata of an export."""
    pytest.importorskip('onnxruntime')
    file = tmp_path_factory.mktemp('exported') / 'model.onnx'
    model = Lightness(request.param).eval().requires_grad_(False)
    program = to_onnx(model, torch.rand(2, 3, 32, 32), ['scores'])
    needs = dict(normalizes_itself=request.param, mean=MEAN, std=STD, channels='RGB')
    program.model.metadata_props.update(
        mmvssd_version='0', task='classification', result='scores', classes=json.dumps(CLASSES),
        preprocessing=json.dumps(needs), pipeline='null')
    program.save(file, external_data=False)
    return file


@pytest.mark.filterwarnings('ignore')
def test_eight_bits_name_the_same_classes(recipe, exported, tmp_path, monkeypatch):
    out, said = tmp_path / 'new' / 'int8.onnx', []
    monkeypatch.setattr(quantization, 'print_log', lambda line, **kwargs: said.append(line))
    scores = quantize(recipe, str(exported), str(out), calibration=10, evaluation=16)
    assert said == ['quantizing by at most 10 training images',
                    'running both files on at most 16 test images']
    assert scores == Scores(16, 1.0, 1.0, 1.0)
    assert os.listdir(out.parent) == ['int8.onnx']
    onnx = importlib.import_module('onnx')
    graph = onnx.load(out).graph
    assert any(t.data_type == onnx.TensorProto.INT8 for t in graph.initializer)
    assert {'QuantizeLinear', 'DequantizeLinear'} <= {node.op_type for node in graph.node}
    model = OnnxModel(out)
    said = model.session.get_modelmeta().custom_metadata_map
    assert json.loads(said['classes']) == CLASSES
    images = np.random.default_rng(1).normal(size=(2, 3, 40, 36)).astype(np.float32)
    normalizes = json.loads(said['preprocessing'])['normalizes_itself']
    given = images * 60 + 115 if normalizes else images
    assert np.abs(model(given)[0] - OnnxModel(exported)(given)[0]).max() < 0.05


@pytest.mark.filterwarnings('ignore')
def test_a_loss_beyond_the_bar_leaves_nothing(recipe, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, '_compare', lambda *args: Scores(16, 0.9, 0.8, 0.8))
    with pytest.raises(ExportError, match=r'16 images top-1 falls from 90.00% to 80.00%, and '
                                          r'1.00% is allowed'):
        quantize(recipe, str(exported), str(tmp_path / 'int8.onnx'), calibration=2)
    assert not os.listdir(tmp_path)
    # just the loss that is allowed, of which float makes more
    monkeypatch.setattr(quantization, '_compare', lambda *args: Scores(100, 0.73, 0.72, 0.9))
    quantize(recipe, str(exported), str(tmp_path / 'int8.onnx'), calibration=2, max_loss=0.01)


@pytest.mark.filterwarnings('ignore')
def test_wrapped_data_and_faulty_data(recipe, exported, tmp_path):
    """Wrappers are looked through; an image that is broken is named, and not taken for --out."""
    out = str(tmp_path / 'int8.onnx')
    wrapped = copy.deepcopy(recipe)
    for phase in ('train', 'test'):
        loader = wrapped[f'{phase}_dataloader']
        loader['dataset'] = dict(type='RepeatDataset', times=2, dataset=loader['dataset'])
    assert quantize(wrapped, str(exported), out, calibration=3, evaluation=40).images == 18
    shutil.copytree(recipe.test_dataloader.dataset.data_root, tmp_path / 'data')
    (tmp_path / 'data' / 'dark' / '3.png').write_text('broken')
    for phase in ('train', 'test'):
        faulty = copy.deepcopy(recipe)
        faulty[f'{phase}_dataloader']['dataset']['data_root'] = str(tmp_path / 'data')
        with pytest.raises(DataError, match=r'dark/3\.png'):
            quantize(faulty, str(exported), str(tmp_path / 'other.onnx'))
    with pytest.raises(ConfigError, match='--max-loss: got nan'):
        quantize(recipe, str(exported), out, max_loss=float('nan'))
    assert sorted(os.listdir(tmp_path)) == ['data', 'int8.onnx']


@pytest.mark.filterwarnings('ignore')
def test_what_does_not_fit(recipe, exported, tmp_path):
    out = str(tmp_path / 'int8.onnx')
    (tmp_path / 'text.onnx').write_text('no model')
    onnx = importlib.import_module('onnx')
    bare = onnx.load(exported)
    said = {entry.key: entry.value for entry in bare.metadata_props}

    def with_metadata(name, **changes):
        del bare.metadata_props[:]
        onnx.helper.set_model_props(bare, {**said, **changes} if changes else {})
        onnx.save(bare, tmp_path / name)
        return str(tmp_path / name)

    def half_said():
        del bare.metadata_props[:]
        onnx.helper.set_model_props(bare, {'mmvssd_version': '0'})
        onnx.save(bare, tmp_path / 'half.onnx')
        return str(tmp_path / 'half.onnx')

    for file, message in ((str(tmp_path / 'none.onnx'), 'no such file'),
                          (str(tmp_path / 'text.onnx'), 'onnxruntime cannot read it'),
                          (with_metadata('bare.onnx'), 'a file of tools/deployment/export.py'),
                          (half_said(), 'says nothing of task'),
                          (with_metadata('seg.onnx', task='segmentation'), 'does segmentation')):
        with pytest.raises(ConfigError, match=message) as raised:
            quantize(recipe, file, out)
        assert file in str(raised.value)
    with pytest.raises(ConfigError, match=r'ends with \.onnx'):
        quantize(recipe, str(exported), str(tmp_path / 'int8'))
    with pytest.raises(ConfigError, match='name another'):
        quantize(recipe, str(exported), str(exported))
    with pytest.raises(DataError, match='knows 3 classes, the recipe'):
        quantize(recipe, with_metadata('three.onnx', classes='["a", "b", "c"]'), out)
    with pytest.raises(ConfigError, match='recipe of a classifier'):
        quantize(load_config('samples/upernet_vssd-nano_1xb8_digits.py'), str(exported), out)
    quantize(recipe, str(exported), out, calibration=2, max_loss=1)
    with pytest.raises(ConfigError, match='quantized already'):
        quantize(recipe, out, str(tmp_path / 'again.onnx'))
