"""The hosts' own tools and inferencers on our recipes, in their own processes and a foreign folder.

Nothing imports ``mmvssd`` in these processes. The first host's training and inferencer start Python
anew. All else runs in forks of a process that has imported neither a host nor this project, only
what these import of others.
"""
import functools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvssd.datasets import make_sample_data
from mmvssd.engine.guards import GUARDS
from mmvssd.paths import configs_dir

pytestmark = pytest.mark.slow

HOST_TOOLS = Path(__file__).with_name('host_tools.py')
ROOT = Path(__file__).resolve().parent.parent
#: What the log of a training says that has them all.
ALL_GUARDS = f'Guards on: train_loop, {", ".join(GUARDS)}\n'

#: Recipe, score and validation folder of each host's sample.
SAMPLES = dict(
    mmpretrain=('vssd-nano_1xb64_digits.py', 'accuracy/top1', 'imagenet/val'),
    mmdet=('mask-rcnn_vssd-nano_fpn_1xb8_digits.py', 'coco/segm_mAP', 'coco/val2017'),
    mmseg=('upernet_vssd-nano_1xb8_digits.py', 'mIoU', 'ade20k/images/validation'))

#: What a user writes for each host's inferencer.
INFERENCERS = dict(
    mmpretrain="""
from mmpretrain import ImageClassificationInferencer
infer = ImageClassificationInferencer(recipe, pretrained=weights, device='cpu')
assert 'mmvssd' in sys.modules
found = [infer(image, show_dir='pictures')[0] for image in images]
report(found[0]['pred_class'], [result['pred_scores'] for result in found])
""",
    mmdet="""
from mmdet.apis import DetInferencer
try:  # the checkpoint holds the recipe's text, which is not run
    DetInferencer(weights=weights, device='cpu')
    raise SystemExit('a text of a checkpoint was run')
except Exception as error:
    assert 'an inferencer needs a recipe' in str(error), error
infer = DetInferencer(recipe, weights, device='cpu')
assert 'mmvssd' in sys.modules
found = [infer(image, out_dir='pictures')['predictions'][0] for image in images]
report(infer.visualizer.dataset_meta['classes'][found[0]['labels'][0]],
       [np.hstack([result['bboxes'], np.array(result['scores'])[:, None]]) for result in found])
""",
    mmseg="""
from mmseg.apis import MMSegInferencer
infer = MMSegInferencer(recipe, weights=weights, device='cpu')
assert 'mmvssd' in sys.modules
found = [infer(image, out_dir='pictures')['predictions'] for image in images]
report(infer.visualizer.dataset_meta['classes'][found[0][0, 0]], found)
""")

SCRIPT = """
import json, sys, warnings
import cv2
import numpy as np
warnings.filterwarnings('ignore')
recipe, weights, image, out = sys.argv[1:]
images = [image, cv2.imread(image)]

def report(name, results):
    with open(out, 'w') as file:
        json.dump([str(name), [np.asarray(result).tolist() for result in results]], file)
"""


def outside():
    """The environment of this process without its import path."""
    return {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}


def run(folder, *command, expect=0):
    """Run Python in a folder, in a fresh process; return its output."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, env=outside(),
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
                          check=False)
    assert done.returncode == expect, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope='module')
def run_forked(tool_server):
    """The same in a fork of a process that has imported what hosts import of others."""
    server = tool_server('--libraries', env=outside())

    def start(folder, *command, expect=0):
        if torch.cuda.is_available():  # it works in no fork
            return run(folder, *command, expect=expect)
        done = server.run([*map(str, command)], folder, outside(), 600)
        assert done.returncode == expect, done.stdout[-5000:]
        return done.stdout

    return start


@pytest.fixture(scope='module')
def run_once_anew(run_forked):
    """Run the first host's command in a fresh process, as users do, and the others' in forks."""
    return lambda host, *command: (run if host == next(iter(SAMPLES)) else run_forked)(*command)


def tool(host, name):
    """A script that the host's wheel carries."""
    return Path(find_spec(host).submodule_search_locations[0], '.mim', 'tools', name)


