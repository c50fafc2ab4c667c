import logging

import pytest
import torch

from mmvssd_kernels import dispatch


@pytest.fixture
def two_ways(monkeypatch):
    """An op with a fast implementation that refuses float64, and a reference."""
    monkeypatch.setattr(dispatch, '_implementations', dispatch.defaultdict(dict))
    monkeypatch.setattr(dispatch, '_used', {})
    dispatch._log_fallback.cache_clear()
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    refuses = lambda x: 'no float64' if x.dtype == torch.float64 else None  # noqa: E731
    dispatch.register('op', 'reference')(lambda x: 'reference')
    dispatch.register('op', 'triton', refuses)(lambda x: 'triton')


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


def test_unknown_choice_lists_the_known(two_ways, monkeypatch):
    with pytest.raises(ValueError, match=r"impl='cuda'.*auto, triton, reference"):
        dispatch.call('op', 'cuda', FAST)
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'fast')
    with pytest.raises(ValueError, match=r"MMVSSD_KERNEL='fast'"):
        dispatch.call('op', 'auto', FAST)


def test_an_implementation_that_is_not_there_raises(two_ways):
    dispatch.register('other', 'reference')(lambda x: 'reference')
    with pytest.raises(RuntimeError, match='other has no triton implementation'):
        dispatch.call('other', 'triton', FAST)


def test_auto_heeds_a_drawback_that_a_name_overrides(two_ways, caplog):
    dispatch.register('op', 'triton', drawback=lambda x: 'it is slow')(lambda x: 'triton')
    assert dispatch.call('op', 'auto', FAST) == 'reference'
    assert dispatch.call('op', 'triton', FAST) == 'triton'
    assert 'op: not using triton: it is slow' in caplog.text


def test_objections_see_all_arguments(two_ways):
    dispatch.register('op', 'triton', lambda x, *, size: f'size {size}')(None)
    dispatch.register('op', 'reference')(lambda x, *, size: size)
    assert dispatch.call('op', 'auto', FAST, size=3) == 3
    with pytest.raises(RuntimeError, match='size 4'):
        dispatch.call('op', 'triton', FAST, size=4)


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
