"""A run on a page: what its folder tells, and how to get what it does not."""
import base64
import io
import json
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from mmvssd.errors import ConfigError
from mmvssd.paths import project_root
from mmvssd.reports.runs.page import page

CONFIG = ("model = dict(type='EncoderDecoder', backbone=dict(type='mmvssd.VSSD', arch='nano'))\n"
          "train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict(\n"
          "    type='BaseSegDataset', data_root='data/mine/', data_prefix=dict(img_path='images'))"
          "))\n")
NAME = '<script>alert("x")</script>'


def label_map():
    content = io.BytesIO()
    Image.fromarray(np.eye(12, dtype=np.uint8)).save(content, 'png')
    return base64.b64encode(content.getvalue()).decode()


def test_all_that_a_folder_tells(work_dir, scalars, parsed, write_details, tmp_path):
    path = work_dir(
        scalars=scalars(40.0, 50.0), config=CONFIG, seed=7, devices={'GPU X': 2},
        batch=dict(processes=2, images=4, accumulated=3, total=24), versions=dict(torch='2.13'),
        log=f' - WARNING - Doubtful data: {NAME}\n')
    Image.new('RGB', (40, 30)).save(tmp_path / 'image.png')
    write_details(path)
    html = page([path], 'again & again')
    words = parsed(html).words
    for text in ('finished', '50', 'epoch 2', 'EncoderDecoder with mmvssd.VSSD nano',
                 'BaseSegDataset: data/mine/ images', '24 images: 2 × 4 × 3 accumulated',
                 '80 images/s', '1000 MB', f'Doubtful data: {NAME}', '2 × GPU X', 'torch 2.13',
                 'cd ', 'python tools/train.py a.py', 'again & again', 'expected error 45.0 %',
                 'Confused most', f'{NAME} b 2', 'image.png: 0.25', 'b 0.75', 'gone.png'):
        assert text in words, text
    assert 'cannot be shown (FileNotFoundError)' in words  # the image of the best
    assert html.count('data:image/jpeg') == 2
    # loss, score, learning rate; confusion, precision over recall, calibration
    assert html.count('data:image/svg+xml') == 6


@pytest.mark.parametrize(('task', 'entry', 'pictures'), [
    ('segmentation', dict(truth=dict(label_map=label_map()),
                          predicted=dict(label_map=label_map())), 2),
    ('detection', dict(truth=dict(boxes=[[1, 2, 9, 9]], labels=[0]),
                       predicted=dict(boxes=[], labels=[], scores=[])), 2),
    ('detection', dict(truth=dict(boxes=[], labels=[]),
                       predicted=dict(boxes=[[1, 2, 3, 4]], labels=[7], scores=[0.5])), 2)])
def test_images_of_each_task(work_dir, parsed, write_details, tmp_path, task, entry,
                             pictures):
    path = work_dir()
    Image.new('RGB', (40, 30)).save(tmp_path / 'image.png')
    write_details(path, task=task, worst=[dict(entry, path='image.png', quality=0.5)], best=[])
    html = page([path], '')
    parsed(html)
    assert html.count('data:image/jpeg') == pictures


def test_a_test_without_labels(work_dir, parsed):
    path = work_dir(mode='test')
    (path / '20260101_000000' / 'test_details.json').write_text(json.dumps(
        dict(task='detection', images=3, classes=['a'])))
    assert 'have no labels' in parsed(page([path], '')).words


@pytest.mark.parametrize('more', [
    dict(task='other'), dict(task=3, by_class=7),
    dict(confusion=dict(names=['a'], cells=[[5, 5, 1]])),
    dict(worst=[dict(path='image.png')]), dict(curves=[{}]), dict(by_class=[[1]]),
    dict(calibration=[1])])
def test_details_that_are_damaged(work_dir, parsed, write_details, more):
    path = work_dir()
    write_details(path, **more)
    words = parsed(page([path], '')).words
    assert 'test_details.json is damaged' in words
    assert 'finished' in words


