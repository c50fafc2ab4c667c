"""What ``--amp`` chooses, by device and recipe, and that it learns what float32 learns."""
import re

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook

from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets import make_sample_data
from mmvssd.engine.numerics import mixed_precision
from mmvssd.engine.numerics.mixed_precision import use_mixed_precision
from mmvssd.errors import ConfigError

OFF = dict(enabled=False)


@pytest.fixture
def device(monkeypatch):
    """Acts as if this were another device: ``device(name, native, emulated)`` of bfloat16."""

    def be(name, native=False, emulated=False):
        monkeypatch.setattr(mixed_precision, 'get_device', lambda: name)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported',
                            lambda including_emulation=True:
                            native or (emulated and including_emulation))

    return be


@pytest.mark.parametrize(('name', 'native', 'emulated', 'dtype', 'scale', 'reason'), [
    ('cpu', False, False, 'bfloat16', OFF, 'the one that autocast has on the CPU'),
    ('cuda', True, True, 'bfloat16', OFF, 'the GPU has it'),
    ('cuda', False, True, 'float16', 'dynamic', 'no bfloat16 on this cuda device'),
    ('cuda', False, False, 'float16', 'dynamic', 'no bfloat16 on this cuda device'),
    ('npu', False, False, 'float16', 'dynamic', 'no bfloat16 on this npu device'),
])
def test_defaults_by_device(device, name, native, emulated, dtype, scale, reason):
    device(name, native, emulated)
    settings = ConfigDict(type='OptimWrapper', clip_grad=dict(max_norm=1))
    said = use_mixed_precision(settings)
    assert settings == dict(type='AmpOptimWrapper', dtype=dtype, loss_scale=scale,
                            clip_grad=dict(max_norm=1))
    assert f'autocast to {dtype} ({reason})' in said
    assert ('loss scaling off' in said) == (scale == OFF)


@pytest.mark.parametrize(('own', 'dtype', 'scale', 'said'), [
    (dict(dtype='float16'), 'float16', 'dynamic', 'autocast to float16 (optim_wrapper.dtype)'),
    (dict(dtype=torch.float16), 'float16', 'dynamic', 'gradients may leave the range of float16'),
    (dict(loss_scale=512.), 'bfloat16', 512., 'loss scaling 512.0 (optim_wrapper.loss_scale)'),
    (dict(dtype='float16', loss_scale=dict(init_scale=8.)), 'float16', dict(init_scale=8.),
     'optim_wrapper.loss_scale'),
    (dict(dtype='bfloat16'), 'bfloat16', OFF, 'loss scaling off'),
])
def test_the_recipes_own_settings_win(device, own, dtype, scale, said):
    device('cuda', native=True)
    settings = ConfigDict(own)
    assert said in use_mixed_precision(settings)
    assert settings == dict(type='AmpOptimWrapper', dtype=dtype, loss_scale=scale)


def test_dtypes_that_do_not_run_here(device, tmp_path):
    device('cuda')
    with pytest.raises(ValueError, match='which this GPU does not have; float16 fits'):
        use_mixed_precision(ConfigDict(dtype='bfloat16'))
    device('cpu')
    cfg = load_config('classification/vssd-tiny_8xb128_in1k.py', work_dir=str(tmp_path),
                      options={'optim_wrapper.dtype': 'float16'})
    with pytest.raises(ConfigError, match=r'--amp: optim_wrapper.dtype is float16, on the CPU '
                                          r'only bfloat16 fits'):
        build_trainer(cfg, amp=True)


class Losses(Hook):
    """Keeps the losses of all steps."""

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())


@pytest.fixture(scope='module')
def sample_data(tmp_path_factory):
    """The sample data in small: 400 digits of 32x32, 25 batches."""
    root = tmp_path_factory.mktemp('data')
    return make_sample_data(root / 'sample_digits', num_scenes=(2, 2), num_crops=(400, 10),
                            crop_size=32, progress=False)


def train(family, data, work_dir, rate, epochs, load_from=None, amp=False):
    """Losses of all iterations at a rate that stays after its warm-up, and what was logged."""
    options = {'train_dataloader.dataset.pipeline.1.crop_size': 32,
               'model.backbone.arch.embed_dims': 8, 'model.head.in_channels': 64,
               'optim_wrapper.optimizer.lr': rate, 'param_scheduler.1.eta_min': rate,
               'train_cfg.max_epochs': epochs, 'train_cfg.val_begin': epochs + 1,
               'default_hooks.checkpoint.interval': epochs, 'load_from': load_from}
    loader = {'batch_size': 16, 'num_workers': 0, 'persistent_workers': False,
              'dataset.data_root': str(data / 'imagenet')}
    for phase in ('train', 'val'):
        options.update({f'{phase}_dataloader.{name}': value for name, value in loader.items()})
    cfg = load_config(f'samples/{family}-nano_1xb64_digits.py', work_dir=str(work_dir),
                      options=options)
    runner = build_trainer(cfg, amp=amp)
    kept = Losses()
    runner.register_hook(kept)
    runner.train()
    assert len(kept.losses) == 25 * epochs
    log, = work_dir.glob('*/*.log')
    return torch.tensor(kept.losses), log.read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='measured on the CPU')
@pytest.mark.parametrize('family', ['vssd'])  # docs/amp.md has VMamba's
def test_bfloat16_learns_what_float32_learns(family, sample_data, tmp_path):
    """The same data and draws, from weights that float32 has brought off the first plateau.

    On the plateau itself chance decides: there, float32 runs whose first weights differ by a
    millionth come to losses up to 5 % apart.
    """
    pytest.importorskip('mmpretrain')
    train(family, sample_data, tmp_path / 'begin', 2e-3, epochs=8)
    begin = str(tmp_path / 'begin' / 'epoch_8.pth')
    exact, exact_log = train(family, sample_data, tmp_path / 'float32', 5e-4, 6, begin)
    narrow, log = train(family, sample_data, tmp_path / 'bfloat16', 5e-4, 6, begin, amp=True)
    assert exact[-25:].mean() < 0.95 * exact[:25].mean()
    assert not torch.equal(narrow, exact)
    assert abs(narrow[-25:].mean() / exact[-25:].mean() - 1) < 0.01
    assert len(re.findall('--amp: autocast to bfloat16 .* loss scaling off', log)) == 1
    assert '--amp' not in exact_log
