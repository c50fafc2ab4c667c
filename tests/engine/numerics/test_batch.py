"""A step of a training that is run again: its data samples and random numbers."""
import pytest
import torch

from mmvssd.engine.numerics.finite_check import Batch, RandomState


def test_random_states_are_put_back():
    state = RandomState()
    first = torch.rand(3)
    with state.repeated():
        assert torch.equal(torch.rand(3), first)
    second = torch.rand(3)
    state.restore()
    assert torch.equal(torch.rand(6), torch.cat([first, second]))


def sample_of(host):
    """An annotated data sample of a host."""
    from mmengine.structures import InstanceData, PixelData
    if host == 'mmpretrain':
        from mmpretrain.structures import DataSample
        return DataSample().set_gt_label(1).set_gt_score(torch.tensor([0., 1]))
    if host == 'mmdet':
        from mmdet.structures import DetDataSample
        return DetDataSample(gt_instances=InstanceData(labels=torch.tensor([1])))
    from mmseg.structures import SegDataSample
    return SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, 2, 2)))


@pytest.mark.parametrize('host', ['mmpretrain', 'mmdet', 'mmseg'])
def test_data_samples_are_put_back(host):
    pytest.importorskip(host)
    sample = sample_of(host)
    name = 'gt_score' if host == 'mmpretrain' else next(iter(sample.keys()))
    own = sample.get(name)
    fields = set(sample.keys())
    batch = Batch(0, dict(data_samples=[sample]))
    batch.begin()
    setattr(sample, name, own + 1 if host == 'mmpretrain' else type(own)())
    sample.set_field(torch.ones(1), 'mixed')
    batch.rewind()
    assert set(sample.keys()) == fields
    assert sample.get(name) is own
