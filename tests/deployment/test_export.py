"""Exported files: what they compute, what they say of themselves, and when there is none."""
import copy
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvssd.cli import file_inferencers
from mmvssd.cli.launch import load_config
from mmvssd.deployment import export as exporting
from mmvssd.deployment.export import DEPLOYED, METADATA, SHAPES, TARGETS, Target, export
from mmvssd.deployment.exported import Exported
from mmvssd.deployment.models import LABEL_BAR, DeployedClassifier, difference
from mmvssd.errors import CheckpointError, ConfigError, ExportError
from mmvssd.palettes import is_palette
from mmvssd.paths import project_root

open_sizes = pytest.mark.skipif(not hasattr(torch.export.Dim, 'DYNAMIC'),
                                reason='this PyTorch cannot leave sizes open')
DOCS = project_root() / 'docs' / 'deployment.md'
RECIPES = {'mmdet': 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
           'mmseg': 'samples/upernet_vmamba-nano_1xb8_digits.py',
           'mmpretrain': 'samples/vmamba-nano_1xb64_digits.py'}
#: Settings of a classifier and of a segmentor of one block, which scans in one order.
SMALLER = {
    'mmpretrain': {
        'model.backbone.arch': dict(embed_dims=8, depths=(1, ), pattern='unidirectional'),
        'model.backbone.out_indices': (0, ), 'model.head.in_channels': 8},
    'mmseg': {
        'model.backbone.arch': dict(embed_dims=8, depths=(1, 0), pattern='unidirectional'),
        'model.backbone.out_indices': (0, 1),
        'model.decode_head.in_channels': [8, 16], 'model.decode_head.in_index': [0, 1],
        'model.auxiliary_head.in_channels': 8, 'model.auxiliary_head.in_index': 0}}
DIGITS = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine']


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    """Recipes by host, with weights as they are drawn."""
    made = {}

    def make(host):
        pytest.importorskip(host)
        if host not in made:
            cfg = load_config(RECIPES[host], options=SMALLER.get(host))
            init_default_scope(cfg.default_scope)
            torch.manual_seed(0)
            model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
            file = tmp_path_factory.mktemp('untrained') / 'weights.pth'
            torch.save(dict(state_dict=model.state_dict()), file)
            made[host] = cfg, str(file), model.eval()
        init_default_scope(made[host][0].default_scope)
        return made[host]

    return make


@open_sizes
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_a_classifier_that_normalizes(untrained, tmp_path, monkeypatch, capsys):
    """Its file gives the scores of pixels, and says how to read it."""
    runtime = pytest.importorskip('onnxruntime')
    cfg, checkpoint, model = untrained('mmpretrain')
    file = tmp_path / 'new folder' / 'digits.onnx'
    comparisons = export(cfg, checkpoint, str(file), to='onnx', normalizes=True)
    assert [shape[0] for shape, *_ in comparisons] == [shape[0] for shape in SHAPES]
    assert max(differences['scores'] for *_, differences in comparisons) <= 1e-5
    assert os.listdir(file.parent) == ['digits.onnx']

    session = runtime.InferenceSession(file, providers=['CPUExecutionProvider'])
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 72, 64)).astype(np.float32)
    scores, = session.run(['scores'], dict(images=pixels))
    assert np.allclose(scores.sum(1), 1)
    mean, std = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    normalized = (torch.from_numpy(pixels) - torch.tensor(mean)[:, None, None]) / torch.tensor(
        std)[:, None, None]
    with torch.no_grad():
        truth = model(normalized).softmax(1).numpy()
    assert np.abs(scores - truth).max() <= 1e-5 * truth.max()

    # the docs' example runs on it, and finds the same
    monkeypatch.chdir(file.parent)
    file.rename('model.onnx')
    cv2.imwrite('pixels.png', pixels[0, ::-1].transpose(1, 2, 0))
    os.rename('pixels.png', 'photo.jpg')  # a PNG, which keeps values
    example, *_ = re.findall(r'```python\n(import json.*?)```', DOCS.read_text(), re.DOTALL)
    exec(compile(example, str(DOCS), 'exec'), {})
    name, score = capsys.readouterr().out.split()[-2:]
    assert name == DIGITS[scores[0].argmax()]
    assert float(score) == pytest.approx(scores[0].max(), rel=1e-5)

    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said['classes']) == DIGITS
    assert said['task'] == 'classification'
    preprocessing = json.loads(said['preprocessing'])
    assert preprocessing == dict(
        layout='NCHW', dtype='float32', channels='RGB', normalizes_itself=True,
        mean=pytest.approx(mean), std=pytest.approx(std))


