"""Which Triton the kernels run on."""
import ast
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmvssd_kernels import cross_scan, dispatch, triton_support

GRID = torch.rand(1, 2, 3, 4)


@pytest.fixture
def installed(monkeypatch):
    """Makes up the version of Triton, or that there is none."""
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    dispatch._log_fallback.cache_clear()

    def install(version):
        monkeypatch.setattr(triton_support, 'INSTALLED', version is not None)
        monkeypatch.setattr(triton_support, '_version', lambda: version)

    return install


@pytest.mark.parametrize(('version', 'told'), [
    ('2.3.1', "Triton 2.3.1 is installed, 3.0 is needed: pip install 'triton>=3.0'"),
    ('2.1.0+abc', r'Triton 2.1.0\+abc is installed, 3.0 is needed'),
    (None, 'Triton is not installed: pip install triton'),
])
def test_a_triton_that_is_too_old_or_not_there(installed, version, told, caplog):
    installed(version)
    with pytest.raises(dispatch.CannotRun, match=f"impl='triton' cannot run: {told}"):
        cross_scan(GRID, impl='triton')
    with caplog.at_level(logging.WARNING, logger='mmvssd'):
        for _ in range(2):
            assert torch.equal(cross_scan(GRID), cross_scan(GRID, impl='reference'))
    (record, ) = caplog.records
    assert record.getMessage().startswith('cross_scan: not using triton: Triton ')


@pytest.mark.parametrize('version', ['3.2.0', '3.7.1', '3.3.0+git1', '4.0', '10.2'])
def test_versions_that_fit(installed, version):
    installed(version)
    assert triton_support.obstacle(GRID) is None


@pytest.mark.parametrize(('version', 'fits'), [('3.0.0', False), ('3.2.0+git1', False),
                                               ('3.3.0', True), ('3.7.1', True)])
def test_a_compiler_that_ends_the_process(installed, monkeypatch, version, fits):
    installed(version)
    monkeypatch.setenv('TRITON_INTERPRET', '0')
    monkeypatch.setattr(triton_support, '_query', lambda index: None)
    x = SimpleNamespace(device=torch.device('cuda', 0), dtype=torch.float32)
    reason = triton_support.obstacle(x)
    assert reason is None if fits else '3.3 is needed, which PyTorch 2.7 brings' in reason
    assert 'needs a CUDA GPU' in triton_support.obstacle(GRID)


def test_conditions_are_those_of_the_oldest_compiler():
    """Triton 3.3 joins two at a time, and a comparison of dtypes only behind a constant."""
    folder = Path(triton_support.__file__).parent
    jitted = [node for file in folder.rglob('triton_*.py')
              for node in ast.walk(ast.parse(file.read_text()))
              if isinstance(node, ast.FunctionDef)
              and any('triton.jit' in ast.unparse(one) for one in node.decorator_list)]
    joined = [(function.name, node) for function in jitted for node in ast.walk(function)
              if isinstance(node, ast.BoolOp)]
    wrong = [(name, ast.unparse(node)) for name, node in joined
             if len(node.values) > 2 or (isinstance(node.values[0], ast.Compare)
                                         and '.dtype' in ast.unparse(node.values[0]))]
    assert len(joined) > 10
    assert not wrong


@pytest.mark.parametrize(('version', 'numpy', 'fits'), [
    ('3.0.0', '1.26.4', True), ('3.1.0+git1', '2.2.6', False), ('3.2.0', '2.0.0', True)])
def test_an_interpreter_that_writes_nothing(installed, monkeypatch, version, numpy, fits):
    installed(version)
    monkeypatch.setattr(triton_support.importlib.metadata, 'version', lambda name: numpy)
    reason = triton_support.obstacle(GRID)
    assert reason is None if fits else 'interpreter writes nothing with NumPy 2' in reason


@pytest.mark.parametrize(('size', 'expected'), [(0, 1), (1, 1), (2, 2), (3, 4), (65, 128)])
def test_power_of_two(size, expected):
    assert triton_support.power_of_two(size) == expected


def test_the_version_is_that_of_triton():
    triton = pytest.importorskip('triton')
    assert triton_support._version().split('+')[0] == triton.__version__.split('+')[0]


@pytest.fixture
def matmul_settings():
    """Puts back what allows TF32; the newer setting first, for without it the older one raises."""
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, 'fp32_precision', None)
    yield matmul
    if newer is not None:
        matmul.fp32_precision = 'ieee'
    torch.set_float32_matmul_precision('highest')
    if newer is not None:
        matmul.fp32_precision = newer


def test_tf32_by_the_older_setting(matmul_settings):
    pytest.importorskip('triton')
    for name, allowed in (('high', True), ('medium', True), ('highest', False)):
        torch.set_float32_matmul_precision(name)
        dtype, precision = triton_support.products(torch.float32, torch.device('cpu'))
        assert dtype == torch.float32
        assert (precision == 'tf32') == allowed, name


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, 'fp32_precision'),
                    reason='PyTorch before 2.9')
def test_tf32_by_the_newer_setting(matmul_settings):
    """PyTorch's getter of the older setting raises then."""
    pytest.importorskip('triton')
    for name, allowed in (('tf32', True), ('ieee', False)):
        matmul_settings.fp32_precision = name
        _, precision = triton_support.products(torch.float32, torch.device('cpu'))
        assert (precision == 'tf32') == allowed, name


KEYS = """
import sys
from mmvssd_kernels import triton_support
found = {}
for place in sys.argv[2:]:
    op, _, module = place.partition('.')
    functions = vars(triton_support.kernels(op, module or 'triton_kernels'))
    # keys are worked out when they are asked for
    for name in sorted(functions, reverse=sys.argv[1] == 'reverse'):
        if not isinstance(functions[name], type) and hasattr(functions[name], 'cache_key'):
            found[place, name] = functions[name].cache_key
print(sorted(found.items()))
"""


def test_kernels_on_disk_are_found_whichever_op_came_first():
    pytest.importorskip('triton')
    ops = ['selective_scan', 'nc_ssd', 'nc_ssd.triton_normalized', 'ssd', 'cross_scan']
    found = [subprocess.run([sys.executable, '-c', KEYS, *order], text=True, check=True,
                            stdout=subprocess.PIPE, env={**os.environ, 'TRITON_INTERPRET': '0'}
                            ).stdout for order in (['as they are', *ops], ['reverse', *ops[::-1]])]
    assert found[0] == found[1]
    assert found[0].count('outputs') >= 3