def settings(*more):
    """Two batches of four an epoch, read by the process itself."""
    loaders = [f'{phase}_dataloader.{setting}' for phase in ('train', 'val', 'test')
               for setting in ('num_workers=0', 'persistent_workers=False')]
    return ['--cfg-options', *loaders, 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1',
            'model.backbone.init_cfg=None', *more]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A foreign folder with sample data in it."""
    folder = tmp_path_factory.mktemp('foreign folder')
    make_sample_data(folder / 'data' / 'sample_digits', num_scenes=(8, 3), num_crops=(8, 4),
                     progress=False)
    return folder


@pytest.fixture(scope='module', params=SAMPLES)
def trained(request, folder, run_once_anew):
    """Each host, its recipe by absolute path, and a checkpoint that the host's tool trained."""
    host = request.param
    if find_spec(host) is None:
        pytest.skip(f'{host} is not installed')
    recipe = configs_dir() / 'samples' / SAMPLES[host][0]
    out = run_once_anew(host, folder, tool(host, 'train.py'), recipe, '--work-dir', host,
                        *settings())
    assert f'{SAMPLES[host][1]}:' in out
    assert ALL_GUARDS in out
    return host, recipe, folder / host / 'epoch_1.pth'


@pytest.fixture(scope='module')
def predictions(folder, trained, run_forked):
    """What the host's test tool writes: a file, from MMSegmentation a folder of label maps."""
    host, recipe, weights = trained
    place = folder / f'{host}_predictions.pkl'
    out = run_forked(folder, tool(host, 'test.py'), recipe, weights, '--work-dir', 'tested',
                     '--out', place, *settings())
    assert f'{SAMPLES[host][1]}:' in out
    for name, entry in GUARDS.items():
        assert not entry.in_tests or f'{entry.hook.__name__} ' in out, name
    return place


def test_the_hosts_test(predictions):
    assert predictions.exists()


def test_the_hosts_inferencer(folder, trained, run_once_anew):
    """An image by path and as an array: the same predictions, and a picture of each."""
    host, recipe, weights = trained
    image = sorted((folder / 'data' / 'sample_digits' / SAMPLES[host][2]).rglob('*.jpg'))[0]
    place = folder / f'{host}_inferred'
    place.mkdir()
    run_once_anew(host, place, '-c', SCRIPT + INFERENCERS[host], recipe, weights, image,
                  place / 'out.json')
    name, (by_path, as_array) = json.loads((place / 'out.json').read_text())
    assert name in ('background', 'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven',
                    'eight', 'nine')
    assert np.size(by_path) > 0
    np.testing.assert_allclose(by_path, as_array, rtol=1e-5)
    pictures = [path for path in (place / 'pictures').rglob('*')
                if path.suffix in ('.jpg', '.png') and not path.stem.endswith('_pred')]
    assert len(pictures) == 2


#: Labels of the sample as they are in its files; see docs/compat.md.
FILE_LABELS = (['test_dataloader.dataset.reduce_zero_label=False',
                'test_dataloader.dataset.metainfo.reduce_zero_label=False',
                f'test_dataloader.dataset.metainfo.classes={[*"abcdefghijkl"]}'.replace(' ', ''),
                f'test_dataloader.dataset.metainfo.palette={[[0, 0, 0]] * 12}'.replace(' ', '')])


def tools_of(host, recipe, weights, predictions):
    """Each host's tools that need more than a line, as their command lines."""
    browse = ['--not-show', '--output-dir']
    return dict(
        mmdet=[
            ['misc/print_config.py', recipe],
            ['analysis_tools/get_flops.py', recipe, '--num-images', 1],
            ['analysis_tools/browse_dataset.py', recipe, *browse, 'browsed'],
            ['model_converters/publish_model.py', weights, 'published.pth'],
            ['analysis_tools/confusion_matrix.py', recipe, predictions, 'matrix']],
        mmseg=[
            ['misc/print_config.py', recipe],
            ['analysis_tools/get_flops.py', recipe, '--shape', 64],
            ['misc/browse_dataset.py', recipe, *browse, 'browsed'],
            ['analysis_tools/browse_dataset.py', recipe, *browse, 'browsed'],
            ['analysis_tools/confusion_matrix.py', recipe, predictions, 'matrix',
             '--cfg-options', *FILE_LABELS]],
        mmpretrain=[
            ['misc/print_config.py', recipe],
            ['analysis_tools/get_flops.py', recipe, '--shape', 64],
            ['visualization/browse_dataset.py', recipe, *browse, 'browsed'],
            ['visualization/vis_scheduler.py', recipe, '--dataset-size', 128, '--not-show',
             '--save-path', 'browsed/schedule.jpg'],
            ['misc/verify_dataset.py', recipe, '--out-path', 'faults.log', '--num-process', 1],
            ['model_converters/publish_model.py', weights, 'published.pth'],
            ['analysis_tools/confusion_matrix.py', recipe, weights, *settings()]])[host]


