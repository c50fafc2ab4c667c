"""The model of every recipe: its backbone, widths, checkpoint and parameters."""
import numpy as np
import pytest
from mmengine.fileio import load

from mmvssd.families import FAMILIES, every_arch
from mmvssd.paths import configs_dir

# width of stage 0, drop path; millions of parameters, to the digits that are published, of the
# classifier, Mask R-CNN and UperNet
ARCHS = {
    'vssd-micro': (48, 0.1, '13.51', '33.22', '42.38'),
    'vssd-tiny': (64, 0.2, '24.27', '43.91', '54.07'),
    'vssd-small': (64, 0.4, '40.08', '59.71', None),
    'vssd-base': (96, 0.6, '88.82', None, None),
    'vssd-tiny-iccv2025': (96, 0.2, '28.19', None, None),
    'vssd-small-iccv2025': (96, 0.4, '50.42', None, None),
    'vssd-base-iccv2025': (96, 0.6, '88.82', None, None),
    'vmamba-v0-tiny': (96, 0.2, '22.89', '42', '55'),
    'vmamba-v0-small': (96, 0.3, '44.42', '64', '76'),
    'vmamba-v0-base': (128, 0.5, '76.25', '96', '110'),
    'vmamba-tiny-s2l5': (96, 0.2, '30.71', '50', '62'),
    'vmamba-small-s2l15': (96, 0.3, '50.15', '70', '82'),
    'vmamba-base-s2l15': (128, 0.6, '88.56', '108', '122'),
    'vmamba-tiny-s1l8': (96, 0.2, '30.25', '50', '62'),
    'vmamba-small-s1l20': (96, 0.3, '49.01', None, None),
    'vmamba-base-s1l20': (128, 0.5, '86.61', None, None),
}


def test_each_arch_has_its_recipes():
    archs = [f'{family.name}-{arch}' for family, arch in every_arch()]
    assert set(archs) == set(ARCHS)
    names = {folder: sorted(file.stem for file in (configs_dir() / folder).glob('*.py'))
             for folder in ('classification', 'detection', 'segmentation')}
    classifiers = [name.split('_')[0] for name in names['classification'] if '_mesa_' not in name]
    assert sorted(classifiers) == sorted(archs)
    assert names['detection'] == sorted(f'mask-rcnn_{arch}_fpn_{schedule}_coco'
                                        for arch in archs for schedule in ('1x', 'ms-3x'))
    assert names['segmentation'] == sorted(f'upernet_{arch}_4xb4-160k_ade20k-512x512'
                                           for arch in archs)


def test_model(recipe):
    folder, name, cfg, model = recipe
    width, drop_path, *published = ARCHS[recipe.arch]
    widths = [width, 2 * width, 4 * width, 8 * width]
    assert cfg.model.backbone.type == FAMILIES[recipe.family].type
    assert f'{recipe.family}-{cfg.model.backbone.arch}' == recipe.arch
    assert list(model.backbone.dims) == widths
    rates = [block.drop_path.drop_prob for stage in model.backbone.stages for block in stage]
    assert rates == pytest.approx(np.linspace(0, drop_path, len(rates)))
    if folder == 'classification':
        assert cfg.model.head.in_channels == 8 * width
    else:
        feeds = cfg.model.neck if folder == 'detection' else cfg.model.decode_head
        assert feeds.in_channels == widths
        assert cfg.model.backbone.init_cfg == dict(
            type='Pretrained', checkpoint=f'checkpoints/{recipe.arch}_in1k.pth', prefix='backbone.')
    assert 'mmvssd' in cfg.custom_imports.imports
    assert cfg.runner_type == 'mmvssd.GuardedRunner'

    parameters = sum(p.numel() for p in model.parameters())
    millions = published[['classification', 'detection', 'segmentation'].index(folder)]
    if millions is not None:
        digits = len(millions.partition('.')[2])
        assert f'{parameters / 1e6:.{digits}f}' == millions
    entries = {model['Name']: model for model in
               load(configs_dir() / folder / 'metafile.yml')['Models']}
    assert entries[name]['Metadata']['Parameters'] == parameters
