"""What is timed and how it is reported, not how fast it is."""
import csv

import pytest
import torch

from mmvssd.analysis import throughput
from mmvssd.analysis.throughput import Setting, measure


def test_settings():
    setting = Setting.parse('train:4x224')
    assert setting == ('train', 4, 224)
    assert str(setting) == 'train:4x224'


@pytest.mark.parametrize('text', ['fly:1x2', 'infer', 'infer:8', 'infer:0x224', 'infer:8x-1'])
def test_settings_that_are_none(text):
    with pytest.raises(ValueError, match=f"setting: got '{text}', expected infer or train"):
        Setting.parse(text)


@pytest.mark.parametrize('name', ['vssd-huge', 'vssd-micro+int8'])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r'unknown name .*; known: vssd-micro, .*resnet-50'):
        measure([name], [])


def test_no_rounds():
    with pytest.raises(ValueError, match='--rounds: got 0, expected a positive number'):
        measure(['vssd-micro'], [], rounds=0)


class Recorder(torch.nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.calls = calls

    def forward(self, x):
        y = x * self.weight
        self.calls.append((self.training, torch.is_grad_enabled(), tuple(x.shape),
                           torch.is_autocast_enabled('cpu')))
        return (y, )


def test_each_takes_its_turn(monkeypatch):
    calls, clock = [], iter(range(1000))
    sizes = []
    monkeypatch.setattr(throughput, 'backbones', lambda size=224: sizes.append(size) or dict(
        a=lambda: Recorder(calls), b=lambda: Recorder(calls)))
    monkeypatch.setattr(throughput.time, 'perf_counter', lambda: next(clock))
    rows = measure(['a', 'b+bfloat16'], [Setting('infer', 2, 8), Setting('train', 1, 4)],
                   rounds=3, warmup=1)
    assert sizes == [224, 8, 4]  # for the names, and then as large as the images
    infer, train = calls[:8], calls[8:]
    assert infer == [(False, False, (2, 3, 8, 8), False), (False, False, (2, 3, 8, 8), True)] * 4
    assert train == [(True, True, (1, 3, 4, 4), False), (True, True, (1, 3, 4, 4), True)] * 4
    assert [(row.model, row.setting.mode) for row in rows] == [
        ('a', 'infer'), ('b+bfloat16', 'infer'), ('a', 'train'), ('b+bfloat16', 'train')]
    assert all(row.seconds > 0 and row.images_per_second == row.setting.batch / row.seconds
               for row in rows)


@pytest.mark.slow
def test_command(run_tool, tmp_path):
    out = run_tool('benchmarks/backbone_speed.py', 'resnet-50', 'vssd-micro', '--settings',
                   'infer:1x64', 'train:2x64', '--rounds', '1', '--device', 'cpu', '--out', 'speed')
    assert 'speed over that of resnet-50' in out
    with open(tmp_path / 'speed' / 'backbone_speed.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['model'] for row in rows] == ['resnet-50', 'vssd-micro'] * 2
    assert [float(row['ratio']) for row in rows[::2]] == [1, 1]
    assert (tmp_path / 'speed' / 'backbone_speed.png').read_bytes()[:4] == b'\x89PNG'
    out = run_tool('benchmarks/backbone_speed.py', 'vssd-huge', expect=2)
    assert "unknown name 'vssd-huge'" in out
    assert 'Traceback' not in out
    (tmp_path / 'file').touch()
    out = run_tool('benchmarks/backbone_speed.py', '--out', 'file', expect=2)
    assert '--out: file cannot be made or written to' in out