def test_the_hosts_other_tools(folder, trained, predictions, run_forked):
    """Each runs, one after the other in one process; those not named show their help."""
    host, recipe, weights = trained
    place = folder / f'{host}_tools'
    place.mkdir()
    (place / 'data').symlink_to(folder / 'data')
    commands = [[str(part) for part in command]
                for command in tools_of(host, recipe, weights, predictions)]
    out = run_forked(place, HOST_TOOLS, host, json.dumps(commands))
    assert 'params' in out.lower()
    shown = [path for path in (place / 'browsed').rglob('*') if path.suffix in ('.jpg', '.png')]
    assert len(shown) == dict(mmdet=8, mmseg=16, mmpretrain=9)[host]
    assert host == 'mmpretrain' or (place / 'matrix' / 'confusion_matrix.png').is_file()
    if host == 'mmseg':  # it imports PyTorch only
        run_forked(place, tool(host, 'misc/publish_model.py'), weights, 'published.pth')
    published, = place.glob('published*.pth')
    content = torch.load(published, weights_only=True)
    assert 'backbone.stem' in ' '.join(content['state_dict'])
    assert 'optimizer' not in content


def test_one_line_brings_the_guards(folder, run_forked, tool_runner):
    """A config of the host's, by the host's tool with the line and without, and by ours.

    With it the host's tool trains what ours does, which needs no line.
    """
    pytest.importorskip('mmpretrain')
    weights = {}

    def ours(*command):
        script = str(ROOT / 'tools' / 'train.py')
        done = tool_runner([script, *command], folder, dict(os.environ), 600)
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    hosts = functools.partial(run_forked, folder, tool('mmpretrain', 'train.py'))
    for name, start, line in (('bare', hosts, ''), ('ours', ours, ''),
                              ('line', hosts, "runner_type = 'mmvssd.GuardedRunner'")):
        (folder / f'{name}.py').write_text(f"""
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
custom_imports = dict(imports=['mmvssd'])
model = dict(backbone=dict(stem_channels=8, base_channels=8, out_indices=(3, )),
             head=dict(in_channels=64, num_classes=10, topk=(1, )))
data = dict(data_root='data/sample_digits/imagenet', split='', data_prefix='train',
            metainfo=dict(classes=tuple('0123456789')))
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
randomness = dict(seed=3)
{line}
""")
        out = start(f'{name}.py', '--work-dir', name, *settings())
        assert (ALL_GUARDS in out) == (name != 'bare')
        assert (folder / name / 'epoch_1.pth').is_file()
        weights[name] = torch.load(folder / name / 'epoch_1.pth', weights_only=False)['state_dict']
    same = [torch.equal(value, weights['ours'][key]) for key, value in weights['line'].items()]
    assert len(same) > 100
    assert all(same)
    assert not all(torch.equal(value, weights['ours'][key])
                   for key, value in weights['bare'].items())


def test_a_recipe_that_inherits_resumes(folder, run_forked):
    """A user's own recipe on ours, from the folder where it lies; both runs by the host's tool."""
    pytest.importorskip('mmpretrain')
    base = configs_dir() / 'samples' / SAMPLES['mmpretrain'][0]
    (folder / 'mine.py').write_text(f'_base_ = {str(base)!r}\nmodel = dict(head=dict('
                                    'loss=dict(label_smooth_val=0.1, type="LabelSmoothLoss")))\n')
    for options in ((), ('--resume', )):
        out = run_forked(folder, tool('mmpretrain', 'train.py'), 'mine.py', *options,
                         *settings(f'train_cfg.max_epochs={1 + len(options)}'))
    assert 'resumed epoch: 1' in out
    assert (folder / 'work_dirs' / 'mine' / 'epoch_2.pth').is_file()


def test_bad_labels_are_named_by_the_hosts_tools_too(folder, run_forked):
    pytest.importorskip('mmpretrain')
    recipe = configs_dir() / 'samples' / SAMPLES['mmpretrain'][0]
    out = run_forked(folder, tool('mmpretrain', 'train.py'), recipe, '--work-dir', 'bad',
                     *settings('model.head.num_classes=5'), expect=1)
    assert 'labels that no class has, 0 to 4 fit' in out[-1000:]
