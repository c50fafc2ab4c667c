"""Data and options that do not fit, given to the tools: one message, exit code 2, no traceback."""
import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from mmvssd.cli.launch import load_config
from mmvssd.datasets import make_sample_data

pytestmark = pytest.mark.slow

CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
ROOT = 'data/sample_digits/imagenet'
LISTED = 'train_dataloader.dataset.ann_file'
LOAD = 'train_dataloader.dataset.pipeline.0.color_type'


@pytest.fixture
def folder(tmp_path):
    """Sample data, lists of it that do not fit, weights, and a file where a folder is wanted."""
    pytest.importorskip('mmpretrain')
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(1, 1), num_crops=(4, 2),
                     progress=False)
    lines = (tmp_path / ROOT / 'meta' / 'train.txt').read_text().splitlines()
    lists = dict(beyond=f'{lines[0].rsplit(" ", 1)[0]} 10', alpha='alpha.png 0', none='')
    for name, text in lists.items():
        (tmp_path / f'{name}.txt').write_text(text)
    mmcv.imwrite(np.zeros((64, 64, 4), np.uint8), str(tmp_path / ROOT / 'train' / 'alpha.png'))
    model = MODELS.build(dict(load_config(CLASSIFIER).model, _scope_='mmpretrain'))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    (tmp_path / 'file').touch()
    return tmp_path


def test_each_ends_with_one_message(run_tool, folder):
    for tool, arguments, message in (
            ('train.py', ('--cfg-options', 'foo'), "--cfg-options: got 'foo', expected KEY=VALUE"),
            ('train.py', ('--cfg-options', f'{LISTED}={folder}/beyond.txt'),
             'labels that no class has, 0 to 9 fit'),
            ('train.py', ('--cfg-options', f'{LISTED}={folder}/alpha.txt', f'{LOAD}=unchanged'),
             f'{ROOT}/train/alpha.png: the image has 4 channels, the model takes 3'),
            ('train.py', ('--cfg-options', f'{LISTED}={folder}/none.txt'),
             'none.txt is empty (0 bytes)'),
            ('train.py', ('--work-dir', 'file/below'), '--work-dir: file/below cannot be made'),
            ('test.py', ('weights.pth', '--show-dir', 'file'), '--show-dir: file cannot be made'),
            ('test.py', ('weights.pth', '--tta'), '--tta: the recipe has no tta_model'),
            ('test.py', ('weights.pth', '--cfg-options', 'test_dataloader=None'),
             'the recipe has no test_dataloader'),
            ('predict.py', ('weights.pth', f'{ROOT}/train/alpha.png', '--out-dir', 'file'),
             '--out-dir: file cannot be made'),
    ):
        out = run_tool(tool, CLASSIFIER, *arguments, expect=2)
        assert message in '\n'.join(out.splitlines()[-4:]), out[-2000:]
        assert 'Traceback' not in out, arguments
