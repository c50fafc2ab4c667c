"""Which implementation of an op runs; implementations come and go."""
import logging

import pytest
import torch

import mmvssd_kernels
from mmvssd_kernels import description, dispatch, parity, triton_support


@pytest.fixture
def two_ways(monkeypatch):
    """An op with a fast implementation that refuses float64, and a reference; and another op."""
    monkeypatch.setattr(dispatch, '_implementations', dispatch.defaultdict(dict))
    monkeypatch.setattr(dispatch, '_used', {})
    monkeypatch.setattr(description, '_descriptions', dict(op=None, other=None))
    dispatch._log_fallback.cache_clear()
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    register('reference', priority=0)
    register('triton', refuse_float64, priority=100)


def refuse_float64(x):
    return 'no float64' if x.dtype == torch.float64 else None


def register(name, *objections, op='op', priority):
    """An implementation that gives its own name."""
    dispatch.register(op, name, *objections, priority=priority)(lambda x: name)


FAST, SLOW = torch.zeros(1), torch.zeros(1, dtype=torch.float64)


def test_auto_takes_the_fastest_that_runs(two_ways):
    assert dispatch.call('op', 'auto', FAST) == 'triton'
    assert dispatch.call('op', 'auto', SLOW) == 'reference'


def test_auto_logs_a_fallback_once(two_ways, caplog):
    with caplog.at_level(logging.WARNING, logger='mmvssd'):
        for _ in range(3):
            dispatch.call('op', 'auto', SLOW)
    assert [record.getMessage() for record in caplog.records] == [
        'op: not using triton: no float64']


@pytest.mark.parametrize(('gpu', 'reason', 'level'), [
    (False, '', logging.DEBUG), (True, '', logging.WARNING),
    (False, 'Triton is not installed', logging.WARNING)])
