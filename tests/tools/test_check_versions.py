"""tools/check_versions.py: rows of the page, and why a step failed; no environment is made."""
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch, tmp_path):
    """A fresh copy of the module, with a page of its own."""
    spec = importlib.util.spec_from_file_location('check_versions',
                                                  ROOT / 'tools' / 'check_versions.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = tmp_path / 'compat.md'
    page.write_text(f'before\n\n{module.BEGIN}\n{module.END}\nafter\n')
    monkeypatch.setattr(module, 'PAGE', page)
    return module


def row(python, torch, result='9 passed in 1 s'):
    return [python, torch, '0.19.1', '3.0.0', 'fast', result]


def test_rows_are_ordered_and_replaced(module):
    for cells in (row('3.12', '2.13.0'), row('3.12', '2.4.1', 'old'), row('3.10', '2.6.0'),
                  row('3.12', '2.4.1')):
        module.record(cells)
    text = module.PAGE.read_text()
    rows = module.read_rows(text)
    assert list(rows) == [('3.10', '2.6.0'), ('3.12', '2.4.1'), ('3.12', '2.13.0')]
    assert rows['3.12', '2.4.1'] == row('3.12', '2.4.1')
    assert text.startswith('before\n\n')
    assert text.endswith('\nafter\n')
    assert [path.name for path in module.PAGE.parent.iterdir()] == ['compat.md']


def test_the_projects_page_has_the_section(module):
    text = (ROOT / 'docs' / 'compat.md').read_text()
    assert module.write_rows(text, module.read_rows(text)) == text
    for cells in module.read_rows(text).values():
        assert len(cells) == module.HEADER[1].count('---')


@pytest.mark.parametrize(('output', 'expected'), [
    ('ERROR: a\nERROR: No matching distribution found for torch==9\n',
     'ERROR: No matching distribution found for torch==9'),
    ('E  ImportError: x\n== 2 failed, 7 passed in 3.1s ==\n', '2 failed, 7 passed in 3.1s'),
    ('2 failed, 7 passed in 3.1s', '2 failed, 7 passed in 3.1s'),
    ('\nSet-up stopped: no disk\n  more\n', 'Set-up stopped: no disk'),
    ('Traceback\nImportError: libx.so\n', 'ImportError: libx.so'),
    ('', 'no output'),
])
def test_why_a_step_failed(module, output, expected):
    assert module.reason(output) == expected


def test_interpreters(module, monkeypatch, tmp_path):
    here = '.'.join(map(str, sys.version_info[:2]))
    python = tmp_path / 'versions' / f'{here}.99' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setenv('PYENV_ROOT', str(tmp_path))
    monkeypatch.setenv('PATH', '')
    assert module.find_python(here) == python
    with pytest.raises(module.Failure, match='not run: no Python 3.99 here'):
        module.find_python('3.99')


def test_steps_in_order(module, monkeypatch, tmp_path, capsys):
    """A failed pair is a row too, and the exit status; its environment is removed."""
    ran = []

    def run(step, command, log, **environment):
        ran.append(step)
        if step == 'virtualenv':
            Path(command[-1]).mkdir()
        if step == 'set-up':
            assert Path(environment['VIRTUAL_ENV']).is_dir()
        if step == 'PyTorch':
            assert command[-2:] == ['torch==2.6.0', 'torchvision==0.21.*']
        if step == 'tests':
            raise module.Failure('tests: 1 failed')

    monkeypatch.setattr(module, 'run', run)
    monkeypatch.setattr(module, 'find_python', lambda version: sys.executable)
    monkeypatch.setattr(module, 'installed', lambda python: dict(torchvision='0.21.0'))
    monkeypatch.setattr(sys, 'argv', ['x', '3.12:2.6.0', '--folder', str(tmp_path / 'work')])
    assert module.main() == 1
    assert ran == ['virtualenv', 'PyTorch', 'set-up', 'tests']
    assert module.read_rows(module.PAGE.read_text())['3.12', '2.6.0'] == [
        '3.12', '2.6.0', '0.21.0', '', 'fast', 'tests: 1 failed']
    assert not list((tmp_path / 'work').iterdir())
    assert '0 of 1 work' in capsys.readouterr().out


@pytest.mark.parametrize('pair', ['3.12', '3.12:2.6', 'x'])
def test_pairs_that_are_none(module, monkeypatch, capsys, pair):
    monkeypatch.setattr(sys, 'argv', ['x', pair])
    with pytest.raises(SystemExit):
        module.main()
    assert f'got {pair}, expected such as 3.12:2.6.0' in capsys.readouterr().err
