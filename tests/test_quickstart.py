"""tools/quickstart.sh: what it runs for each task, and its exit code; nothing is trained."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmvssd.paths import configs_dir

SCRIPT = Path(__file__).resolve().parent.parent / 'tools' / 'quickstart.sh'
# notes each command and leaves what it would; the summary's own code is really run
PYTHON = """
if [[ $1 == - ]]; then
  exec "$REAL" "$@"
fi
tool=${1##*/}
echo "$tool ${*:2}" >>ran
while [[ $# -gt 1 && $1 != --work-dir ]]; do
  shift
done
case $tool in
  train.py) mkdir -p "$2"; echo "$2/last.pth" >"$2/last_checkpoint" ;;
  test.py) mkdir -p "$2/1"; cp "$SCORES/$2.json" "$2/1/20260101_000000.json"
           sleep 0.01; echo '{"status": "finished"}' > "$2/1/run.json" ;;  # the run's record
esac
"""


@pytest.fixture
def quickstart(tmp_path):
    """Run the script on stand-ins for everything that it starts; scores by folder of a test."""
    tools = tmp_path / 'check out' / 'tools'
    tools.mkdir(parents=True)
    shutil.copy(SCRIPT, tools)
    python = tmp_path / 'python'
    (tools / 'setup.sh').write_text(f'echo {python}\n')
    python.write_text(f'#!{shutil.which("bash")}\n{PYTHON}')
    python.chmod(0o755)
    env = dict(os.environ, REAL=sys.executable, SCORES=str(tmp_path))

    def run(*arguments, **scores):
        for folder, values in scores.items():
            (tmp_path / f'{folder}.json').write_text(json.dumps(values))
        done = subprocess.run(['bash', str(tools / SCRIPT.name), *arguments], cwd=tmp_path,
                              env=env, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout

    return run


CLASSIFIER = {'classifier_test': {'accuracy/top1': 95.}}


def commands(folder):
    return [line.split()[0] for line in (folder / 'ran').read_text().splitlines()]


@pytest.mark.parametrize(('arguments', 'scores', 'ran'), [
    ([], dict(detector_test={'coco/bbox_mAP_50': .7, 'coco/segm_mAP_50': .7}),
     ['train.py', 'test.py', 'predict.py']),
    (['--task', 'seg'], dict(segmentor_test={'mIoU': 60.}, segmentor_tta={'mIoU': 59.1}),
     ['train.py', 'test.py', 'test.py', 'predict.py']),
    (['--task=cls'], {}, []),
])
def test_tasks(quickstart, tmp_path, arguments, scores, ran):
    status, out = quickstart(*arguments, 'my results', **CLASSIFIER, **scores)
    assert status == 0, out
    folder = tmp_path / 'my results'
    assert commands(folder) == ['make_sample_data.py', 'train.py', 'test.py', *ran]
    lines = (folder / 'ran').read_text().splitlines()
    assert all('--resume' in line for line in lines if line.startswith('train.py'))
    if ran:  # from the classifier that was trained
        assert 'checkpoint=classifier/last.pth' in lines[3]
        assert str(folder) in out
    assert 'TOO LOW' not in out
    assert 'know only digits' in out  # and what comes next
    assert f'{tmp_path}/python tools/new_recipe.py FOLDER --arch vssd-nano' in out


def test_a_family_has_its_recipes_and_its_folder(quickstart, tmp_path):
    """In one folder, a task would go on with the classifier of the other family."""
    for family, folder, top1, miou in (('vssd', 'results', 91., 51.),
                                       ('vmamba', 'results/vmamba', 81., 43.)):
        scores = dict(classifier_test={'accuracy/top1': top1}, segmentor_test={'mIoU': miou},
                      segmentor_tta={'mIoU': miou},
                      detector_test={'coco/bbox_mAP_50': .6, 'coco/segm_mAP_50': .6})
        for task in ('det', 'seg'):
            status, out = quickstart('--task', task, f'--family={family}', 'results', **scores)
            assert status == 0, out
            assert f'results in {tmp_path / folder}\n' in out
        ran = (tmp_path / folder / 'ran').read_text().splitlines()
        recipes = {line.split()[1] for line in ran if not line.startswith('make_sample_data')}
        assert recipes == {f'samples/{family}-nano_1xb64_digits.py',
                           f'samples/mask-rcnn_{family}-nano_fpn_1xb8_digits.py',
                           f'samples/upernet_{family}-nano_1xb8_digits.py'}
        assert all((configs_dir() / recipe).is_file() for recipe in recipes)


@pytest.mark.parametrize(('arguments', 'scores', 'low'), [
    (['--task', 'cls'], dict(classifier_test={'accuracy/top1': 89.}), 'accuracy/top1'),
    (['--task', 'cls', '--family', 'vmamba'], dict(classifier_test={'accuracy/top1': 79.}),
     'accuracy/top1'),
    (['--task', 'det'], dict(detector_test={'coco/bbox_mAP_50': .7, 'coco/segm_mAP_50': .4}),
     'coco/segm_mAP_50'),
    (['--task', 'seg'], dict(segmentor_test={'mIoU': 49.}, segmentor_tta={'mIoU': 51.}),
     'segmentor_test'),
    (['--task', 'seg'], dict(segmentor_test={'mIoU': 60.}, segmentor_tta={'mIoU': 58.9}),
     'segmentor_tta'),
])
def test_a_low_score_is_exit_code_1(quickstart, arguments, scores, low):
    status, out = quickstart(*arguments, 'results', **{**CLASSIFIER, **scores})
    assert status == 1, out
    (line, ) = [line for line in out.splitlines() if 'TOO LOW' in line]
    assert low in line
    assert 'Done in' in out  # and where the results are, all the same


def test_usage(quickstart):
    status, out = quickstart('--help')
    assert status == 0
    for said in ('--task det|seg|cls', '--family vssd|vmamba', 'minutes', 'FOLDER'):
        assert said in out
    assert quickstart('--fast')[0] == 2
    for arguments in (['--task', 'segm'], ['--task']):
        status, out = quickstart(*arguments)
        assert status == 2
        assert out == f"--task: got '{(*arguments, '')[1]}', expected det, seg or cls\n"
    for arguments in (['--family', 'swin'], ['--family']):
        status, out = quickstart(*arguments)
        assert status == 2
        assert out == f"--family: got '{(*arguments, '')[1]}', expected vssd or vmamba\n"
