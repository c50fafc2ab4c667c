"""MMPreTrain beside a transformers that lacks what its language models import."""
import ast
import importlib
from pathlib import Path

import pytest
from mmengine.registry import Registry

dependency = pytest.importorskip('mmpretrain.utils.dependency')
multimodal = importlib.import_module('mmvssd.compat.multimodal')


def test_what_the_language_models_need_is_listed():
    folder = Path(dependency.__file__).parents[1] / 'models'
    files = [*folder.glob('multimodal/**/*.py'), folder / 'utils' / 'huggingface.py',
             folder / 'utils' / 'tokenizer.py']
    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    needed = {name: tuple(sorted(names)) for name, names in found.items()
              if name.partition('.')[0] == 'transformers'}
    assert {name: tuple(sorted(names)) for name, names in multimodal.NEEDED.items()} == needed


def fake_transformers(make_package, missing=()):
    """Make a transformers that has what is needed, but for some."""
    lines = ['import sys, types']
    for module, attributes in multimodal.NEEDED.items():
        names = [name for name in attributes if f'{module}.{name}' not in missing]
        lines.append(f'module = sys.modules.setdefault({module!r}, types.ModuleType({module!r}))')
        lines.append(f'vars(module).update(dict.fromkeys({names}, 1))')
    make_package('transformers', __init__='\n'.join(lines))


@pytest.mark.parametrize(('missing', 'lack'), [
    ((), None),
    (['transformers.modeling_utils.GenerationMixin'],
     'has no transformers.modeling_utils.GenerationMixin'),
    (['transformers.PreTrainedModel'], 'has no transformers.PreTrainedModel')])
def test_what_a_transformers_lacks(make_package, missing, lack):
    fake_transformers(make_package, missing)
    assert multimodal._lack() == lack


def test_a_transformers_that_does_not_import(make_package):
    make_package('transformers', __init__='1 / 0')
    assert multimodal._lack() == ('does not import transformers '
                                  '(ZeroDivisionError: division by zero)')


def test_mmpretrain_takes_the_models_for_not_installed(make_package, monkeypatch, caplog):
    registry = Registry('model')
    for name in ('WITH_MULTIMODAL', 'register_multimodal_placeholder'):
        monkeypatch.setattr(dependency, name, getattr(dependency, name))
    monkeypatch.setattr(multimodal, '_reason', '')
    fake_transformers(make_package, ['transformers.modeling_utils.prune_linear_layer'])
    dependency.WITH_MULTIMODAL = False  # not installed: nothing to do
    multimodal.apply()
    assert multimodal.notice() is None
    assert multimodal.idle()
    dependency.WITH_MULTIMODAL = True
    for _ in range(2):
        multimodal.apply()
    assert dependency.WITH_MULTIMODAL is False
    assert multimodal.idle() is None
    assert [record.getMessage() for record in caplog.records] == [multimodal.notice()]
    assert 'transformers has no transformers.modeling_utils.prune_lin' in multimodal.notice()
    dependency.register_multimodal_placeholder(['OFA', 'RAM'], registry)
    with pytest.raises(ImportError, match="OFA is left out here: .* pip install 'transformers>="):
        registry.build(dict(type='OFA'))