@open_sizes
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_a_segmentor(untrained, tmp_path):
    """Its results have the size of any images, which it pads as its recipe does."""
    runtime = pytest.importorskip('onnxruntime')
    cfg, checkpoint, model = untrained('mmseg')
    file = tmp_path / 'scenes.onnx'
    cfg = copy.deepcopy(cfg)
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    export(cfg, checkpoint, str(file), to='onnx', result='scores')
    images = torch.randn(2, 3, 80, 61)
    with torch.no_grad():
        padded = torch.nn.functional.pad(images, (0, 3, 0, 16))
        logits = torch.nn.functional.interpolate(
            model(padded), size=(96, 64), mode='bilinear', align_corners=False)[..., :80, :61]
    session = runtime.InferenceSession(file, providers=['CPUExecutionProvider'])
    scores, = session.run(['scores'], dict(images=images.numpy()))
    truth = logits.softmax(1).numpy()
    assert np.abs(scores - truth).max() <= 1e-5 * truth.max()
    assert len(np.unique(truth.argmax(1))) > 1


RUN = """
import json, sys
for name in ('mmvssd', 'mmvssd_kernels', 'mmengine', 'mmcv', 'mmpretrain'):
    sys.modules[name] = None
import torch
said = {sys.argv[2]: ''}
program = torch.export.load(sys.argv[1], extra_files=said)
torch.manual_seed(0)
print(json.loads(said[sys.argv[2]])['classes'])
print(program.module()(torch.randn(1, 3, 64, 90)).tolist())
"""


@open_sizes
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_a_program_needs_nothing_of_the_project(untrained, tmp_path):
    cfg, checkpoint, model = untrained('mmpretrain')
    file = tmp_path / 'digits.pt2'
    export(cfg, checkpoint, str(file), to='torch', result='logits')
    done = subprocess.run([sys.executable, '-c', RUN, file, METADATA], text=True, cwd=tmp_path,
                          stdout=subprocess.PIPE, check=True)
    classes, logits = done.stdout.splitlines()
    assert json.loads(classes) == DIGITS
    torch.manual_seed(0)
    with torch.no_grad():
        truth = model(torch.randn(1, 3, 64, 90))
    torch.testing.assert_close(torch.tensor(json.loads(logits)), truth)


@open_sizes
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_openvino(untrained, tmp_path):
    openvino = pytest.importorskip('openvino')
    cfg, checkpoint, _ = untrained('mmpretrain')
    file = tmp_path / 'digits.xml'
    export(cfg, checkpoint, str(file), to='openvino')
    assert sorted(os.listdir(tmp_path)) == ['digits.bin', 'digits.xml']
    said = openvino.Core().read_model(file).get_rt_info([METADATA]).astype(str)
    assert json.loads(json.loads(said)['classes']) == DIGITS


def stand_in(monkeypatch, write=None, wrong=0.):
    """A target without an exporter, whose results are wrong by so much."""
    models = []

    def keep(model, images, metadata, folder):
        models.append(model)
        (folder / 'model.onnx').write_text('exported')
        return folder / 'model.onnx'

    def load(file):
        assert file.read_text() == 'exported'
        return lambda images: [models[0](torch.from_numpy(images)).numpy() + wrong]

    monkeypatch.setitem(TARGETS, 'onnx', Target((), '.onnx', write or keep, load))


@pytest.mark.parametrize('wrong', [1e-4, float('nan')])
def test_what_deviates_is_not_written(untrained, tmp_path, monkeypatch, wrong):
    cfg, checkpoint, _ = untrained('mmpretrain')
    file, said = tmp_path / 'digits.onnx', []
    stand_in(monkeypatch)
    monkeypatch.setattr(exporting, 'print_log', lambda line, **kwargs: said.append(line))
    export(cfg, checkpoint, str(file), to='onnx')
    assert said == ['exporting ImageClassifier to onnx; a large model takes minutes',
                    'comparing the file with the model on 3 examples']
    assert file.read_text() == 'exported'
    file.write_text('of before')
    stand_in(monkeypatch, wrong=wrong)
    with pytest.raises(ExportError, match=r'digits.onnx is not written: .* deviates by .* 1e-05'):
        export(cfg, checkpoint, str(file), to='onnx')
    assert os.listdir(tmp_path) == ['digits.onnx']
    assert file.read_text() == 'of before'


