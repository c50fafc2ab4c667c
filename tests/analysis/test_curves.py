"""Curves are read from MMEngine's logs, joined over the starts of a run, and drawn."""
import json
import runpy
import sys

import cv2
import numpy as np
import pytest

from mmvssd.analysis.curves import (
    choose_keys,
    name_runs,
    plain,
    plot_curves,
    read_run,
    smoothed,
)
from mmvssd.errors import ConfigError
from mmvssd.paths import project_root


def step(iteration, loss, **more):
    """A line that a training step writes."""
    return dict(loss=loss, lr=1e-3, time=0.1, data_time=0.01, iter=iteration, step=iteration,
                **more)


def score(number, **scores):
    """A line that a validation writes; ``number`` is an epoch or an iteration."""
    return dict(scores, time=0.1, data_time=0.01, step=number)


def write(work_dir, time, *lines):
    file = work_dir / time / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, lines)))
    return file


def points(run, key):
    return {point.step: point.value for point in run[key].points}


def test_epochs_and_iterations(tmp_path):
    write(tmp_path / 'epochs', '20260101_000000', step(10, 2.0, epoch=1), step(20, 1.0, epoch=1),
          score(1, mIoU=40.0), step(30, 0.5, epoch=2), score(2, mIoU=50.0))
    run = read_run(tmp_path / 'epochs')
    assert set(run) == {'loss', 'lr', 'mIoU'}  # times are no curve
    assert points(run, 'loss') == {10: 2.0, 20: 1.0, 30: 0.5}
    assert points(run, 'mIoU') == {1: 40.0, 2: 50.0}
    assert [(run[key].axis, run[key].is_score) for key in ('loss', 'mIoU')] == [
        ('iteration', False), ('epoch', True)]
    write(tmp_path / 'iterations', '20260101_000000', step(10, 2.0), score(10, mIoU=40.0))
    assert read_run(tmp_path / 'iterations')['mIoU'].axis == 'iteration'


def test_sizes_without_objects_have_no_score(tmp_path):
    """COCO's evaluation gives -1 for them, which is no AP; a loss may be -1."""
    write(tmp_path, '20260101_000000', step(10, -1.0), score(
        1, **{'coco/bbox_mAP': 0.2, 'coco/bbox_mAP_l': -1.0}))
    run = read_run(tmp_path)
    assert points(run, 'coco/bbox_mAP') == {1: 0.2}
    assert points(run, 'loss') == {10: -1.0}
    assert 'coco/bbox_mAP_l' not in run


def test_a_resumed_run_is_one_run(tmp_path):
    """Killed in iteration 35, after a checkpoint at 20; what it did after that is done again."""
    write(tmp_path, '20260101_000000', step(10, 4.0, epoch=1), step(20, 3.0, epoch=1),
          score(1, mIoU=40.0), step(25, 99.0, epoch=2), step(35, 99.0, epoch=2))
    # it validates again first, and logs at other iterations
    write(tmp_path, '20260102_000000', score(1, mIoU=41.0), step(24, 2.0, epoch=2),
          step(40, 1.0, epoch=2), score(2, mIoU=50.0))
    run = read_run(tmp_path)
    assert points(run, 'loss') == {10: 4.0, 20: 3.0, 24: 2.0, 40: 1.0}
    assert points(run, 'mIoU') == {1: 41.0, 2: 50.0}
    assert run['mIoU'].axis == 'epoch'


def test_a_run_that_began_anew_forgets_the_one_before(tmp_path):
    write(tmp_path, '20260101_000000', step(10, 4.0, epoch=1), score(1, mIoU=40.0),
          step(20, 3.0, epoch=2), score(2, mIoU=45.0))
    write(tmp_path, '20260102_000000', step(10, 8.0, epoch=1), score(1, mIoU=20.0))
    run = read_run(tmp_path)
    assert points(run, 'loss') == {10: 8.0}
    assert points(run, 'mIoU') == {1: 20.0}


def test_a_test_leaves_curves_alone(tmp_path):
    write(tmp_path, '20260101_000000', step(10, 4.0, epoch=1))
    (tmp_path / '20260102_000000' / 'vis_data').mkdir(parents=True)
    write(tmp_path, '20260103_000000')
    assert points(read_run(tmp_path), 'loss') == {10: 4.0}


