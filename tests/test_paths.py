"""What messages say of paths that are not there."""
from pathlib import Path

import pytest

from mmvssd.checkpoint import read_checkpoint
from mmvssd.cli.launch import find_config, load_config
from mmvssd.deployment.exported import open_exported
from mmvssd.errors import CheckpointError, ConfigError, DataError
from mmvssd.new_recipe import new_recipe
from mmvssd.paths import pattern_hint, seen_from
from mmvssd.reports.runs.folder import read_folder

RECIPE = 'samples/vssd-nano_1xb64_digits.py'


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The current folder, with two runs in it."""
    for name in ('a', 'b'):
        folder = tmp_path / 'runs' / name
        folder.mkdir(parents=True)
        for file in ('epoch_3.pth', 'model.onnx', 'recipe.py'):
            (folder / file).write_text('')
    monkeypatch.chdir(tmp_path)


def test_what_fits_a_pattern(runs, tmp_path):
    assert pattern_hint('runs/c') == pattern_hint('runs/[1]') == ''
    assert pattern_hint('runs/c*') == '; it is a pattern that nothing fits'
    hint = '; it is a pattern, and one path is expected here. What fits it: runs/a, runs/b'
    assert pattern_hint('runs/[ab]') == hint
    assert seen_from('runs/*') == f' (seen from {tmp_path}){hint}'


@pytest.mark.parametrize(('read', 'given', 'error'), [
    (read_checkpoint, 'runs/*/epoch_3.pth', CheckpointError),
    (open_exported, 'runs/*/model.onnx', ConfigError),
    (find_config, 'runs/*/recipe.py', ConfigError),
    (lambda given: read_folder(Path(given)), 'ru*', ConfigError),
    (lambda given: load_config(RECIPE, work_dir=given), 'runs/*', ConfigError),
    (lambda given: new_recipe(given, 'new/r.py', arch='vssd-nano'), 'runs/*', DataError),
])
def test_a_pattern_where_one_path_is_expected(read, given, error, runs):
    with pytest.raises(error) as caught:
        read(given)
    assert given in str(caught.value)
    assert 'What fits it: ru' in str(caught.value)


def test_commands_that_take_several_work_dirs_expand_patterns(runs, run_tool):
    for command in (('runs.py', 'runs/*'), ('report.py', 'runs/*', '--out', 'p.html'),
                    ('analysis_tools/plot_curves.py', 'runs/*', '--out', 'p.png')):
        assert 'ConfigError: runs/a: ' in run_tool(*command, expect=2), command