def test_rounding_of_float32_is_no_deviation(untrained, tmp_path, monkeypatch):
    """A deep model's own results may be as far from float64 as its export's."""
    cfg, checkpoint, _ = untrained('mmpretrain')
    stand_in(monkeypatch, wrong=1e-4)
    monkeypatch.setattr(DeployedClassifier, 'rounding', lambda *args: dict(scores=1e-3))
    first, *_ = export(cfg, checkpoint, str(tmp_path / 'digits.onnx'), to='onnx')
    assert first.differences['scores'] > 1e-5
    assert os.listdir(tmp_path) == ['digits.onnx']


@pytest.mark.parametrize(('error', 'raised', 'message'), [
    (KeyboardInterrupt(), KeyboardInterrupt, ''),
    (OSError(28, 'No space left on device'), ConfigError, 'cannot be written .*No space'),
    (ValueError('No ONNX function found\nfor it'), ExportError,
     'ImageClassifier cannot be exported: ValueError: No ONNX function found$')])
def test_an_export_that_ends_early_leaves_nothing(untrained, tmp_path, monkeypatch, error, raised,
                                                  message):
    cfg, checkpoint, _ = untrained('mmpretrain')

    def write(model, images, metadata, folder):
        (folder / 'model.onnx').write_text('half')
        raise error

    stand_in(monkeypatch, write)
    with pytest.raises(raised, match=message):
        export(cfg, checkpoint, str(tmp_path / 'digits.onnx'), to='onnx')
    assert os.listdir(tmp_path) == []


def test_what_does_not_fit(untrained, tmp_path, monkeypatch):
    cfg, checkpoint, _ = untrained('mmpretrain')
    stand_in(monkeypatch)
    out = str(tmp_path / 'digits.onnx')
    with pytest.raises(ConfigError, match=r'--out: got .*digits.xml, expected .* ends with .onnx'):
        export(cfg, checkpoint, str(tmp_path / 'digits.xml'), to='onnx')
    with pytest.raises(ConfigError, match="--result: .*'labels'.*scores, logits"):
        export(cfg, checkpoint, out, to='onnx', result='labels')
    with pytest.raises(ConfigError, match='--result: .*without-post-processing is for detectors'):
        export(cfg, checkpoint, out, to='onnx', result='raw')
    with pytest.raises(ConfigError, match='--images: detectors .* the recipe is of mmpretrain'):
        export(cfg, checkpoint, out, to='onnx', images=['photo.jpg'])
    with pytest.raises(CheckpointError, match='none.pth'):
        export(cfg, str(tmp_path / 'none.pth'), out, to='onnx')
    monkeypatch.setattr(exporting, 'require', lambda *names: (_ for _ in ()).throw(
        ConfigError('onnx is not installed')))
    with pytest.raises(ConfigError, match='is not installed'):
        export(cfg, checkpoint, out, to='onnx')
    assert os.listdir(tmp_path) == []


def test_scores_that_are_no_softmax(untrained, tmp_path, monkeypatch):
    cfg, checkpoint, model = untrained('mmpretrain')
    stand_in(monkeypatch)
    monkeypatch.setattr(type(model.head), '_get_predictions', lambda *args: None)
    with pytest.raises(ExportError, match='LinearClsHead: .* --result logits'):
        export(cfg, checkpoint, str(tmp_path / 'digits.onnx'), to='onnx')
    export(cfg, checkpoint, str(tmp_path / 'digits.onnx'), to='onnx', result='logits')


SIZES = {'model.data_preprocessor.test_cfg': dict(size=(170, 120)),
         'model.data_preprocessor.pad_val': 3.}