def test_a_line_that_is_half_written(tmp_path):
    file = write(tmp_path, '20260101_000000', step(10, 4.0), step(20, float('nan')))
    file.write_text(file.read_text() + '\n{"loss": 3.')
    loss = points(read_run(file), 'loss')
    assert loss.keys() == {10, 20}
    assert np.isnan(loss[20])
    file.write_text(file.read_text() + '\n' + json.dumps(step(30, 1.0)))
    with pytest.raises(ConfigError, match=r"scalars.json, line 3: got '\{\"loss\": 3.'"):
        read_run(file)


BROKEN = [b'{"loss": 3.', b'\xff', b'\x00\x00\x00', b'[' * 99999, b'{"step": "4", "iter": 4}',
          b'{"step": 4, "iter": "4", "loss": 1.0}', b'3', b'null', b'{"loss": 3.{"step": 1}', b'']


@pytest.mark.parametrize('line', BROKEN, ids=range(len(BROKEN)))
def test_lines_that_cannot_be_read_are_left_out_and_counted(tmp_path, line):
    file = write(tmp_path, '20260101_000000', step(10, 4.0), step(20, 3.0))
    whole = file.read_bytes() + b'\n'
    with_line = whole + line + b'\n' + whole.replace(b'10', b'30').replace(b'20', b'40')
    file.write_bytes(with_line)
    damage = []
    assert points(read_run(tmp_path, damage), 'loss') == {10: 4.0, 20: 3.0, 30: 4.0, 40: 3.0}
    assert damage == [f'{file}: 1 of 5 lines cannot be read and is left out; the first is line 3']
    with pytest.raises(ConfigError, match=r'scalars.json, line 3: got .*expected what MMEngine'):
        read_run(tmp_path)
    # the last line is half written only if it does not end
    file.write_bytes(whole + line + b'\n')
    read_run(tmp_path, damage := [])
    assert len(damage) == 1


def test_damage_of_one_start_leaves_the_others(tmp_path):
    write(tmp_path, '20260101_000000', step(10, 4.0))
    write(tmp_path, '20260102_000000', step(20, 3.0)).write_bytes(b'\xff\n\xff\n')
    (tmp_path / '20260103_000000' / 'vis_data' / 'scalars.json').mkdir(parents=True)
    damage = []
    assert points(read_run(tmp_path, damage), 'loss') == {10: 4.0}
    assert ['2 of 2 lines' in damage[0], 'cannot be read (Is a directory)' in damage[1]] == [
        True, True]
    write(tmp_path / 'whole', '20260101_000000', step(10, 4.0))
    read_run(tmp_path / 'whole', damage := [])
    assert damage == []


@pytest.mark.parametrize(('path', 'message'), [
    ('gone', r'gone: no such work dir or scalars.json \(seen from'),
    ('empty', r'empty: holds no <time>/vis_data/scalars.json'),
    ('begun', r'begun: no loss and no score was logged yet'),
    ('other', r'line 1: got .*expected what MMEngine logs'),
])
def test_what_holds_no_curves(tmp_path, path, message):
    (tmp_path / 'empty').mkdir()
    write(tmp_path / 'begun', '20260101_000000')
    write(tmp_path / 'other', '20260101_000000', [1, 2], [3])
    with pytest.raises(ConfigError, match=message):
        read_run(tmp_path / path)


def test_names_tell_runs_apart(tmp_path):
    a, b = tmp_path / 'a' / 'run', tmp_path / 'b' / 'run'
    assert name_runs([a]) == ['run']
    assert name_runs([a, b]) == ['a/run', 'b/run']
    scalars = [a / time / 'vis_data' / 'scalars.json' for time in ('1', '2')]
    assert name_runs(scalars) == ['1', '2']
    with pytest.raises(ConfigError, match='the same run twice'):
        name_runs([a, a])


