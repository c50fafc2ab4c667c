"""What the tests share: recorded outputs, real photographs, fresh processes."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Folder of recorded outputs and real photographs; it is no part of the project.
SHARED = Path(os.environ.get('MMVSSD_TEST_DATA', ROOT.parent / 'shared'))


@pytest.fixture(scope='session')
def golden():
    """The loader of the published models' recorded outputs."""
    file = SHARED / 'golden' / 'golden.py'
    if not file.is_file():
        pytest.skip(f'the recorded outputs of the published models are not at {file.parent}; '
                    'set MMVSSD_TEST_DATA to the folder that holds golden/')
    spec = importlib.util.spec_from_file_location('golden', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def tiny_coco():
    """Folder of real photographs in COCO's layout."""
    folder = SHARED / 'data' / 'tiny_coco'
    if not folder.is_dir():
        pytest.skip(f'no photographs at {folder}; set MMVSSD_TEST_DATA to the folder that holds '
                    'data/tiny_coco')
    return folder


@pytest.fixture
def run_tool(tmp_path):
    """Run a tool of the project in a fresh process, in a foreign folder."""

    def run(tool, *arguments, expect=0, env=None, timeout=600):
        command = ['bash'] if tool.endswith('.sh') else [sys.executable]
        # the scripts run the `python` of the environment that is active
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
        environment = {**os.environ, 'PATH': path, **(env or {})}
        done = subprocess.run([*command, str(ROOT / 'tools' / tool), *map(str, arguments)],
                              cwd=tmp_path, env=environment, timeout=timeout, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == expect, done.stdout[-5000:]
        return done.stdout

    return run
