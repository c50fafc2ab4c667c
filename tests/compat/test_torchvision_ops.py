"""``import torchvision`` beside a PyTorch that its wheel was not built for."""
import importlib.util

import pytest

from mmvssd.compat import torchvision_ops

# Prints whether torchvision imports, and what its nms does.
PROBE = """
import sys
try:
    import torchvision
except RuntimeError as error:
    raise SystemExit(f'import: {error}')
import torch
try:
    kept = torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]] * 2), torch.tensor([.9, .8]), 0.5)
    print('nms', kept.tolist())
except RuntimeError as error:
    print('nms error', error)
assert 'mmengine' not in sys.modules  # for torchvision's sake alone
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('torchvision') is None,
                    reason='torchvision is not installed')
def test_imports_and_nms_is_right_or_says_why(run_installed):
    stock = run_installed('-c', f'try:\n    exec({PROBE!r})\nexcept SystemExit as e: print(e)',
                          env={'MMVSSD_PATCHES': 'off'})
    done = run_installed('-c', PROBE)
    if stock.startswith('import: '):
        assert 'torchvision::nms does not exist' in stock
        assert "nms error Couldn't load custom C++ ops" in done
    else:
        assert done == stock


@pytest.fixture
def declared(monkeypatch):
    """The schemas that ``apply`` declares, without declaring them."""
    schemas = []

    class Library:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ('torchvision', 'FRAGMENT')

        def define(self, schema):
            schemas.append(schema)

    monkeypatch.setattr(torchvision_ops.torch.library, 'Library', Library)
    monkeypatch.setattr(torchvision_ops, '_libraries', [])
    return schemas


@pytest.mark.parametrize('there', [(), ('nms', ), ('nms', 'qnms')])
def test_declares_what_is_missing(declared, monkeypatch, there):
    ops = type('Ops', (), dict.fromkeys(there))
    monkeypatch.setattr(torchvision_ops.torch.ops, 'torchvision', ops)
    torchvision_ops.apply()
    missing = [name for name in ('nms', 'qnms') if name not in there]
    assert [schema.partition('(')[0] for schema in declared] == missing
    assert (torchvision_ops.idle() is None) == bool(missing)
