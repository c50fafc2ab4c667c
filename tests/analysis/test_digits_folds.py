"""How the classifiers are compared: folds, sizes, what is trained and kept, the table."""
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmvssd.analysis import digits_folds
from mmvssd.analysis.digits_folds import (
    MODEL_NAMES,
    Score,
    Settings,
    all_digits,
    best_rate,
    count_parameters,
    format_table,
    inner_split,
    make_folds,
    nearest_neighbour,
    run_all,
    spread,
    train,
    write_pictures,
)
from mmvssd.errors import ConfigError

SMALL = Settings(epochs=2, batch=8)


@pytest.fixture(scope='module')
def digits():
    return all_digits()


def score(name, top1, rate=1e-3, held_out=100):
    return Score(name, rate, top1, held_out, 10, 12345, 1.)


def test_all_digits(digits):
    assert digits.images.shape == (1797, 8, 8)
    assert digits.images.max() == 1
    assert list(digits.sources) == list(range(1797))
    assert len(digits.labels) == 1797


def test_folds(digits):
    folds = make_folds(digits.labels, 5, 0)
    held_out = np.concatenate([split.test for split in folds])
    assert sorted(held_out) == list(range(1797))
    of_class = Counter(digits.labels)
    for split in folds:
        assert sorted([*split.train, *split.test]) == list(range(1797))
        for label, number in Counter(digits.labels[split.test]).items():
            assert abs(number - of_class[label] / 5) <= 1
    again, other = make_folds(digits.labels, 5, 0), make_folds(digits.labels, 5, 1)
    assert all((a.test == b.test).all() for a, b in zip(folds, again))
    assert set(folds[0].test) != set(other[0].test)


def test_rates_are_chosen_on_training_digits(digits):
    split = make_folds(digits.labels, 5, 0)[0]
    inner = inner_split(split, digits.labels, 5, 0)
    assert sorted([*inner.train, *inner.test]) == sorted(split.train)
    assert len(inner.test) == 288
    assert max(Counter(digits.labels[inner.test]).values()) <= 30


def test_best_rate():
    tries = [score('a', 90., 3e-3), score('a', 95., 2e-3), score('a', 95., 1e-3)]
    assert best_rate(tries) == 1e-3
    assert best_rate(tries[:2]) == 2e-3


def test_equal_size():
    sizes = {name: count_parameters(name) for name in MODEL_NAMES}
    assert set(sizes) == {'vssd', 'vmamba', 'resnet-18', 'swin'}
    for size in sizes.values():
        assert abs(size / sizes['vssd'] - 1) < .05


def test_pictures(digits, tmp_path):
    write_pictures(digits, tmp_path / 'pictures', 40)
    files = sorted((tmp_path / 'pictures').iterdir())
    assert [file.name for file in files[::1796]] == ['0000.png', '1796.png']
    assert len(files) == 1797
    picture = cv2.imread(str(files[7]), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (40, 40)
    small = cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA)
    assert np.abs(small / 255 - digits.images[7]).max() < .2
    files[0].write_bytes(b'')
    write_pictures(digits, tmp_path / 'pictures', 40)
    assert not files[0].read_bytes()  # they are all there


@pytest.mark.parametrize('name', MODEL_NAMES)
def test_each_trains_and_is_kept(name, digits, tmp_path, monkeypatch):
    """Two steps on eight digits; the second call reads the score."""
    write_pictures(digits, tmp_path / 'pictures', SMALL.size)
    split = digits_folds.Split(np.arange(8), np.arange(8, 20))
    arguments = (name, 2e-3, split, SMALL, 3, digits.labels, tmp_path / 'pictures',
                 tmp_path / name / 'fold-0')
    first = train(*arguments)
    assert first[:2] == (name, 2e-3)
    assert first[3:5] == (12, 2)
    assert 0 <= first.top1 <= 100
    assert first.top1 * 12 / 100 == pytest.approx(round(first.top1 * 12 / 100), abs=1e-4)
    assert first.parameters == count_parameters(name)
    lists = [(tmp_path / name / 'fold-0' / f'{kind}.txt').read_text().splitlines()
             for kind in ('train', 'test')]
    assert lists[0] == [f'{row:04d}.png {row}' for row in range(8)]  # the first ten are 0 to 9
    assert len(lists[1]) == 12

    monkeypatch.setattr(digits_folds, 'build_trainer', None)
    assert train(*arguments) == first
    with pytest.raises(TypeError):
        train(*arguments[:-1], tmp_path / name / 'fold-1')


