"""The command that looks at data: exit statuses, JSON that is nothing else, a page."""
import json
import runpy
import sys

import pytest

from mmvssd.paths import project_root

CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
TOOL = project_root() / 'tools' / 'dataset_tools' / 'check_data.py'


@pytest.fixture
def tool(monkeypatch, capsys, options, tmp_path):
    """Run the tool in a folder of its own; return its exit status, and what it prints."""
    settings = [f'{key}={value}' for key, value in options(CLASSIFIER).items()]

    def run(*arguments):
        (tmp_path / 'elsewhere').mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / 'elsewhere')
        monkeypatch.setattr(sys, 'argv', ['check_data.py', CLASSIFIER, *map(str, arguments),
                                          '--cfg-options', *settings])
        status = 0
        capsys.readouterr()  # of the sample data
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_healthy_data(tool, tmp_path):
    status, out, _ = tool('--samples', 2, '--out', tmp_path / 'new' / 'check.html')
    assert status == 0
    assert 'training may begin; the page: ' in out
    text = (tmp_path / 'new' / 'check.html').read_text()
    assert text.count('data:image/jpeg') == 4
    assert list((tmp_path / 'elsewhere').iterdir()) == []  # no work dir, no log


def test_faults(tool, digits):
    file = digits / 'imagenet/meta/train.txt'
    file.write_text(file.read_text() + '\nabsent.jpg 3\n')
    status, out, _ = tool('--samples', 0)
    assert status == 1
    assert out.startswith('FAULTS (')
    assert 'absent.jpg' in out
    assert 'training will go wrong' in out


def test_json_and_doubts(tool):
    """The few images make doubts, which fail only if they are told to."""
    status, out, _ = tool('--samples', 0, '--json')
    assert status == 0
    content = json.loads(out)
    assert content['sensible'] is True
    assert {found['severity'] for found in content['findings']} == {'warn'}
    assert tool('--samples', 0, '--json', '--strict')[0] == 1


@pytest.mark.parametrize(('arguments', 'said'), [
    (['--samples', -1], '--samples: got -1'), (['--seed', -1], '--seed: got -1'),
    (['--out', 'page.txt'], 'ends with .html'), (['--out', '/proc/x/page.html'], 'cannot be made')])
def test_options_that_do_not_fit(tool, arguments, said):
    status, out, err = tool(*arguments)
    assert (status, out) == (2, '')
    assert said in err