DIVISOR = {'model.data_preprocessor.test_cfg': dict(size_divisor=32)}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('options', [{}, SIZES, DIVISOR], ids=str)
@pytest.mark.parametrize('normalizes', [False, True])
def test_the_segmentors_own_maps(options, normalizes):
    """As the host's step of testing has them, padded as its preprocessor does."""
    structures = pytest.importorskip('mmseg.structures')
    cfg = load_config(RECIPES['mmseg'], options={'model.backbone.init_cfg': None, **options})
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    for size in ((160, 100), (97, 128)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        sample = structures.SegDataSample(metainfo=dict(ori_shape=size, img_shape=size))
        pixels = image.flip(0)[None].float()
        with torch.no_grad():
            found, = model.test_step(dict(inputs=[image], data_samples=[sample]))
            for result, true in (('labels', found.pred_sem_seg.data),
                                 ('logits', found.seg_logits.data[None])):
                deployed = DEPLOYED['mmseg'](copy.deepcopy(model), result, normalizes)
                own = deployed(deployed.prepared(pixels))
                for values in (own.numpy(), *deployed.truth(pixels)):
                    assert difference(values, true.numpy()) <= 1e-5


@pytest.mark.filterwarnings('ignore')
def test_sliding_windows(untrained, tmp_path, monkeypatch):
    """The file takes whole images, which the export, the file and its inferencer tell."""
    cfg, checkpoint, _ = untrained('mmseg')
    cfg = copy.deepcopy(cfg)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(48, 48))
    said = {}

    def write(model, images, metadata, folder):
        said.update(metadata)
        keep(model, images, metadata, folder)
        return folder / 'model.onnx'

    stand_in(monkeypatch)
    keep = TARGETS['onnx'].write
    monkeypatch.setitem(TARGETS, 'onnx', TARGETS['onnx']._replace(write=write))
    lines = []
    monkeypatch.setattr(exporting, 'print_log', lambda text, **kwargs: lines.append(text))
    monkeypatch.setattr(file_inferencers, 'print_log', lambda text, **kwargs: lines.append(text))
    # the comparison is with whole images
    export(cfg, checkpoint, str(tmp_path / 'scenes.onnx'), to='onnx')
    assert json.loads(said['windows']) == dict(crop_size=[64, 64], stride=[48, 48])
    facts = {name: value if name in ('result', 'task') else json.loads(value)
             for name, value in said.items() if name not in ('mmvssd_version', 'checkpoint')}
    file_inferencers.FileSegmentor('scenes.onnx', Exported(None, ['labels'], facts), 0.3)
    told = [line for line in lines if 'sliding windows' in line]
    assert len(told) == 2
    assert all('whole images' in line for line in told)


@pytest.mark.parametrize('result', ['scores', 'logits'])
@pytest.mark.parametrize('options', [{}, dict(pad_size_divisor=48, pad_value=2)], ids=str)
def test_the_classifiers_own_scores(options, result):
    pytest.importorskip('mmpretrain')
    _, kept = classifier(mean=[120.] * 3, std=[60.] * 3, to_rgb=True, **options)
    image = torch.randint(0, 256, (3, 80, 50), dtype=torch.uint8)
    pixels = image.flip(0)[None].float()
    with torch.no_grad():
        sample, = kept.model.test_step(dict(inputs=[image]))
        logits = kept.model(kept.model.data_preprocessor(dict(inputs=[image]))['inputs'])
    true = dict(scores=sample.pred_score[None], logits=logits)[result]
    deployed = DEPLOYED['mmpretrain'](kept.model, result, False)
    with torch.no_grad():
        assert torch.equal(torch.from_numpy(deployed.truth(pixels)[0]), true)
        own = deployed(deployed.prepared(pixels))
    assert difference(own.numpy(), true.numpy()) <= 1e-5


def test_the_hosts_results_are_what_counts(untrained, tmp_path, monkeypatch):
    """A form that leaves the host's padding out is found, though its file agrees with it."""
    cfg, checkpoint, _ = untrained('mmpretrain')
    cfg = copy.deepcopy(cfg)
    cfg.data_preprocessor.update(pad_size_divisor=64, pad_value=5.)
    stand_in(monkeypatch)
    export(cfg, checkpoint, str(tmp_path / 'digits.onnx'), to='onnx')
    stand_in(monkeypatch)
    monkeypatch.setattr(DeployedClassifier, '_padded', lambda self, images: images)
    with pytest.raises(ExportError, match='others.onnx is not written: .* in scores'):
        export(cfg, checkpoint, str(tmp_path / 'others.onnx'), to='onnx')
    assert os.listdir(tmp_path) == ['digits.onnx']


