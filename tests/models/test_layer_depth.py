"""Layer-wise decay of learning rates, through MMPreTrain's constructor."""
import pytest
from mmengine.registry import DefaultScope

from mmvssd.models import VMamba

NANO = dict(embed_dims=16, depths=(1, 2, 1, 1))


@pytest.mark.parametrize('backbone', [
    dict(type='mmvssd.VSSD', arch=dict(NANO, num_heads=(2, 2, 4, 4), d_state=8),
         out_indices=(0, 3)),
    dict(type='mmvssd.VMamba', arch=NANO)])
def test_learning_rates_decay_towards_the_image(backbone):
    models = pytest.importorskip('mmpretrain.models')
    optimizers = pytest.importorskip('mmpretrain.engine.optimizers')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = models.ImageClassifier(backbone, head=dict(
            type='LinearClsHead', num_classes=2, in_channels=128))
    backbone = model.backbone
    constructor = optimizers.LearningRateDecayOptimWrapperConstructor(
        dict(optimizer=dict(type='AdamW', lr=1., weight_decay=0.05), type='OptimWrapper'),
        dict(layer_decay_rate=0.5))
    groups = constructor(model).optimizer.param_groups
    rates = {group['param_name']: group['lr'] for group in groups}
    assert rates.keys() == dict(model.named_parameters()).keys()

    def rate_of(prefix):
        rate, = {value for name, value in rates.items() if name.startswith(f'{prefix}.')}
        return rate

    # five blocks lie between the stem and the output
    assert rate_of('backbone.stem') == 0.5**6
    assert [rate_of(f'backbone.stages.{name}') for name in ('0.0', '1.0', '1.1', '2.0', '3.0')] == [
        0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]
    assert [rate_of(f'backbone.downsamples.{i}') for i in range(3)] == [0.5**5, 0.5**3, 0.5**2]
    assert {rate_of(f'backbone.norm{i}') for i in backbone.out_indices} == {1.}
    assert rate_of('head') == 1.


def test_without_a_prefix():
    backbone = VMamba(NANO, out_indices=(1, ))
    depths = {name: backbone.get_layer_depth(name) for name in backbone.state_dict()}
    assert {depth for _, depth in depths.values()} == {5}  # what lies behind is not kept
    assert {layer for layer, _ in depths.values()} == {0, 1, 2, 3, 4}
