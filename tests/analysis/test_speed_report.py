"""Measured speeds as a table, a CSV and a plot."""
import csv

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mmvssd.analysis.speed_report import plot_speeds, print_speeds, slowdowns, write_speeds
from mmvssd.analysis.throughput import Setting, Speed, Times

SETTING = Setting('infer', 2, 8)
#: The columns that were there before spread and busy machines.
OLDER = ['setting', 'model', 'images_per_second', 'seconds', 'ratio', 'mb_a_step']


def speed(model, seconds, busy=None, low=None, high=None):
    return Speed(model, SETTING, 2 / seconds, seconds, 12.3,
                 Times(seconds, low or seconds, high or seconds, 2 * seconds), busy)


@pytest.fixture
def rows():
    return [speed('first', 0.5, low=0.4, high=1.0),
            speed('second-with-a-name-of-some-length+reference', 0.25, low=0.2, high=0.5)]


@pytest.fixture
def busy_rows(rows):
    return [row._replace(busy=Times(factor * row.seconds, row.seconds, 9., 3 * row.seconds))
            for row, factor in zip(rows, (2, 4))]


def written(rows, file, facts=None):
    write_speeds(rows, file, facts)
    with open(file) as text:
        return list(csv.reader(text))


def test_a_table(rows, capsys):
    print_speeds(rows, 'a machine')
    out = capsys.readouterr().out
    assert '500.0 (400.0 to 1000.0)' in out
    assert 'second-with-a-name-of-some-length+reference' in out
    assert '2.00' in out
    assert 'median over rounds (quartiles)' in ' '.join(out.split())
    assert 'busy' not in out


def test_a_table_of_a_busy_machine(busy_rows, capsys):
    print_speeds(busy_rows, 'a machine')
    line, = (line for line in capsys.readouterr().out.splitlines() if 'second-' in line)
    assert [cell.strip() for cell in line.split('\u2502')[7:10]] == [
        '1000.0 (250.0 to 9000.0)', '4.00', '1.50']


def test_a_table_without_spread(capsys):
    print_speeds([Speed('first', SETTING, 4., 0.5, 0.)], 'a machine')
    out = capsys.readouterr().out
    assert '500.0' in out
    assert 'quartiles' not in out


def test_new_columns_stand_behind_the_older_ones(rows, busy_rows, tmp_path):
    facts = {row.model: dict(params=7) for row in rows}
    head, first, second = written(rows, tmp_path / 'a.csv', facts)
    assert head[:7] == [*OLDER, 'params']
    assert first[:7] == ['infer:2x8', 'first', '4.0', '0.5', '1.0', '12.3', '7']
    assert dict(zip(head[7:], second[7:])) == dict(
        seconds_low='0.2', seconds_high='0.5', cpu_seconds='0.5', busy_seconds='',
        busy_seconds_low='', busy_seconds_high='', busy_cpu_seconds='', busy_over_quiet='',
        busy_cpu_over_quiet='')
    head, first, second = written(busy_rows, tmp_path / 'b.csv')
    assert head[:6] == OLDER
    assert dict(zip(head[9:], second[9:])) == dict(
        busy_seconds='1.0', busy_seconds_low='0.25', busy_seconds_high='9.0',
        busy_cpu_seconds='0.75', busy_over_quiet='4.0', busy_cpu_over_quiet='1.5')
    older = written([Speed('first', SETTING, 4., 0.5, 0.)], tmp_path / 'c.csv')
    assert set(older[1][6:]) == {''}


def test_no_cpu_time_at_all(rows):
    """A step can be shorter than the clock's tick."""
    row = rows[0]._replace(times=rows[0].times._replace(cpu_seconds=0.), busy=rows[0].times)
    assert slowdowns(row)[1] != slowdowns(row)[1]  # no number


@pytest.fixture
def figure(monkeypatch):
    """What is drawn."""
    figures = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr('matplotlib.figure.Figure', Kept)
    return figures


def test_a_plot(rows, busy_rows, figure, tmp_path):
    plot_speeds(rows, 'a machine', tmp_path / 'a.png')
    axes, = figure[0].axes
    assert [bar.get_height() for bar in axes.patches] == [1, 2]
    spread = axes.collections[1].get_segments()[0][:, 1]
    assert spread.tolist() == pytest.approx([1, 2.5])  # of 0.5 s and 0.2 s
    assert [text.get_text() for text in axes.texts] == ['1.00', '2.00']
    for text in axes.texts:  # the line at 1 does not strike them out
        assert text.get_bbox_patch().get_facecolor()[3] == 1
        assert text.get_zorder() > axes.lines[-1].get_zorder()
    plot_speeds(busy_rows, 'a machine', tmp_path / 'b.png')
    ratios, time, cpu = figure[1].axes
    assert [bar.get_height() for bar in time.patches] == [2, 4]
    assert [bar.get_height() for bar in cpu.patches] == [1.5, 1.5]
    for name in ('a', 'b'):
        with Image.open(tmp_path / f'{name}.png') as picture:
            assert picture.width > 400


def test_a_plot_without_spread(figure, tmp_path):
    plot_speeds([Speed('first', SETTING, 4., 0.5, 0.)], 'a machine', tmp_path / 'a.png')
    assert figure[0].axes[0].patches[0].get_height() == 1
