"""Features that don't depend on what an image shares its batch with."""
import pytest
import torch
from mmengine.registry import DefaultScope
from torch.nn import functional as F

from mmvssd.cli.launch import load_config
from mmvssd.registry import MODELS

#: Height and width of images in one batch: odd and even sides, one that fills the grid, tiny ones.
SIZES = [(61, 83), (96, 50), (33, 96), (96, 96), (5, 3)]


def make_model(variant, **options):
    """Weights at random, norms and their statistics too, so that nothing is neutral by chance."""
    torch.manual_seed(0)
    model = variant.build(**options).double().eval()
    for name, value in model.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.dim() == 1 and value.is_floating_point():
            value.add_(0.3 * torch.randn_like(value))
    return model


def make_batch(value=0.):
    """Images padded to one size, whose padding holds ``value``; and each alone."""
    torch.manual_seed(1)
    images = [torch.randn(1, 3, *size, dtype=torch.float64) for size in SIZES]
    padded = [F.pad(image, (0, 96 - image.shape[3], 0, 96 - image.shape[2]), value=value)
              for image in images]
    return torch.cat(padded), images


@pytest.mark.parametrize('value', [0., 7., float('nan')])
def test_features_are_those_of_the_image_alone(variant, value):
    """To the last token at the border: convolutions see there what they see alone."""
    model = make_model(variant)
    batch, images = make_batch(value)
    with torch.no_grad():
        outputs = model(batch, sizes=SIZES)
        for i, image in enumerate(images):
            for y, expected in zip(outputs, model(image)):
                H, W = expected.shape[2:]
                torch.testing.assert_close(y[i:i + 1, :, :H, :W], expected, rtol=1e-9, atol=1e-9)
                assert not y[i, :, H:].any()
                assert not y[i, :, :, W:].any()


@pytest.mark.parametrize(('variant', 'reach'), [('vssd', 1e-4), ('vmamba', 1e-7)],
                         indirect=['variant'])
def test_without_sizes_they_are_not(variant, reach):
    model = make_model(variant)
    batch, images = make_batch()
    with torch.no_grad():
        alone = model(images[0])[1]
        shared = model(batch)[1][:1, :, :alone.shape[2], :alone.shape[3]]
    error = (shared - alone).abs() / alone.abs().max()
    assert error.max() > 1e-2
    # and not at the border alone: the state takes the padding in
    assert error[..., :4, :4].max() > reach


@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_are_those_of_the_images_alone(variant, with_cp):
    model = make_model(variant, with_cp=with_cp, norm_eval=True, drop_path_rate=0.).train()
    batch, images = make_batch(float('nan'))

    def gradients(outputs):
        model.zero_grad()
        sum(y.square().sum() for y in outputs).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    together = gradients(model(batch, sizes=SIZES))
    alone = gradients([y for image in images for y in model(image)])
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-7, atol=1e-7, msg=name)


def test_full_sizes_change_nothing(variant):
    model = make_model(variant)
    batch, _ = make_batch()
    for y, expected in zip(model(batch, sizes=[(96, 96)] * 5), model(batch)):
        assert torch.equal(y, expected)


@pytest.mark.parametrize('sizes', [
    [(10, 10)], [(10, 10, 3), (10, 10, 3)], [(10, 97), (10, 10)], [(0, 10), (10, 10)],
    [(10., 10.), (10., 10.)]])
def test_sizes_that_do_not_fit(nano, sizes):
    with pytest.raises(ValueError, match=r'sizes: got .* each of the 2 images, at most \(96, 96\)'):
        nano.build()(torch.zeros(2, 3, 96, 96), sizes=sizes)


RECIPES = {
    'mmdet': 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
    'mmseg': 'samples/upernet_vssd-nano_1xb8_digits.py',
    'mmpretrain': 'samples/vssd-nano_1xb64_digits.py',
}
STAGES = {'mmdet': 4, 'mmseg': 4, 'mmpretrain': 1}


def make_host_model(host, **backbone):
    cfg = load_config(RECIPES[host])
    cfg.model.backbone.update(init_cfg=None, **backbone)
    preprocessor = cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor', {}))
    if host == 'mmseg':
        preprocessor.update(size=(96, 96), test_cfg=dict(size=(96, 96)))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(host):
        return MODELS.build(dict(cfg.model, _scope_=host)).eval()


def make_sample(host, size, **metainfo):
    metainfo = dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.), **metainfo)
    if host == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    elif host == 'mmseg':
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmpretrain.structures import DataSample as Sample
    return Sample(metainfo=metainfo)