def test_a_gpu_that_is_not_there_is_no_news(monkeypatch, caplog, gpu, reason, level):
    """But tensors on the CPU beside a GPU are, and so is what else keeps Triton away."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(triton_support, 'INSTALLED', True)
    monkeypatch.setattr(triton_support, '_version', lambda: '3.3.0')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    reason = reason or triton_support.obstacle(FAST)
    dispatch._log_fallback.cache_clear()
    with caplog.at_level(logging.DEBUG, logger='mmvssd'):
        dispatch._report_fallback('op', 'triton', reason)
    (record, ) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, f'op: not using triton: {reason}')


def test_environment_sets_what_auto_means(two_ways, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'reference')
    assert dispatch.call('op', 'auto', FAST) == 'reference'
    assert dispatch.call('op', 'triton', FAST) == 'triton'


@pytest.mark.parametrize('by_environment', [False, True])
def test_a_choice_that_cannot_run_raises(two_ways, monkeypatch, by_environment):
    impl = 'triton'
    if by_environment:
        monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'triton')
        impl = 'auto'
    with pytest.raises(RuntimeError, match=r"'triton' cannot run: no float64.*reference"):
        dispatch.call('op', impl, SLOW)


@pytest.mark.parametrize('choice', ['cuda', 'numba', None, ''])
def test_unknown_choice_lists_the_known(two_ways, choice):
    with pytest.raises(ValueError, match=rf'impl={choice!r} is not an implementation of op; '
                                         'what fits: auto, triton, reference'):
        dispatch.call('op', choice, FAST)


def test_unknown_choice_of_the_environment(two_ways, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'fast')
    with pytest.raises(ValueError, match=r"MMVSSD_KERNEL='fast' is not .*: auto, triton, ref"):
        dispatch.call('op', 'auto', FAST)
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, '')  # as if it was not set
    assert dispatch.call('op', 'auto', FAST) == 'triton'


def test_choices_are_those_of_the_op(two_ways):
    """What one op has, another may lack."""
    register('reference', op='other', priority=0)
    with pytest.raises(ValueError, match="'triton' is not an implementation of other; "
                                         'what fits: auto, reference'):
        dispatch.call('other', 'triton', FAST)


def test_auto_heeds_a_drawback_that_a_name_overrides(two_ways, caplog):
    register('quick', lambda x: None, lambda x: 'it is slow', priority=200)
    assert dispatch.call('op', 'auto', FAST) == 'triton'
    assert dispatch.call('op', 'quick', FAST) == 'quick'
    assert 'op: not using quick: it is slow' in caplog.text


def test_objections_see_all_arguments(two_ways):
    dispatch.register('other', 'triton', lambda x, *, size: f'size {size}', priority=1)(None)
    dispatch.register('other', 'reference', priority=0)(lambda x, *, size: size)
    assert dispatch.call('other', 'auto', FAST, size=3) == 3
    with pytest.raises(dispatch.CannotRun, match='size 4') as raised:
        dispatch.call('other', 'triton', FAST, size=4)
    assert raised.value.reason == 'size 4'


def test_shapes_alone_log_nothing(two_ways, caplog):
    dispatch.call('op', 'auto', SLOW.to('meta'))
    assert not caplog.records


def test_a_fallback_in_a_compiled_graph_is_logged(two_ways, caplog):
    compiled = torch.compile(lambda x: x + len(dispatch.call('op', 'auto', x)), fullgraph=True,
                             backend='eager')
    assert compiled(SLOW) == len('reference')
    assert 'op: not using triton: no float64' in caplog.text


def test_what_ran_and_why(two_ways, monkeypatch):
    assert dispatch.used() == {}
    dispatch.call('op', 'auto', SLOW.to('meta'))
    assert dispatch.used() == {}
    dispatch.call('op', 'auto', FAST)
    dispatch.call('op', 'triton', FAST)  # the first reason stays
    dispatch.call('op', 'auto', SLOW)
    assert dispatch.used() == {'op': {'triton': 'the fastest',
                                      'reference': 'not triton: no float64'}}
    dispatch.forget_used()
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'reference')
    dispatch.call('op', 'auto', FAST)
    assert dispatch.used() == {'op': {'reference': 'MMVSSD_KERNEL=reference'}}
    dispatch.forget_used()
    dispatch.call('op', 'triton', FAST)
    assert dispatch.used() == {'op': {'triton': 'impl=triton'}}


def test_a_choice_that_cannot_run_is_not_what_ran(two_ways):
    with pytest.raises(RuntimeError, match='cannot run'):
        dispatch.call('op', 'triton', SLOW)
    assert dispatch.used() == {}


def test_what_ran_in_a_compiled_graph(two_ways):
    compiled = torch.compile(lambda x: x + len(dispatch.call('op', 'auto', x)), fullgraph=True,
                             backend='eager')
    for _ in range(2):
        assert compiled(SLOW) == len('reference')
    assert dispatch.used() == {'op': {'reference': 'not triton: no float64'}}


def test_the_environment_is_read_when_a_graph_is_traced(two_ways, monkeypatch):
    """Set or not: PyTorch 2.4 could not trace a variable that is not there."""
    for value, ran in ((None, 'triton'), ('reference', 'reference'), ('triton', 'triton')):
        if value:
            monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, value)
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: x + len(dispatch.call('op', 'auto', x)), fullgraph=True,
                                 backend='eager')
        assert compiled(FAST) == len(ran)


@pytest.mark.parametrize(('priority', 'order'), [
    (200, ('mine', 'triton', 'reference')), (50, ('triton', 'mine', 'reference')),
    # of equal ones the first to be registered
    (100, ('triton', 'mine', 'reference')), (-1, ('triton', 'reference', 'mine'))])
def test_priorities(two_ways, priority, order):
    register('mine', priority=priority)
    assert dispatch.names('op') == order
    assert dispatch.call('op', 'auto', FAST) == order[0]
    assert dispatch.call('op', 'mine', FAST) == 'mine'


def test_fallbacks_go_down_the_priorities(two_ways, caplog):
    register('mine', lambda x: 'no such device', priority=200)
    assert dispatch.call('op', 'auto', SLOW) == 'reference'
    assert [record.getMessage() for record in caplog.records] == [
        'op: not using mine: no such device', 'op: not using triton: no float64']
    assert dispatch.used() == {'op': {
        'reference': 'not mine: no such device; not triton: no float64'}}


def test_when_nothing_can_run_all_reasons_are_told(two_ways):
    dispatch.unregister('op', 'reference')
    with pytest.raises(RuntimeError, match='op: no implementation can run .*: '
                                           'not triton: no float64'):
        dispatch.call('op', 'auto', SLOW)
    with pytest.raises(RuntimeError, match='other: .*: none is registered'):
        dispatch.call('other', 'auto', FAST)


def test_unregister(two_ways, monkeypatch):
    register('mine', priority=200)
    dispatch.unregister('op', 'mine')
    assert dispatch.names('op') == ('triton', 'reference')
    assert dispatch.call('op', 'auto', FAST) == 'triton'
    with pytest.raises(ValueError, match="'mine' is not an implementation of op"):
        dispatch.call('op', 'mine', FAST)
    with pytest.raises(ValueError, match="op has no implementation 'mine'; it has: triton, ref"):
        dispatch.unregister('op', 'mine')
    register('mine', priority=1)  # the name is free again
    assert dispatch.names('op') == ('triton', 'mine', 'reference')


@pytest.mark.parametrize(('op', 'name', 'message'), [
    ('nc_sdd', 'mine', "there is no op 'nc_sdd'; the ops are: op, other"),
    ('op', 'auto', "got the name 'auto', expected a word that is not 'auto'"),
    ('op', '', "got the name ''"), ('op', None, 'got the name None'),
    ('op', 'triton', "op has an implementation 'triton' already"),
])
def test_what_cannot_be_registered(two_ways, op, name, message):
    with pytest.raises(ValueError, match=message):
        dispatch.register(op, name, priority=1)
    assert dispatch.names('op') == ('triton', 'reference')


@pytest.fixture
def outsider(monkeypatch):
    """Somebody's implementation of ``cross_scan``, which takes squares; taken out afterwards."""
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    dispatch._log_fallback.cache_clear()

    def obstacle(x, pattern):
        return None if x.shape[2] == x.shape[3] else f'the grid {tuple(x.shape[2:])} is no square'

    @dispatch.register('cross_scan', 'mine', obstacle, priority=200)
    def scan(x, pattern):
        scan.calls += 1
        return mmvssd_kernels.cross_scan(x, pattern, impl='reference')

    scan.calls = 0
    yield scan
    if 'mine' in dispatch.names('cross_scan'):
        dispatch.unregister('cross_scan', 'mine')


