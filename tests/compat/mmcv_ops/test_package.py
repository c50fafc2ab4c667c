"""How ``mmcv._ext`` is found, what it has, who serves it."""
import ast
import contextlib
import inspect
import re
import sys
from pathlib import Path

import mmcv
import pytest
import torch

from mmvssd.compat import mmcv_ops
from mmvssd.compat.mmcv_ops.names import FAMILIES, UNSERVED, op_of

NAMES = {*UNSERVED, *(name for names in FAMILIES.values() for name in names)}

PROBE = """
import sys
import mmvssd
from mmvssd.compat import mmcv_ops
print([name for name in ('mmcv', 'mmdet', 'torchvision') if name in sys.modules])
import mmcv.ops
print(mmcv.ops.RoIAlign(7))
print(sys.modules['mmcv._ext'].__spec__.origin)
print(mmcv.ops.get_compiler_version())
mmcv_ops.apply()
print([type(finder).__name__ for finder in sys.meta_path].count('_Finder'))
"""


@pytest.mark.slow
def test_import_mmvssd_is_enough_and_a_compiled_mmcv_keeps_its_own(python):
    done = python('-W', 'ignore', '-c', PROBE)
    assert done.returncode == 0, done.stderr
    imported, layer, origin, compiler, finders = done.stdout.splitlines()
    assert imported == '[]'
    assert layer.startswith('RoIAlign(output_size=(7, 7)')
    assert finders == '1'
    compiled = list(Path(mmcv.__file__).parent.glob('_ext.*so'))
    if compiled:
        assert origin == str(compiled[0])
        assert 'mmvssd' not in compiler
    else:
        assert origin == 'mmvssd.compat.mmcv_ops'
        assert compiler.startswith('none; the ops are served by mmvssd')


def test_another_mmcv_that_is_compiled_comes_first(python, tmp_path):
    """A package of that name with a module of that name, earlier on the path."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    (tmp_path / 'mmcv' / '_ext.py').write_text('nms = "compiled"')
    done = python('-c', f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from mmvssd.compat import mmcv_ops
mmcv_ops.apply()
import mmcv._ext
print(mmcv._ext.nms)
print(set(mmcv_ops.providers().values()))
""")
    assert done.stdout.splitlines() == ['compiled', "{'mmcv (compiled)'}"], done.stderr


def test_every_name_that_mmcv_asks_for_is_there():
    """``load_ext('_ext', [...])`` in each file of mmcv.ops asserts its names."""
    asked = set()
    for file in Path(mmcv.__file__).parent.joinpath('ops').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                asked |= set(ast.literal_eval(node.args[1]))
    assert len(asked) > 80
    assert asked <= NAMES
    assert all(callable(getattr(mmcv_ops.extension(), name)) for name in NAMES)
    assert not hasattr(mmcv_ops.extension(), 'an_op_of_tomorrow')


def test_the_names_are_those_of_the_compiled_module(compiled):
    assert {name for name in dir(compiled) if not name.startswith('__')} == NAMES


def test_arguments_are_named_as_in_the_compiled_module(compiled):
    """pybind11 writes the arguments' names into the docstring."""
    for family, names in FAMILIES.items():
        for name in names:
            expected = re.findall(r'(\w+): ', getattr(compiled, name).__doc__.split('->')[0])
            own = list(inspect.signature(getattr(mmcv_ops.extension(), name)).parameters)
            assert own == expected, (family, name)


def test_an_op_that_nobody_serves_raises_when_called(own_ops):
    pool = own_ops.PrRoIPool((2, 2))
    with pytest.raises(NotImplementedError) as caught:
        pool(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5))
    message = str(caught.value)
    assert message.startswith('prroi_pool_forward is one of mmcv')
    assert 'tools/setup.sh --with-compiled-mmcv' in message
    assert 'mmcv==2.1.0' in message


def test_nothing_is_both_served_and_refused():
    served = [name for names in FAMILIES.values() for name in names]
    assert len(served) == len(set(served))
    assert not set(served) & set(UNSERVED)


@pytest.mark.parametrize(('name', 'op'), [
    ('roi_align_backward', 'roi_align'),
    ('deform_conv_backward_parameters', 'deform_conv'),
    ('sync_bn_forward_mean', 'sync_bn'),
    ('nms', 'nms'),
])
def test_op_of(name, op):
    assert op_of(name) == op


def test_providers_where_nothing_is_compiled(monkeypatch):
    finder = mmcv_ops._Finder()
    monkeypatch.setattr(mmcv_ops, '_installed', lambda: finder.find_spec(mmcv_ops.MODULE))
    served = mmcv_ops.providers()
    assert served['softnms'] == 'mmvssd'
    assert served['nms'] in ('mmvssd', 'torchvision')
    assert served['prroi_pool'] is None


def test_providers_without_mmcv(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    assert set(mmcv_ops.providers().values()) == {None}


def test_served_by_is_undone_after_an_error(own_ops):
    user, stand_in = sys.modules['mmcv.ops.nms'], type(sys)('stand_in')
    before = user.ext_module
    with contextlib.suppress(KeyError), mmcv_ops.served_by(stand_in):
        assert user.ext_module is stand_in
        raise KeyError
    assert user.ext_module is before