def test_keys(tmp_path):
    write(tmp_path, '20260101_000000', dict(step(10, 4.0, epoch=1), loss_cls=1.0, grad_norm=2.0),
          score(1, **{'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.2, 'coco/bbox_mAP_s': 0.3}))
    run = read_run(tmp_path)
    assert choose_keys([run]) == ['loss', 'coco/bbox_mAP', 'lr']
    assert choose_keys([run], ['coco/bbox_mAP_50', 'loss_cls']) == ['coco/bbox_mAP_50', 'loss_cls']
    with pytest.raises(ConfigError, match=r'--keys: mAP was not logged; there are coco/bbox_mAP, '
                                          r'coco/bbox_mAP_50, .*grad_norm, loss, loss_cls, lr'):
        choose_keys([run], ['loss', 'mAP'])


def test_smoothed():
    assert smoothed([4, 2, 0, 2], 2) == [4, 3, 1, 1]
    assert smoothed([4, 2, 0, 2], 1) == [4, 2, 0, 2]
    assert smoothed([4, 2], 9) == [4, 3]


def colors(picture):
    """Which of the first two lines' colours there are, in blue, green, red."""
    return [bool((picture == color).all(-1).any()) for color in ((180, 119, 31), (14, 127, 255))]


def test_every_run_is_drawn(tmp_path):
    for name, loss in (('first', 2.0), ('second', 1.0)):
        write(tmp_path / name, '20260101_000000', step(10, loss), step(20, loss / 2))
    runs = {name: read_run(tmp_path / name) for name in ('first', 'second')}
    drawn = {}
    for count in (1, 2):
        file = tmp_path / f'{count}.png'
        plot_curves(dict(list(runs.items())[:count]), ['loss'], file, smooth=2)
        drawn[count] = cv2.imread(str(file))
    assert colors(drawn[1]) == [True, False]
    assert colors(drawn[2]) == [True, True]
    plot_curves(runs, ['loss', 'lr', 'loss'], tmp_path / 'more.png')
    more = cv2.imread(str(tmp_path / 'more.png'))  # two panels side by side, two rows
    assert more.shape[0] > 1.5 * drawn[1].shape[0]
    assert more.shape[1] == 2 * drawn[1].shape[1]
    height, width, _ = more.shape
    assert (more[int(0.6 * height):, int(0.6 * width):] == 255).all()  # no empty panel
    assert not list(tmp_path.glob('*.partial'))


@pytest.mark.parametrize('name', ['_exp', '\udce9', '$x', '\x00', ''])
def test_every_run_is_in_the_legend(tmp_path, monkeypatch, name):
    write(tmp_path, '20260101_000000', step(10, 2.0), score(10, **{f'{name}s': 1.0}))
    run, named = read_run(tmp_path), []
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda figure, *args, **kwargs: (
        figure.draw_without_rendering(),
        named.extend(text.get_text() for text in figure.legends[0].get_texts())))
    plot_curves({name: run, 'other': run}, ['loss', f'{name}s'], tmp_path / 'a.png')
    assert [one.strip() for one in named] == [plain(name).strip(), 'other']


def test_the_tool(run_tool, tmp_path):
    for name in ('first', 'second'):
        write(tmp_path / name, '20260101_000000', step(10, 2.0), step(20, 1.0))
    out = run_tool('analysis_tools/plot_curves.py', 'first', 'second', '--out', 'new/curves.png',
                   '--keys', 'loss', '--smooth', '2')
    assert 'curves in new/curves.png' in out
    assert colors(cv2.imread(str(tmp_path / 'new' / 'curves.png'))) == [True, True]


@pytest.mark.parametrize(('arguments', 'message'), [
    (('first', '--out', 'curves.pdf'), '--out: got curves.pdf, expected a name that ends'),
    (('gone', '--out', 'curves.png'), 'gone: no such work dir'),
    (('first', '--out', 'file/curves.png'), '--out: file cannot be made or written to'),
    (('first', '--out', 'curves.png', '--smooth', '0'), '--smooth: got 0'),
])
def test_the_tools_errors(tmp_path, monkeypatch, capsys, arguments, message):
    """Each is one message, and no picture."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'first', '20260101_000000', step(10, 2.0))
    (tmp_path / 'file').touch()
    monkeypatch.setattr(sys, 'argv', ['plot_curves.py', *arguments])
    tool = project_root() / 'tools' / 'analysis_tools' / 'plot_curves.py'
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tool), run_name='__main__')
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob('*.p*'))
