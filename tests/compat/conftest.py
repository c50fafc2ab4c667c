"""Fresh processes for tests whose subject is what a process does from its start."""
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOY_RUNNER = str(Path(__file__).with_name('toy_runner.py'))


def run_python(*args, env=None, timeout=240, cwd=None):
    """Run Python with this process's import path; returns the completed process."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)),
                       OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1', **(env or {}))
    return subprocess.run([sys.executable, *args], env=environment, timeout=timeout, cwd=cwd,
                          capture_output=True, text=True, check=False)


@pytest.fixture(scope='session')
def python():
    """:func:`run_python`."""
    return run_python


@pytest.fixture(scope='session')
def train(run_script):
    """Train the toy of ``toy_runner.py``; returns the process and the reports of its ranks."""

    def run(work_dir, processes=1, **options):
        if processes > 1:
            options['launcher'] = 'pytorch'
        options['work_dir'] = str(work_dir)
        done = run_script(TOY_RUNNER, json.dumps(options), processes=processes)
        files = sorted(Path(work_dir).glob('rank*.json'))
        return done, [json.loads(path.read_text()) for path in files]

    return run


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """Make an importable package: ``make_package(name, __init__=text, ...)``; gone after the test.

    One of that name that is imported already is put aside.
    """
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(sys.modules)

    def make(name, **files):
        for module in list(sys.modules):
            if module.partition('.')[0] == name:
                del sys.modules[module]
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / f'{file}.py').write_text(text)
        importlib.invalidate_caches()

    yield make
    for module in set(sys.modules) - set(before):
        del sys.modules[module]
    sys.modules.update(before)