SQUARE, OBLONG = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 4)


@pytest.mark.parametrize('by', ['impl', 'environment', 'priority'])
def test_an_outsider_s_implementation_of_an_op(outsider, by, monkeypatch):
    if by == 'environment':
        monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'mine')
    choice = 'mine' if by == 'impl' else 'auto'
    y = mmvssd_kernels.cross_scan(SQUARE, impl=choice)
    assert torch.equal(y, mmvssd_kernels.cross_scan(SQUARE, impl='reference'))
    assert outsider.calls == 1
    if by == 'priority':
        mmvssd_kernels.cross_scan(OBLONG)
    else:
        told = 'impl' if by == 'impl' else 'MMVSSD_KERNEL'
        message = (rf"{told}='mine' cannot run: the grid \(3, 4\) is no square. "
                   'What can run here: auto, reference')
        with pytest.raises(RuntimeError, match=message):
            mmvssd_kernels.cross_scan(OBLONG, impl=choice)
    assert outsider.calls == 1


def test_an_outsider_s_implementation_is_told_of_when_it_is_passed_over(outsider, caplog):
    for _ in range(2):
        mmvssd_kernels.cross_scan(OBLONG)
    assert [record.getMessage() for record in caplog.records if 'mine' in record.getMessage()] == [
        'cross_scan: not using mine: the grid (3, 4) is no square']


def test_an_outsider_s_implementation_taken_out(outsider):
    dispatch.unregister('cross_scan', 'mine')
    mmvssd_kernels.cross_scan(SQUARE)
    assert outsider.calls == 0
    with pytest.raises(ValueError, match=r"impl='mine' is not an implementation of cross_scan; "
                                         'what fits: auto, triton, reference'):
        mmvssd_kernels.cross_scan(SQUARE, impl='mine')


def test_an_outsider_s_implementation_meets_the_bar_of_ours(outsider):
    """With the description of the op it needs no inputs of its own to be compared."""
    squares = [parity.Case.example('cross_scan', seed, H=3, W=3) for seed in range(2)]
    assert parity.failures(squares, torch.float32, impl='mine') == ()
    assert outsider.calls == 2


def test_every_op_has_kernels_before_its_reference():
    for op in dispatch.ops():
        numba = ('numba',) if op.startswith('selective_scan') else ()
        # of what is exportable itself there is no other form
        export = () if op in ('nc_ssd', 'ssd') else ('export',)
        assert dispatch.names(op) == ('triton', *numba, 'reference', *export)


def test_an_export_takes_what_is_exportable(two_ways, monkeypatch, caplog):
    register('standard', priority=-1)
    dispatch.register('op', 'mine', priority=-2, exportable=True)(lambda x: 'mine')
    assert dispatch.call('op', 'auto', FAST) == 'triton'
    dispatch.forget_used()
    monkeypatch.setattr(dispatch, 'exporting', lambda: True)
    assert dispatch.call('op', 'auto', SLOW) == 'mine'
    assert dispatch.used() == {'op': {'mine': 'a model is exported'}}
    assert not caplog.records  # it is no fallback
    assert dispatch.call('op', 'reference', FAST) == 'reference'
    dispatch.unregister('op', 'mine')
    assert dispatch.call('op', 'auto', FAST) == 'triton'


def test_every_op_is_exportable():
    for op in dispatch.ops():
        assert [way.exportable for way in dispatch._implementations[op].values()].count(True) == 1