@pytest.mark.parametrize('name', MODEL_NAMES)
def test_all_get_the_same(name):
    cfg = digits_folds.make_config(name, 2e-3, Settings(epochs=7), 3, Path('p'), Path('w'))
    other = digits_folds.make_config('vssd', 1e-3, Settings(epochs=7), 3, Path('p'), Path('w'))
    assert cfg.optim_wrapper.optimizer.lr == 2e-3
    assert cfg.randomness.seed == 3
    assert cfg.train_cfg.max_epochs == cfg.train_cfg.val_interval == 7
    assert cfg.param_scheduler[-1].end == 7
    other.optim_wrapper.optimizer.lr = 2e-3
    other.model.backbone, other.model.head.in_channels = (cfg.model.backbone,
                                                          cfg.model.head.in_channels)
    assert cfg.to_dict() == other.to_dict()


def recorded(monkeypatch, calls):
    """Replaces training; rate 1.5e-3 is best for vssd, 4.5e-3 for the others."""

    def train(name, rate, split, settings, seed, labels, data_root, work_dir):
        calls.append((name, rate, split, seed, str(work_dir)))
        return score(name, 90. + (rate == (1.5e-3 if name == 'vssd' else 4.5e-3)), rate)

    monkeypatch.setattr(digits_folds, 'train', train)
    monkeypatch.setattr(digits_folds, 'write_pictures', lambda *arguments: None)


def test_run_all(digits, tmp_path, monkeypatch):
    calls, reports = [], []
    recorded(monkeypatch, calls)
    scores = run_all(['vssd', 'swin'], tmp_path, Settings(), lambda *what: reports.append(what))
    tries, trained = calls[:6], calls[6:]
    held_out = set(make_folds(digits.labels, 5, 0)[0].test)
    for _, _, split, seed, _ in tries:
        assert not held_out & {*split.train, *split.test}
        assert seed == 0
    assert [call[:2] for call in tries] == [(name, rate) for name in ('vssd', 'swin')
                                            for rate in (5e-4, 1.5e-3, 4.5e-3)]
    assert [(name, rate, seed, work_dir) for name, rate, _, seed, work_dir in trained] == [
        (name, rate, fold, f'{tmp_path}/{name}/fold-{fold}') for fold in range(5)
        for name, rate in (('vssd', 1.5e-3), ('swin', 4.5e-3))]
    for (*_, one, _, _), (*_, other, _, _) in zip(trained[::2], trained[1::2]):
        assert one is other
    assert len({call[-1] for call in calls}) == len(calls) == len(reports) == 16
    assert [len(rows) for rows in scores.values()] == [5, 5]


def test_what_does_not_fit(tmp_path, monkeypatch):
    calls = []
    recorded(monkeypatch, calls)
    for _ in range(2):  # the same ones again are welcome
        run_all(['vssd'], tmp_path, Settings(), lambda *what: None)
    number = len(calls)
    with pytest.raises(ConfigError, match='other settings: epochs was .*, asked for 3; name'):
        run_all(['vssd'], tmp_path, Settings(epochs=3), lambda *what: None)
    assert len(calls) == number
    assert json.loads((tmp_path / 'settings.json').read_text())['epochs'] == Settings().epochs
    with pytest.raises(ConfigError, match='--epochs: got 1, expected 2 or more'):
        run_all(['vssd'], tmp_path / 'new', Settings(epochs=1), lambda *what: None)
    with pytest.raises(ConfigError, match="unknown name 'vit'; known: vssd, vmamba"):
        run_all(['vssd', 'vit'], tmp_path / 'new', Settings(), lambda *what: None)
    assert not (tmp_path / 'new').exists()


def test_nearest_neighbour(digits):
    top1 = nearest_neighbour(digits, make_folds(digits.labels, 5, 0))
    assert len(top1) == 5
    assert 97 < min(top1) <= max(top1) < 100


def test_table():
    scores = {'vssd': [score('vssd', 98.), score('vssd', 97.), score('vssd', 99.)],
              'swin': [score('swin', 97., 5e-4), score('swin', 97., 5e-4),
                       score('swin', 97., 5e-4)]}
    table = format_table(scores, {'vssd': 123.4, 'swin': 1234.5}, [98., 99., 100.])
    assert table.splitlines() == [
        '| model | parameters | learning rate | top-1, % | wrong of 300 '
        '| minus vssd, fold by fold | images/s |',
        '|---|---|---|---|---|---|---|',
        '| vssd | 12,345 | 0.001 | 98.00 ± 1.00 | 6 | - | 123 |',
        '| swin | 12,345 | 0.0005 | 97.00 ± 0.00 | 9 | -1.00 ± 1.00 | 1234 |',
        '| nearest neighbour | - | - | 99.00 ± 1.00 | 3 | +1.00 ± 1.00 | - |']
    assert len(format_table(scores, {'vssd': 1., 'swin': 1.}).splitlines()) == 4


def test_spread():
    assert spread([1., 2., 3.]) == '2.00 ± 1.00'
    assert spread([-.5, -.5], '+') == '-0.50 ± 0.00'


def test_command(run_tool):
    out = run_tool('benchmarks/digits_folds.py', 'vit', '--out', 'new', expect=2)
    assert "unknown name 'vit'" in out
    assert 'Traceback' not in out