@pytest.mark.parametrize('entry', ['test_step', 'call', 'forward'])
@pytest.mark.parametrize('host', RECIPES)
def test_sizes_come_from_the_hosts_data_samples(host, entry):
    """By whatever door a batch enters a host's model, the backbone has its images' sizes."""
    model = make_host_model(host, mask_padding=True)
    sizes = [(64, 96), (96, 48)]
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    if host == 'mmseg':  # it pads images of different sizes in training only
        images = [F.pad(image, (0, 96 - image.shape[2], 0, 96 - image.shape[1]))
                  for image in images]
    features = []
    model.backbone.register_forward_hook(lambda module, args, output: features.append(output))

    def run(images, sizes):
        data = dict(inputs=images, data_samples=[make_sample(host, size) for size in sizes])
        with torch.no_grad():
            if entry == 'test_step':
                model.test_step(data)
            else:
                data = model.data_preprocessor(data, False)
                (model if entry == 'call' else model.forward)(**data, mode='predict')
        return features.pop()

    together = run(images, sizes)
    assert len(together) == STAGES[host]
    for i, (image, size) in enumerate(zip(images, sizes)):
        for y, expected in zip(together, run([image], [size])):
            H, W = expected.shape[2:]
            torch.testing.assert_close(y[i:i + 1, :, :H, :W], expected, rtol=1e-4, atol=1e-4)


def test_sizes_of_a_training_batch():
    """MMSegmentation pads crops of images that are smaller than the crop."""
    from mmengine.structures import PixelData
    model = make_host_model('mmseg', mask_padding=True).train()
    samples = []
    for size in ((64, 96), (96, 48)):
        samples.append(make_sample('mmseg', size))
        samples[-1].gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.long))
    seen = []
    model.backbone.register_forward_hook(
        lambda module, args, output: seen.append(output[0].abs().sum(1) > 0))
    data = model.data_preprocessor(dict(
        inputs=[torch.zeros(3, *sample.img_shape, dtype=torch.uint8) for sample in samples],
        data_samples=samples), True)
    model(**data, mode='loss')
    (inside, ) = seen
    assert [mask.nonzero().amax(0).add(1).tolist() for mask in inside] == [[16, 24], [24, 12]]


def test_without_data_samples_every_image_is_whole():
    model = make_host_model('mmseg', mask_padding=True)
    features = []
    model.backbone.register_forward_hook(lambda module, args, output: features.append(output))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        model(x, mode='tensor')
        for y, z in zip(features[0], model.backbone(x)):
            assert torch.equal(y, z)


@pytest.mark.parametrize(('sample', 'message'), [
    (dict(), r'a.jpg has no img_shape, the size before padding; add it to meta_keys'),
    (dict(img_shape=(65, 32)), r'a.jpg has img_shape \(65, 32\), expected at most .* \(64, 64\)'),
])
def test_a_sample_without_a_size(sample, message):
    from mmdet.structures import DetDataSample
    model = make_host_model('mmdet', mask_padding=True)
    samples = [DetDataSample(metainfo=dict(img_path='a.jpg', **sample))]
    with torch.no_grad(), pytest.raises(ValueError, match=f'mask_padding: .*{message}'):
        model(torch.zeros(1, 3, 64, 64), samples, mode='tensor')


def test_sliding_windows_are_refused():
    model = make_host_model('mmseg', mask_padding=True)
    model.test_cfg.update(mode='slide', crop_size=(64, 64), stride=(32, 32))
    samples = [make_sample('mmseg', (96, 80), pad_shape=(96, 96))]
    with torch.no_grad(), pytest.raises(ValueError, match=r"set test_cfg.mode='whole'"):
        model(torch.zeros(1, 3, 96, 96), samples, mode='predict')


def test_several_batches_in_one_call_are_refused(nano):
    """Semi-supervised detectors hand parts of what they get to an inner model's loss."""
    from mmdet.models.detectors.base import BaseDetector
    backbone = nano.build(mask_padding=True)

    class SemiSupervised(BaseDetector):
        def loss(self, inputs, data_samples):
            return backbone(inputs['sup'])

        predict = _forward = extract_feat = loss

    with pytest.raises(ValueError, match='mask_padding: the model got no single batch'):
        SemiSupervised()(dict(sup=torch.zeros(1, 3, 64, 64)), dict(sup=[]), mode='loss')
