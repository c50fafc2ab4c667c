import logging

import pytest
import torch

from mmvssd_kernels import dispatch


@pytest.fixture
def two_ways(monkeypatch):
    """An op with a fast implementation that refuses float64, and a reference."""
    monkeypatch.setattr(dispatch, '_implementations', dispatch.defaultdict(dict))
    dispatch._log_fallback.cache_clear()
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    refuses = lambda x: 'no float64' if x.dtype == torch.float64 else None  # noqa: E731
    dispatch.register('op', 'reference')(lambda: 'reference')
    dispatch.register('op', 'triton', refuses)(lambda: 'triton')


FAST, SLOW = torch.zeros(1), torch.zeros(1, dtype=torch.float64)


def test_auto_takes_the_fastest_that_runs(two_ways):
    assert dispatch.select('op', 'auto', FAST)() == 'triton'
    assert dispatch.select('op', 'auto', SLOW)() == 'reference'


def test_auto_logs_a_fallback_once(two_ways, caplog):
    with caplog.at_level(logging.WARNING, logger='mmvssd'):
        for _ in range(3):
            dispatch.select('op', 'auto', SLOW)
    assert [record.getMessage() for record in caplog.records] == [
        'op: not using triton: no float64']


def test_environment_sets_what_auto_means(two_ways, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'reference')
    assert dispatch.select('op', 'auto', FAST)() == 'reference'
    assert dispatch.select('op', 'triton', FAST)() == 'triton'


@pytest.mark.parametrize('by_environment', [False, True])
def test_a_choice_that_cannot_run_raises(two_ways, monkeypatch, by_environment):
    impl = 'triton'
    if by_environment:
        monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'triton')
        impl = 'auto'
    with pytest.raises(RuntimeError, match=r"'triton' cannot run: no float64.*reference"):
        dispatch.select('op', impl, SLOW)


def test_unknown_choice_lists_the_known(two_ways, monkeypatch):
    with pytest.raises(ValueError, match=r"impl='cuda'.*auto, triton, reference"):
        dispatch.select('op', 'cuda', FAST)
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'fast')
    with pytest.raises(ValueError, match=r"MMVSSD_KERNEL='fast'"):
        dispatch.select('op', 'auto', FAST)


def test_an_implementation_that_is_not_there_raises():
    with pytest.raises(RuntimeError, match='nc_ssd has no triton implementation'):
        dispatch.select('nc_ssd', 'triton', FAST)
