"""What is timed and how it is reported, not how fast it is."""
import csv
import os
from contextlib import contextmanager

import pytest
import torch

import mmvssd_kernels
from mmvssd.analysis import throughput
from mmvssd.analysis.throughput import Setting, Times, Variant, measure
from mmvssd.errors import ConfigError
from mmvssd_kernels import dispatch
from mmvssd_kernels.benchmark.memory import can_measure


def test_settings():
    setting = Setting.parse('train:4x224')
    assert setting == ('train', 4, 224)
    assert str(setting) == 'train:4x224'


@pytest.mark.parametrize('text', ['fly:1x2', 'infer', 'infer:8', 'infer:0x224', 'infer:8x-1'])
def test_settings_that_are_none(text):
    with pytest.raises(ValueError, match=f"setting: got '{text}', expected infer or train"):
        Setting.parse(text)


@pytest.mark.parametrize('name', ['vssd-huge', 'vssd-micro+int8'])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r'unknown name .*; known: vssd-micro, .*resnet-50'):
        measure([name], [])


def test_no_rounds():
    with pytest.raises(ValueError, match='--rounds: got 0, expected a positive number'):
        measure(['vssd-micro'], [], rounds=0)


def test_a_run_that_is_cut_short_has_its_settings():
    kept = []

    def keep(rows):
        kept.append([row.setting for row in rows])
        if len(kept) == 2:
            raise KeyboardInterrupt

    settings = [Setting('infer', batch, 4) for batch in (1, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        measure(['a'], settings, makers=dict(a=lambda: Recorder([])), rounds=1, each=keep)
    assert kept == [settings[:1], settings[:2]]


def test_profiles_of_steps():
    """One after the other, so that what is done so far can be written."""
    calls = []
    found = throughput.profile(['a', 'b'], [Setting('infer', 2, 8), Setting('train', 1, 4)],
                               makers=dict(a=lambda: Recorder(calls), b=lambda: Recorder(calls)),
                               calls=2)
    assert not calls
    name, setting, kernels = next(found)
    assert (name, setting) == ('a', ('infer', 2, 8))
    counts = {kernel.operator: kernel.launches for kernel in kernels}
    assert counts['aten::mul'] == 1
    assert [step[:2] for step in found] == [
        ('b', ('infer', 2, 8)), ('a', ('train', 1, 4)), ('b', ('train', 1, 4))]
    with pytest.raises(ValueError, match="unknown name 'c'"):
        next(throughput.profile(['c'], [], makers=dict(a=lambda: Recorder([]))))


class Recorder(torch.nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.calls = calls

    def forward(self, x):
        y = x * self.weight
        self.calls.append((self.training, torch.is_grad_enabled(), tuple(x.shape),
                           torch.is_autocast_enabled('cpu')))
        return (y, )


def test_each_takes_its_turn(monkeypatch):
    calls, clock = [], iter(range(1000))
    sizes = []
    monkeypatch.setattr(throughput, 'backbones', lambda size=224: sizes.append(size) or dict(
        a=lambda: Recorder(calls), b=lambda: Recorder(calls)))
    monkeypatch.setattr(throughput.time, 'perf_counter', lambda: next(clock))
    rows = measure(['a', 'b+bfloat16'], [Setting('infer', 2, 8), Setting('train', 1, 4)],
                   rounds=3, warmup=1)
    assert sizes == [224, 8, 4]  # for the names, and then as large as the images
    infer, train = calls[:8], calls[8:]
    assert infer == [(False, False, (2, 3, 8, 8), False), (False, False, (2, 3, 8, 8), True)] * 4
    assert train == [(True, True, (1, 3, 4, 4), False), (True, True, (1, 3, 4, 4), True)] * 4
    assert [(row.model, row.setting.mode) for row in rows] == [
        ('a', 'infer'), ('b+bfloat16', 'infer'), ('a', 'train'), ('b+bfloat16', 'train')]
    assert all(row.seconds > 0 and row.images_per_second == row.setting.batch / row.seconds
               for row in rows)


def test_medians_and_quartiles():
    steps = [(5., 2.), (1., 1.), (2., 9.), (4., 3.), (3., 2.)]
    assert Times.of(steps) == Times(seconds=3, low=2, high=4, cpu_seconds=2)
    assert Times.of([(7., 8.)]) == (7, 7, 7, 8)


def test_wall_and_cpu_time(monkeypatch):
    """Each of its own clock, over the step only."""
    clocks = dict(perf_counter=0., process_time=0.)

    class Slow(Recorder):
        def forward(self, x):
            clocks['perf_counter'] += next(seconds)
            clocks['process_time'] += 2
            return super().forward(x)

    for name in clocks:
        monkeypatch.setattr(throughput.time, name, lambda name=name: clocks[name])
    seconds = iter([100, 100, 4, 1, 3, 2, 5])
    row, = measure(['slow'], [Setting('infer', 6, 4)], makers=dict(slow=lambda: Slow([])), rounds=5)
    assert row.times == (3, 2, 4, 2)
    assert (row.seconds, row.images_per_second, row.busy) == (3, 2, None)


@pytest.fixture
def load(monkeypatch):
    """Replaces the processes that load the machine; has how many there are now and were."""
    load = dict(now=0, of=[])

    @contextmanager
    def busy(number):
        load['now'] = number
        load['of'].append(number)
        try:
            yield []
        finally:
            load['now'] = 0

    monkeypatch.setattr(throughput, 'busy_machine', busy)
    return load


def test_quiet_and_busy_take_turns(load, monkeypatch):
    seen, clock = [], [0.]

    class Slowed(Recorder):
        def __init__(self, name, factor):
            super().__init__([])
            self.name, self.factor = name, factor

        def forward(self, x):
            seen.append((self.name, load['now']))
            clock[0] += self.factor if load['now'] else 1
            return super().forward(x)

    for name in ('perf_counter', 'process_time'):
        monkeypatch.setattr(throughput.time, name, lambda: clock[0])
    makers = dict(a=lambda: Slowed('a', 3), b=lambda: Slowed('b', 5))
    a, b = measure(['a', 'b'], [Setting('infer', 1, 4)], makers=makers, rounds=2, warmup=1, busy=2)
    round_ = [('a', 0), ('b', 0), ('a', 2), ('b', 2)]
    assert seen == [('a', 0), ('b', 0), *round_, *round_]
    assert load['of'] == [2, 2]
    assert (a.times, a.busy) == ((1, 1, 1, 1), (3, 3, 3, 3))
    assert (b.seconds, b.busy.seconds, b.busy.cpu_seconds) == (1, 5, 5)


def test_so_busy_that_nothing_runs():
    built = []
    with pytest.raises(ConfigError, match='--busy: got 100000, expected 1 to'):
        measure(['a'], [Setting('infer', 1, 4)], makers=dict(a=lambda: built.append(1)),
                busy=100_000)
    assert not built


class Keeper(torch.nn.Module):
    """Takes memory; more where gradients are asked for."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        kept = [torch.ones(2**20) for _ in range(60 if self.training else 20)]
        return (x * self.weight * kept[0][0], )


def test_memory_on_a_cpu():
    if not can_measure():
        pytest.skip('needs /proc/self/clear_refs')
    rows = measure(['keeper'], [Setting('infer', 1, 4), Setting('train', 1, 4)],
                   makers=dict(keeper=Keeper), rounds=1)
    for row, megabytes in zip(rows, (20 * 4 * 2**20 / 1e6, 60 * 4 * 2**20 / 1e6)):
        assert row.memory == pytest.approx(megabytes, rel=0.1)
    assert measure(['keeper'], rows[0][1:2], makers=dict(keeper=Keeper), rounds=1,
                   warmup=0)[0].memory == 0  # not measured


# An implementation for one model

class Scanner(torch.nn.Module):
    """Calls an op, and notes what computes it."""

    op = staticmethod(mmvssd_kernels.cross_scan)

    def __init__(self, seen):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = seen

    def forward(self, x):
        self.seen.append(os.environ.get('MMVSSD_KERNEL'))
        return (self.op(x * self.weight), )


@pytest.fixture
def toy_implementations():
    """Two implementations of an op: one that computes it, one that cannot."""
    reference = dispatch._implementations['cross_scan']['reference'].run
    calls = []

    def toy(*args, **kwargs):
        calls.append(os.environ.get('MMVSSD_KERNEL'))
        return reference(*args, **kwargs)

    dispatch.register('cross_scan', 'toy', priority=-1)(toy)
    dispatch.register('cross_scan', 'broken', lambda *args, **kwargs: 'it is broken',
                      priority=-1)(toy)
    yield calls
    dispatch.unregister('cross_scan', 'toy')
    dispatch.unregister('cross_scan', 'broken')


@pytest.mark.parametrize('before', [None, 'reference', ''])
def test_an_implementation_is_one_models_own(before, toy_implementations, monkeypatch):
    if before is None:
        monkeypatch.delenv('MMVSSD_KERNEL', raising=False)
    else:
        monkeypatch.setenv('MMVSSD_KERNEL', before)
    seen = []
    rows = measure(['a', 'a+toy', 'a+reference'],
                   [Setting('infer', 1, 4), Setting('train', 1, 4)],
                   makers=dict(a=lambda: Scanner(seen)), rounds=2, warmup=1)
    once = ['toy', 'reference', *[before, 'toy', 'reference'] * 3]  # first it is seen to compute
    assert seen == once * 2
    assert toy_implementations == ['toy'] * 4 * 2
    assert os.environ.get('MMVSSD_KERNEL') == before
    assert [row.model for row in rows] == ['a', 'a+toy', 'a+reference'] * 2


def test_an_implementation_with_autocast(toy_implementations):
    measure(['a+bfloat16+toy'], [Setting('infer', 1, 4)], makers=dict(a=lambda: Scanner([])),
            rounds=1, warmup=0)
    assert len(toy_implementations) == 2
    assert Variant.parse('a+toy+float16', ['a']) == ('a', torch.float16, False, 'toy', False)
    assert Variant.parse('a+compile', ['a']) == ('a', None, True, None, False)
    assert Variant.parse('a+cudagraph+bfloat16', ['a']).graphed


class Raiser(Scanner):
    def forward(self, x):
        raise KeyError('no such thing')


@pytest.mark.parametrize(('name', 'error', 'message'), [
    ('a+numba', ValueError, r"^backbone a\+numba: MMVSSD_KERNEL='numba' is not an implementation "
                            'of cross_scan; what fits: auto, .*toy'),
    ('a+broken', ValueError, r"^backbone a\+broken: MMVSSD_KERNEL='broken' cannot run: it is br"),
    ('plain+toy', ValueError, r'^backbone plain\+toy: it calls none of the ops cross_scan, .*le'),
    ('raiser+toy', KeyError, 'no such thing'),
    ('a+int8', ValueError, r"unknown name 'a\+int8'; known: a, plain, raiser, each with "
                           r'\+bfloat16, \+float16, \+compile, \+cudagraph, .*\+toy'),
    ('a+cudagraph', ValueError, r'^backbone a\+cudagraph: a CUDA graph needs a GPU, and --device '
                                'is cpu'),
    ('a+auto', ValueError, 'unknown name'),
    ('a+', ValueError, 'unknown name'),
    ('a+toy+reference', ValueError, r'\+toy and \+reference exclude each other'),
    ('a+bfloat16+float16', ValueError, r'\+bfloat16 and \+float16 exclude each other'),
    ('a+toy+compile', ValueError, r'\+compile takes no implementation .* MMVSSD_KERNEL=toy'),
])
def test_implementations_that_do_not_fit(name, error, message, toy_implementations, monkeypatch):
    monkeypatch.setenv('MMVSSD_KERNEL', 'reference')
    makers = dict(a=lambda: Scanner([]), plain=lambda: Recorder([]), raiser=lambda: Raiser([]))
    # what ran before does not count
    mmvssd_kernels.cross_scan(torch.zeros(1, 4, 2, 2))
    with pytest.raises(error, match=message):
        measure([name], [Setting('infer', 1, 4)], makers=makers, rounds=1)
    assert os.environ['MMVSSD_KERNEL'] == 'reference'


@pytest.mark.slow
def test_command(run_tool, tmp_path):
    out = run_tool('benchmarks/backbone_speed.py', 'resnet-50', 'vssd-micro',
                   'vssd-micro+reference', '--settings', 'infer:1x32', 'train:2x32', '--rounds',
                   '2', '--device', 'cpu', '--out', 'speed', '--busy', '1', '--kernels', '1')
    assert 'speed over that of resnet-50' in out
    assert 'busy: 1 other processes on' in out
    with open(tmp_path / 'speed' / 'backbone_speed.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['model'] for row in rows] == ['resnet-50', 'vssd-micro', 'vssd-micro+reference'] * 2
    assert [float(row['ratio']) for row in rows[::3]] == [1, 1]
    for row in rows:
        values = {name: float(value) for name, value in list(row.items())[2:]}
        assert 0 < values['seconds_low'] <= values['seconds'] <= values['seconds_high']
        assert 0 < values['busy_seconds_low'] <= values['busy_seconds']
        assert values['cpu_seconds'] > 0
        assert values['busy_over_quiet'] == values['busy_seconds'] / values['seconds']
    assert (tmp_path / 'speed' / 'backbone_speed.png').read_bytes()[:4] == b'\x89PNG'
    kernels = (tmp_path / 'speed' / 'backbone_kernels.md').read_text()
    assert kernels in out
    assert 'CPU time of operators, without those that they call' in kernels
    assert kernels.count(', infer:1x32') == kernels.count(', train:2x32') == 3
    assert '| convolutions | ' in kernels
    (tmp_path / 'file').touch()
    for arguments, message in ((['vssd-huge'], "unknown name 'vssd-huge'"),
                               (['--out', 'file'], '--out: file cannot be made or written to'),
                               (['--kernels', '0'], '--kernels: got 0, expected a positive'),
                               (['--busy', '0'], "--busy: got '0', expected a positive number"),
                               (['--busy', 'vssd-micro'], 'models go before --busy'),
                               (['--busy', '100000'], '--busy: got 100000, expected 1 to'),
                               (['resnet-50+reference', '--settings', 'infer:1x32'],
                                'resnet-50+reference: it calls none of the ops')):
        out = run_tool('benchmarks/backbone_speed.py', *arguments, expect=2)
        assert message in out
        assert 'Traceback' not in out
