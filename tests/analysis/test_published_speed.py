"""The published procedure, on a fake clock and a fake GPU's memory."""
import pytest
import torch
from torch import nn

from mmvssd.analysis import published_speed
from mmvssd.analysis.published_speed import (
    MIB,
    measure,
    measure_or_halve,
    out_of_memory,
    random_batch,
)


class Toy(nn.Module):
    """A classifier that notes what it is called with, and whose step takes 0.5 s by its clock."""

    def __init__(self, log):
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.log = log

    def forward(self, images):
        autocast = torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu')
        self.log.append(('step', self.training, torch.is_grad_enabled(), autocast, images.dtype))
        return self.fc(images.mean((2, 3)))


@pytest.fixture
def log(monkeypatch):
    """What happens, in its order; the clock gains half a second a step."""
    events = []
    steps = [0]

    def clock():
        steps[0] = sum(event[0] == 'step' for event in events)
        events.append(('clock', ))
        return 100 + steps[0] / 2

    monkeypatch.setattr(published_speed.time, 'perf_counter', clock)
    monkeypatch.setattr(published_speed, '_synchronize', lambda device: events.append(('sync', )))
    monkeypatch.setattr(published_speed, '_reset_peak', lambda device: events.append(('reset', )))
    monkeypatch.setattr(published_speed, '_peak', lambda device: 3 * 2**20 + 2**19)
    return events


def batch_of(number):
    return random_batch(number, (4, 6), 5, 0, 'cpu')


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_the_procedure(log, mode):
    model = Toy(log)
    speed = measure(model, *batch_of(8), mode, amp='bfloat16')
    train = mode == 'train'
    # inference without a gradient and in float32, whatever training is done in
    step = ('step', train, train, torch.bfloat16 if train else False, torch.float32)
    assert log == [*[step] * 50, ('sync', ), ('reset', ), ('clock', ), *[step] * 30, ('sync', ),
                   ('clock', )]
    assert speed == (30 * 8 / 15, 3.5, 8)
    assert MIB == 1048576


def test_gradients_add_up_without_an_optimizer(log):
    model = Toy(log)
    images, labels = batch_of(8)
    weight = model.fc.weight.clone()
    measure(model, images, labels, 'train', warmup=0, steps=1)
    once = model.fc.weight.grad.clone()
    model.zero_grad()
    measure(model, images, labels, 'train', warmup=1, steps=2)
    torch.testing.assert_close(model.fc.weight.grad, 3 * once)
    assert torch.equal(model.fc.weight, weight)
    expected = torch.autograd.grad(
        nn.functional.cross_entropy(model.fc(images.mean((2, 3))), labels), model.fc.weight)[0]
    torch.testing.assert_close(once, expected)


def test_cudnn_as_published(log):
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    seen = []

    class Reader(Toy):
        def forward(self, images):
            seen.append((cudnn.benchmark, cudnn.deterministic))
            return super().forward(images)

    measure(Reader(log), *batch_of(2), 'infer', warmup=1, steps=1)
    assert seen == [(True, True)] * 2
    assert (cudnn.benchmark, cudnn.deterministic) == before


@pytest.mark.parametrize('settings', [dict(mode='test'), dict(amp='int8'), dict(steps=0),
                                      dict(warmup=-1)])
def test_settings_that_are_none(settings):
    with pytest.raises(ValueError, match='^got mode'):
        measure(Toy([]), *batch_of(2), **{'mode': 'infer', **settings})


def test_the_batch():
    images, labels = random_batch(64, (8, 6), 5, 3, 'cpu')
    assert images.shape == (64, 3, 8, 6)
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
    assert labels.dtype == torch.int64
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(random_batch(64, (8, 6), 5, 3, 'cpu')[0], images)
    assert not torch.equal(random_batch(64, (8, 6), 5, 4, 'cpu')[0], images)


class Crowded(Toy):
    """A model that has room for a few images only."""

    def __init__(self, log, most, error):
        super().__init__(log)
        self.most, self.error, self.batches = most, error, []

    def forward(self, images):
        if not self.batches or self.batches[-1] != len(images):
            self.batches.append(len(images))
        if len(images) > self.most:
            raise self.error
        return super().forward(images)


@pytest.mark.parametrize('error', [
    torch.cuda.OutOfMemoryError('CUDA out of memory.'), MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')])
def test_out_of_memory(log, error):
    assert out_of_memory(error)
    model = Crowded(log, 2, error)
    assert measure_or_halve(model, batch_of, 8, 'train') is None
    assert model.batches == [8]
    speed = measure_or_halve(model, batch_of, 8, 'train', halve=True, warmup=0)
    assert model.batches == [8, 4, 2]  # 8 again, then fewer
    assert speed.batch == 2
    assert model.fc.weight.grad is None  # the next model has the memory
    assert measure_or_halve(Crowded(log, 0, error), batch_of, 8, 'infer', halve=True) is None


def test_other_errors_are_none_of_memory(log):
    error = RuntimeError('mat1 and mat2 shapes cannot be multiplied')
    assert not out_of_memory(error)
    with pytest.raises(RuntimeError, match='mat1'):
        measure_or_halve(Crowded(log, 2, error), batch_of, 8, 'infer', halve=True)


def test_a_cpu_has_no_peak():
    speed = measure(Toy([]), *batch_of(2), 'infer', warmup=0, steps=1)
    assert speed.peak_mib is None
    assert speed.images_per_second > 0
