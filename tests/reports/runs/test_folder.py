"""A work dir tells how its run stands, also if the run came to no end."""
import json
import os
import time

import pytest

from mmvssd.engine.checkpoints.work_dir import LOCK
from mmvssd.errors import ConfigError
from mmvssd.reports.runs.folder import is_smaller_better, read_folder


def test_a_finished_run(work_dir, scalars):
    folder = read_folder(work_dir(
        scalars=scalars(40.0, 50.0, 45.0), config='a = 1',
        log='01 - mmengine - WARNING - Doubtful data: x: 3 images\n01 - mmengine - INFO - other\n'
            '01 - mmengine - INFO - Faults of the training data: none seen\n'))
    assert str(folder.state) == 'finished'
    assert folder.scores['mIoU']._asdict() == dict(last=45.0, best=50.0, at=2, axis='epoch')
    assert folder.main_score == 'mIoU'
    assert folder.seconds == 3630
    assert folder.settings == dict(a=1)
    assert folder.costs._asdict() == dict(step=0.1, loading=0.01, memory=1000)
    assert folder.notes == ['Doubtful data: x: 3 images',
                            'Faults of the training data: none seen']
    assert folder.size > 100


@pytest.mark.parametrize(('record', 'state'), [
    (dict(status='stopped', error='DataError: 3 faults'), 'failed: DataError: 3 faults'),
    (dict(status='stopped', error='ended by SIGTERM'), 'stopped: ended by SIGTERM'),
    (dict(status='running', ended=None), 'running'),
    (dict(status='killed', error='its process ended without a word'),
     'killed: its process ended without a word'),
    (dict(mode='test'), 'tested')])
def test_states(work_dir, record, state):
    assert str(read_folder(work_dir(**record)).state) == state


def test_one_whose_process_is_gone(work_dir, gone_process):
    folder = read_folder(work_dir(status='running', ended=None, process=gone_process))
    assert folder.state.name == 'killed'
    assert 'without a word' in folder.state.reason
    assert folder.seconds is None


@pytest.mark.parametrize(('age', 'state'), [(10, 'running'), (500, 'killed')])
def test_one_of_another_machine(work_dir, age, state):
    path = work_dir(status='running', ended=None, process=dict(host='other', pid=1, space='x'))
    (path / LOCK).touch()
    os.utime(path / LOCK, (time.time() - age, ) * 2)
    assert read_folder(path).state.name == state


def test_the_newest_start_counts_and_times_add_up(work_dir, scalars):
    work_dir(time='20260101_000000', status='stopped', error='ended by SIGINT',
             scalars=scalars(40.0))
    work_dir(time='20260102_000000', started='2026-01-02T00:00:00+00:00',
             ended='2026-01-02T00:00:30+00:00', config='b = 2')
    path = work_dir(time='20260103_000000', mode='test', started='2026-01-03T00:00:00+00:00',
                    scores=dict(mIoU=48.0, data_time=0.1, time=0.2),
                    start=dict(checkpoint='epoch_2.pth'))
    folder = read_folder(path)
    assert str(folder.state) == 'finished'
    assert folder.seconds == 3660
    assert folder.settings == dict(b=2)
    ((_, checkpoint, scores, _), ) = folder.tests
    assert (checkpoint, scores) == ('epoch_2.pth', dict(mIoU=48.0))


def test_files_that_are_damaged(work_dir, tmp_path):
    path = work_dir(scalars=[dict(loss=1)], log='\x00\xff')
    (path / '20260101_000001').mkdir()
    for text in ('', '[]', '{"status": 3}', '{"mode": "test", "status": "finished"}', '[' * 9999):
        (path / '20260101_000001' / 'run.json').write_text(text)
        (path / '20260101_000001' / '20260101_000001.json').write_text(text)
        (path / '20260101_000001' / 'test_details.json').write_text(text)
        folder = read_folder(path)
        assert str(folder.state) == 'finished'
        assert (folder.curves, folder.details) == ({}, None)
    (path / '20260101_000000' / 'run.json').unlink()
    (path / '20260101_000001' / 'run.json').unlink()
    assert str(read_folder(path).state) == 'unknown: it wrote no run.json: it has no run_record'