def test_models_of_another_form(untrained):
    """Whatever they compute, it would not be the host's prediction."""
    _, _, model = untrained('mmseg')
    head = type(model.decode_head)
    for change, reason in (
            (lambda own: delattr(own, 'decode_head'), 'EncoderDecoder: has no decode_head'),
            (lambda own: setattr(own.decode_head, '__class__', type(
                'MaskHead', (head, ), dict(predict=head.loss))),
             'its decode_head is a MaskHead, which predicts in a way of its own')):
        own = copy.deepcopy(model)
        change(own)
        with pytest.raises(ExportError, match=reason):
            DEPLOYED['mmseg'](own, 'labels', False)
    _, _, model = untrained('mmpretrain')
    own = copy.deepcopy(model)
    own.head = None
    with pytest.raises(ExportError, match='ImageClassifier: has no head'):
        DEPLOYED['mmpretrain'](own, 'logits', False)


@pytest.mark.filterwarnings('ignore')
def test_labels_are_those_of_the_largest_score(untrained):
    """At the images' size; one wrong label in a hundred is beyond the bar."""
    _, _, model = untrained('mmseg')
    images = torch.randn(1, 3, 64, 61)
    with torch.no_grad():
        scores = DEPLOYED['mmseg'](copy.deepcopy(model), 'scores', False)(images)
        labels = DEPLOYED['mmseg'](copy.deepcopy(model), 'labels', False)(images)
    assert labels.shape == (1, 64, 61)
    assert torch.equal(labels, scores.argmax(1))
    wrong = labels.numpy().copy()
    wrong.flat[::100] += 1
    assert difference(labels.numpy(), labels.numpy()) == 0
    assert difference(wrong, labels.numpy()) > LABEL_BAR


@pytest.mark.parametrize(('palette', 'colors'), [
    ([(1, 2, 3), (4, 5, 6)], [(1, 2, 3), (4, 5, 6)]),
    (((1, 2, 3), (4, 5, 6)), ((1, 2, 3), (4, 5, 6))),
    ((7, 8, 9), [[7, 8, 9]] * 2), ('red', [[255, 0, 0]] * 2), ('random', 2), ('coco', 80),
    ('voc', 20), ([(1, 2, 3)], None), (None, 2), ('no color', None), (7, None)], ids=str)
def test_a_detectors_palette_has_a_color_for_each_class(palette, colors):
    """Whatever MMDetection takes for one."""
    pytest.importorskip('mmdet')
    host = SimpleNamespace(dataset_meta=dict(palette=palette), classes=['a', 'b'])
    found = exporting._palette(host, SimpleNamespace(task='detection'))
    if isinstance(colors, int):
        assert len(found) == colors
        assert is_palette(json.loads(json.dumps(found)), 2)
    else:
        assert found == colors
    if isinstance(palette, str):
        assert exporting._palette(host, SimpleNamespace(task='segmentation')) is None


def classifier(channels=3, **preprocessor):
    """A recipe and its model, as the export has it."""
    cfg = Config(dict(
        model=dict(type='ImageClassifier', data_preprocessor=dict(
            type='ClsDataPreprocessor', **preprocessor),
            backbone=dict(type='mmvssd.VMamba', arch=dict(embed_dims=8, depths=(1, )),
                          in_channels=channels, out_indices=(0, )),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=8)),
        test_dataloader=dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile')]))))
    init_default_scope('mmpretrain')
    return cfg, DEPLOYED['mmpretrain'](MODELS.build(cfg.model), 'logits', True)


@pytest.mark.parametrize(('channels', 'preprocessor', 'order'), [
    (3, dict(to_rgb=True), 'RGB'), (3, dict(to_rgb=False), 'BGR'), (1, dict(to_rgb=False), None),
    (4, dict(mean=[1.] * 4, std=[2.] * 4), None)], ids=str)
def test_what_the_file_says_of_channels(channels, preprocessor, order):
    cfg, model = classifier(channels, **preprocessor)
    assert exporting._channels(cfg, model) == order
    images = exporting._images(model, (2, 64, 64))
    assert images.shape == (2, channels, 64, 64)
    with torch.no_grad():  # without a mean there is nothing to normalize
        expected = images if 'mean' not in preprocessor else (images - 1) / 2
        assert torch.allclose(model(images), model.model(expected), atol=1e-6)


def test_arrays_of_an_unknown_order():
    """CIFAR holds RGB, and no step reads a file."""
    cfg, model = classifier(to_rgb=False)
    cfg.test_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    assert exporting._channels(cfg, model) is None


def test_a_preprocessor_that_makes_bgr():
    cfg, model = classifier()
    cfg.model.data_preprocessor = dict(type='SegDataPreProcessor', rgb_to_bgr=True)
    assert exporting._channels(cfg, model) == 'BGR'
