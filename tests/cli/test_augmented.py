"""Predictions as the mean over a segmentor's augmentations."""
import copy
import json
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as coco_mask

from mmvssd.cli.augmented import AugmentedSegmentor, augmented
from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import Options, predict, predict_with_file
from mmvssd.errors import ConfigError

pytest.importorskip('mmseg')

SCALES = (0.5, 1.5)


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
    """A recipe with two sizes and flips, the host's model of its mean, and the weights' file."""
    cfg = load_config('samples/upernet_vssd-nano_1xb8_digits.py')
    init_default_scope(cfg.default_scope)
    cfg.tta_pipeline[-1].transforms[:1] = [
        [dict(type='Resize', scale_factor=factor, keep_ratio=True) for factor in SCALES],
        [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0., 1.)]]
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
    file = tmp_path_factory.mktemp('untrained') / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    return cfg, MODELS.build(dict(cfg.tta_model, module=model)).eval(), str(file)


@pytest.fixture
def image(tmp_path):
    file = tmp_path / 'a.png'
    mmcv.imwrite(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8), str(file))
    return file


def predicted(untrained, image, **options):
    """Return the label map that was written."""
    cfg, _, weights = untrained
    written = predict(cfg, weights, str(image), str(image.parent / 'out'), device='cpu',
                      options=Options(**options))
    (entry, ) = json.loads(written.read_text())
    labels = np.full((64, 96), -1)
    for segment in entry['segments']:
        names = cfg.test_dataloader.dataset.metainfo.classes
        labels[coco_mask.decode(segment['segmentation']) > 0] = names.index(segment['category'])
    return labels


def test_the_mean_is_the_hosts(untrained, image):
    cfg, model, _ = untrained
    steps = augmented(cfg).tta_pipeline
    with torch.no_grad():
        sample, = model.test_step(pseudo_collate([Compose(steps)(dict(img_path=str(image)))]))
    expected = sample.pred_sem_seg.data.squeeze().numpy()
    found = predicted(untrained, image, tta=True)
    assert (found == expected).mean() > 0.999  # rounding decides between equal scores
    assert (predicted(untrained, image) == expected).mean() < 0.999


def test_a_tile_of_the_images_size_gives_its_prediction(untrained, image):
    whole = predicted(untrained, image, tta=True)
    assert (predicted(untrained, image, tta=True, tile=96, overlap=16) == whole).mean() > 0.999


def test_limits_are_those_of_the_largest_augmentation(untrained, image):
    with pytest.raises(ConfigError, match='--tile: a tile has 96 x 96 = 9,216 pixels as'):
        predicted(untrained, image, tta=True, tile=64, max_pixels=4 * 64 * 64)
    predicted(untrained, image, tile=64, max_pixels=4 * 64 * 64)


def test_other_predictions_are_not_resumed(untrained, image):
    predicted(untrained, image, tta=True)
    predicted(untrained, image, tta=True, resume=True)
    with pytest.raises(ConfigError, match='--resume: .* were made with another tta'):
        predicted(untrained, image, resume=True)


def test_the_recipe_is_left_as_it_is(untrained):
    cfg = untrained[0]
    before = copy.deepcopy(cfg.to_dict())
    augmented(cfg)
    assert cfg.to_dict() == before


def other_mean(cfg):
    cfg.tta_model.type = 'Other'


def no_augmentations(cfg):
    cfg.pop('tta_pipeline')


def no_choice(cfg):
    cfg.tta_pipeline = cfg.test_pipeline


@pytest.mark.parametrize(('change', 'message'), [
    (no_augmentations, '--tta: the recipe has no tta_pipeline'),
    (other_mean, 'the mean of SegTTAModel; the tta_model of the recipe is Other'),
    (no_choice, 'should be TestTimeAug, got PackSegInputs'),
    (lambda cfg: cfg.update(default_scope='mmdet'), '--tta: is for segmentors')])
def test_recipes_that_have_no_such_mean(change, message, untrained):
    cfg = copy.deepcopy(untrained[0])
    change(cfg)
    with pytest.raises(ConfigError, match=message):
        augmented(cfg)


def test_an_exported_file_has_no_augmentations():
    with pytest.raises(ConfigError, match='--tta: does not go with --model'):
        predict_with_file('a.onnx', 'a.png', 'out', options=Options(tta=True))


@pytest.mark.parametrize(('chances', 'mean', 'labels'), [
    ([[[0.1, 0.9]], [[0.3, 0.9]]], [[0.2, 0.9]], [False, True]),  # beyond the head's 0.3
    ([[[0.9, 0.2], [0.1, 0.8]], [[0.3, 0.2], [0.7, 0.8]]], [[0.6, 0.2], [0.4, 0.8]], [0, 1])])
def test_tiles_get_the_mean_again_of_its_logits(chances, mean, labels):
    """A model of two classes may have one channel, which is the second one's."""

    class Sample(dict):
        __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__

    def forward(batch):
        return [Sample(seg_logits=SimpleNamespace(data=batch['inputs']))]

    segmentor = AugmentedSegmentor.__new__(AugmentedSegmentor)
    segmentor.model = SimpleNamespace(decode_head=SimpleNamespace(threshold=0.3))
    segmentor.inferencer = SimpleNamespace(forward=forward)
    chances = torch.tensor(chances)[:, :, None]  # (augmentations, channels, 1, 2)
    inputs = chances.logit() if chances.shape[1] == 1 else chances.log()
    sample = segmentor._mean(dict(inputs=inputs, data_samples=[None] * 2))
    np.testing.assert_allclose(segmentor.whole_scores(sample, (1, 2))[:, 0], mean, rtol=1e-5)
    assert sample.pred_sem_seg.data.flatten().tolist() == labels