@pytest.mark.parametrize(('loop', 'reached'), [
    ('max_iters=9', 'iteration 20'), ('max_epochs=9', 'epoch 2, iteration 20'),
    ('max_epochs=2, max_iters=9', 'epoch 2, iteration 20')])
def test_the_place_that_a_run_came_to(work_dir, loop, reached):
    assert read_folder(work_dir(config=f'train_cfg = dict({loop})')).reached == reached


def test_the_size_of_a_run_that_removes_files_meanwhile(work_dir, monkeypatch):
    path = work_dir()
    whole = read_folder(path).size
    (path / 'old.pth').write_bytes(b'x' * 100)
    real = os.lstat

    def gone(file, *args, **kwargs):
        if str(file).endswith('old.pth'):
            raise FileNotFoundError(file)
        return real(file, *args, **kwargs)

    assert read_folder(path).size == whole + 100
    folder = read_folder(path)
    monkeypatch.setattr(os, 'lstat', gone)
    assert folder.size == whole


@pytest.mark.parametrize(('record', 'state', 'seconds'), [
    (dict(status='stopped', error=3), 'failed: 3', 3630),
    (dict(ended='2026-01-01T01:00:30'), 'finished', None),  # without its time zone
    (dict(started=5, ended=[]), 'finished', None)])
def test_records_of_odd_values(work_dir, record, state, seconds):
    folder = read_folder(work_dir(**record))
    assert (str(folder.state), folder.seconds) == (state, seconds)


def test_one_that_ended_before_it_began(tmp_path):
    (tmp_path / '20260101_000000').mkdir()
    (tmp_path / '20260101_000000' / '20260101_000000.log').write_text('x')
    folder = read_folder(tmp_path)
    assert str(folder.state) == 'did not start: it ended before its first step'
    assert (folder.curves, folder.scores, folder.seconds, folder.main_score) == ({}, {}, None, None)
    (tmp_path / 'iter_3.pth').touch()  # it came so far, without a record
    assert read_folder(tmp_path).state.name == 'unknown'


def test_one_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match='no such folder'):
        read_folder(tmp_path / 'absent')
    with pytest.raises(ConfigError, match='name the --work-dir'):
        read_folder(tmp_path)


def test_which_score_runs_are_compared_by(work_dir, scalars):
    lines = [*scalars(1.0, key='coco/segm_mAP'), {'coco/bbox_mAP': 2.0, 'time': 1, 'step': 1},
             dict(mine=3.0, step=1)]
    assert read_folder(work_dir('a', scalars=lines)).main_score == 'coco/bbox_mAP'
    config = "default_hooks = dict(checkpoint=dict(save_best='mine'))"
    assert read_folder(work_dir('b', scalars=lines, config=config)).main_score == 'mine'
    assert read_folder(work_dir('c', scalars=scalars(1.0, key='other'))).main_score == 'other'
    assert read_folder(work_dir('d')).main_score is None


def test_scores_of_which_the_smallest_is_best(work_dir, scalars):
    folder = read_folder(work_dir(scalars=scalars(3.0, 1.0, 2.0, key='depth/rmse')))
    assert folder.scores['depth/rmse'].best == 1.0
    assert not is_smaller_better('coco/bbox_mAP')
    assert not is_smaller_better('accuracy/top1')


def test_scores_that_are_not_finite(work_dir, scalars):
    path = work_dir(scalars=scalars(float('nan'), 2.0, float('nan')))
    assert read_folder(path).scores['mIoU'].best == 2.0
    assert json.dumps(read_folder(work_dir('b', scalars=scalars(float('nan')))).scores)
