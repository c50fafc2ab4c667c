"""Runs below a folder in a table, and two compared."""
import json
import runpy
import sys
from pathlib import Path

import pytest

from mmvssd.errors import ConfigError
from mmvssd.paths import project_root
from mmvssd.reports.runs import listing
from mmvssd.reports.runs.folder import read_folder


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool; return its exit status, and what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['runs.py', *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(project_root() / 'tools' / 'runs.py'), run_name='__main__')
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def runs(work_dir, scalars, tmp_path):
    """Return a folder with runs of three kinds, one of them two folders down."""
    work_dir('all/good', scalars=scalars(40.0, 50.0), config='a = 1\nb = dict(c=2)')
    work_dir('all/deep/er', scalars=scalars(60.0), config='a = 1\nb = dict(c=3)',
             status='stopped', error='DataError: \x1b[31mx\nmore of it')
    work_dir('all/tested', mode='test', scores={'mIoU': 45.5})
    (tmp_path / 'all' / 'empty').mkdir()
    return tmp_path / 'all'


def test_a_table(tool, runs):
    status, text = tool(runs)
    assert status == 0
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ['run', 'deep/er', 'good', 'tested']
    assert 'finished  epoch 2, iteration 20  mIoU     50  epoch 2    50' in lines[2]
    assert '1 h 00 min' in lines[2]
    assert '45.5' in lines[3]
    assert lines[-1] == 'deep/er: failed: DataError: \\x1b[31mx'  # nothing that a terminal obeys


def test_a_test_without_large_objects(work_dir):
    path = work_dir(mode='test', scores={'coco/bbox_mAP': 0.2, 'coco/bbox_mAP_l': -1.0})
    assert read_folder(path).tests[0].scores == {'coco/bbox_mAP': 0.2}


def test_json(tool, runs):
    status, text = tool(runs, '--json')
    found = {Path(run['folder']).name: run for run in json.loads(text)}
    assert status == 0
    assert set(found) == {'good', 'er', 'tested'}
    assert found['good']['scores']['mIoU'] == dict(last=50.0, best=50.0, at=2, axis='epoch')
    assert found['er']['state'] == 'failed'
    assert found['tested']['tests'][0]['scores'] == dict(mIoU=45.5)


def test_a_comparison(tool, runs):
    status, text = tool(runs, '--compare', 'good', 'deep/er')
    assert status == 0
    assert any(line.split()[-3:] == ['50', '60', '+10'] for line in text.splitlines())
    assert any(line.split() == ['b.c', '2', '3'] for line in text.splitlines())
    status, text = tool(runs, '--compare', 'good', str(runs / 'tested'), '--json')
    assert json.loads(text)['scores']['mIoU']['difference'] is None
    found = listing.comparison(*(listing.find_run('good', runs) for _ in range(2)))
    assert found['settings'] == {}


def test_a_log_that_is_damaged(tool, runs):
    file = runs / 'good' / '20260101_000000' / 'vis_data' / 'scalars.json'
    file.write_bytes(b'\xff\n' + file.read_bytes())
    status, text = tool(runs)
    assert status == 0
    assert 'finished  epoch 2, iteration 20  mIoU     50' in text.splitlines()[2]
    assert f'{file}: 1 of 6 lines cannot be read' in text.splitlines()[-1]
    found = {Path(run['folder']).name: run for run in json.loads(tool(runs, '--json')[1])}
    assert [len(found[name]['damage']) for name in ('good', 'er')] == [1, 0]


def test_what_is_not_there(tool, runs, tmp_path):
    assert tool(tmp_path / 'none') == (2, f'ConfigError: {tmp_path / "none"}: no such folder '
                                          f'(seen from {Path.cwd()})\n')
    status, text = tool(runs / 'empty')
    assert status == 2
    assert 'no run has written' in text
    with pytest.raises(ConfigError, match='did you mean good'):
        listing.find_run('goood', runs)


def test_folders_that_cannot_be_listed(locked, capsys):
    for look in (lambda: listing.find_runs(locked), lambda: read_folder(locked / 'locked'),
                 lambda: read_folder(locked)):
        with pytest.raises(ConfigError, match='locked.*: cannot be listed, no permission to read'):
            look()
    log = locked / 'run' / '20260101_000000' / '20260101_000000_1.log'
    log.parent.mkdir(parents=True)
    log.with_name('run.json').write_text('{}')
    assert [run.path.name for run in listing.find_runs(locked)] == ['run']
    assert '/locked' in capsys.readouterr().err


def test_a_work_dir_itself(tool, runs):
    assert tool(runs / 'good')[1].splitlines()[1].startswith('good')


def test_several_folders(tool, runs, monkeypatch):
    """Each run is listed once, by a path that tells it from the others."""
    monkeypatch.chdir(runs.parent)
    status, text = tool('all/deep', 'all/good', 'all/deep/er')
    assert status == 0
    assert [line.split()[0] for line in text.splitlines()[:3]] == ['run', 'all/deep/er', 'all/good']
    status, text = tool('all/good', 'all/deep', '--compare', 'er', 'all/good', '--json')
    assert json.loads(text)['runs'] == ['all/deep/er', 'all/good']
    assert tool('all/good', 'all/empty')[0] == 2
    monkeypatch.chdir(runs)
    (runs / 'work_dirs').symlink_to(runs / 'good')
    assert tool()[1].splitlines()[1].startswith('good')