def test_what_a_folder_does_not_tell(work_dir, parsed):
    words = parsed(page([work_dir(status='stopped', error='DataError: <b>')], '')).words
    assert 'failed : DataError: <b>' in words
    assert 'No loss and no score was logged yet' in words
    assert 'tools/test.py a.py CHECKPOINT' in words
    assert '--report' in words


def test_the_speed_is_of_the_newest_start(work_dir, scalars, parsed):
    """Before it ran in two processes, and took longer; neither counts."""
    slow = [dict(line, time=9.0, memory=5000) for line in scalars(40.0)]
    work_dir(time='20260101_000000', scalars=slow * 9, status='stopped',
             batch=dict(processes=2, images=4, accumulated=1, total=8))
    newest = dict(time='20260102_000000', started='2026-01-02T00:00:00+00:00',
                  batch=dict(processes=1, images=4, accumulated=2, total=8))
    path = work_dir(**newest, scalars=scalars(50.0))
    words = parsed(page([path], '')).words
    assert 'speed 40 images/s' in words
    assert 'an iteration 0.1 s' in words
    assert '1000 MB' in words
    # one that has logged nothing yet has no speed, whatever was before it
    (path / '20260102_000000' / 'vis_data' / 'scalars.json').unlink()
    assert 'images/s' not in parsed(page([path], '')).words


@pytest.mark.parametrize('batch', [dict(processes=2), dict(processes='2', images=3),
                                   dict(processes=1, images=None, accumulated='x')])
def test_a_batch_that_is_not_known(work_dir, scalars, parsed, batch):
    words = parsed(page([work_dir(scalars=scalars(1.0), batch=batch)], '')).words
    assert 'an iteration 0.1 s' in words
    assert 'images/s' not in words


def test_a_log_that_is_damaged_shows_what_is_left(work_dir, scalars, parsed):
    path = work_dir(scalars=scalars(40.0))
    file = path / '20260101_000000' / 'vis_data' / 'scalars.json'
    lines = file.read_bytes().splitlines()
    file.write_bytes(b'\n'.join([lines[0], b'{"loss": \xff', *lines[1:]]))
    html = page([path], '')
    assert html.count('data:image/svg+xml') == 3
    words = parsed(html).words
    assert '1 of 4 lines cannot be read and is left out; the first is line 2' in words
    assert 'an iteration 0.1 s' in words
    file.write_bytes(b'\xff\n')
    words = parsed(page([path], '')).words
    assert '1 of 1 line cannot be read' in words
    assert 'was logged yet' not in words


def test_scores_by_class_from_the_log(work_dir, parsed):
    path = work_dir(log='x\n+--+\n| Class | IoU |\n+--+\n| cat | 12.34 |\n+--+\n')
    assert 'Class IoU cat 12.34' in parsed(page([path], '')).words


def test_several_runs(work_dir, scalars, parsed):
    paths = [work_dir(name, scalars=scalars(score), config=f'lr = {score}\nsame = 1')
             for name, score in (('a', 40.0), ('b', 50.0))]
    html = page(paths, '')
    words = parsed(html).words
    assert 'Settings that differ setting a b lr 40.0 50.0' in words
    assert 'a: best' in words
    assert 'b: best' in words
    assert 'same' not in words.partition('Settings that differ')[2][:60]
    with pytest.raises(ConfigError, match='twice'):
        page([paths[0]] * 2, '')


def test_the_command(work_dir, monkeypatch, capsys, tmp_path, scalars):
    path = work_dir(scalars=scalars(1.0))

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, arguments)])
        try:
            runpy.run_path(str(project_root() / 'tools' / 'report.py'), run_name='__main__')
        except SystemExit as end:
            return end.code
        return 0

    assert run(path, '--out', tmp_path / 'new' / 'report.html') == 0
    assert '<title>Report of run</title>' in (tmp_path / 'new' / 'report.html').read_text()
    assert run(path, '--out', tmp_path / 'report.txt') == 2
    assert 'ends with .html' in capsys.readouterr().err
    assert run(tmp_path / 'none', '--out', tmp_path / 'other.html') == 2
    assert not (tmp_path / 'other.html').exists()
