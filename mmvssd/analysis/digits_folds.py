"""Small classifiers on scikit-learn's digits: five folds, equal size, equal steps.

1,797 real scans of handwritten digits are split into stratified folds. Each classifier is trained
on all folds but one and scored on that one, in turn. All have the head, steps, augmentation and
optimizer of the sample recipe and about as many parameters as its VSSD. A learning rate is chosen
for each from the same few, on a part of the first fold's training digits. So the digits that the
first fold holds out have no part in the choice. The other folds share the rate.
"""
import json
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope

from mmvssd.analysis.throughput import Setting, measure
from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets.sample_data import CLASSES
from mmvssd.datasets.scenes import Digits, load_digits
from mmvssd.errors import ConfigError
from mmvssd.files import write_whole

RECIPE = 'samples/{family}-nano_1xb64_digits.py'
METRIC = 'accuracy/top1'

#: MMPreTrain's backbones at the size of the recipe's VSSD, without drop path as that one; Swin
#: with the windows that fit its grids, and initialized as its own recipes do it.
HOSTS: Dict[str, Any] = {
    'resnet-18': dict(type='ResNet', depth=18, stem_channels=19, base_channels=19),
    'swin': dict(
        type='SwinTransformer',
        arch=dict(embed_dims=21, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8]),
        stage_cfgs=[dict(window_size=5), dict(window_size=5), dict(window_size=3),
                    dict(window_size=2)],
        drop_path_rate=0.,
        init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.),
                  dict(type='Constant', layer='LayerNorm', val=1., bias=0.)]),
}
MODEL_NAMES = ('vssd', 'vmamba', *HOSTS)


class Settings(NamedTuple):
    """Settings that all trainings share.

    Attributes:
        epochs: Epochs of a training.
        batch: Images a step.
        size: Side in pixels to which the scans of 8x8 are enlarged.
        rates: Learning rates to choose from.
        folds: Folds of the cross-validation, and of the inner one of which one split is used.
        seed: Seed of the splits; a fold's training has the seed ``seed + fold``.
    """

    epochs: int = 10
    batch: int = 32
    size: int = 40
    rates: Tuple[float, ...] = (5e-4, 1.5e-3, 4.5e-3)
    folds: int = 5
    seed: int = 0


class Split(NamedTuple):
    """Rows of the digits to train on and to be scored on, both (n,) int, ascending."""

    train: np.ndarray
    test: np.ndarray


class Score(NamedTuple):
    """A finished training.

    Attributes:
        model: Its name.
        rate: Learning rate.
        top1: Percentage that is right of the digits held out.
        held_out: Number of these.
        iterations: Steps.
        parameters: Of the classifier, head included.
        seconds: Of training and scoring.
    """

    model: str
    rate: float
    top1: float
    held_out: int
    iterations: int
    parameters: int
    seconds: float


def all_digits() -> Digits:
    """Return all 1,797 digits, in scikit-learn's order."""
    return Digits(*map(np.concatenate, zip(load_digits('train'), load_digits('val'))))


def make_folds(labels: np.ndarray, folds: int, seed: int) -> List[Split]:
    """Split into stratified folds, each held out once; the same for the same seed.

    Args:
        labels: (n,) int.
        folds: Their number.
        seed: Of the shuffle within the classes.
    """
    from sklearn.model_selection import StratifiedKFold  # here, as it takes a second
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return [Split(*rows) for rows in splitter.split(labels, labels)]


def inner_split(split: Split, labels: np.ndarray, folds: int, seed: int) -> Split:
    """Split a split's training rows only, to choose a learning rate on."""
    inner = make_folds(labels[split.train], folds, seed)[0]
    return Split(split.train[inner.train], split.train[inner.test])


def write_pictures(digits: Digits, folder: Path, size: int) -> None:
    """Write the digits as ``<row>.png``, enlarged to ``size`` x ``size``; the last row last."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [_picture(row) for row in digits.sources]
    if (folder / names[-1]).is_file():
        return
    for name, image in zip(names, digits.images):
        large = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
        png = cv2.imencode('.png', np.clip(255 * large, 0, 255).round().astype(np.uint8))[1]
        write_whole(folder / name, png.tobytes())


def _picture(row: int) -> str:
    return f'{row:04d}.png'


def _write_list(file: Path, rows: Sequence[int], labels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, ''.join(f'{_picture(row)} {labels[row]}\n' for row in rows))


def model_config(name: str) -> ConfigDict:
    """Config of a classifier: the sample recipe's, with another backbone but for ``vssd``.

    Raises:
        ConfigError: There is no such name.
    """
    if name not in MODEL_NAMES:
        raise ConfigError(f'model: unknown name {name!r}; known: {", ".join(MODEL_NAMES)}')
    if name == 'vmamba':  # its recipe's is half of VSSD's size
        model = load_config(RECIPE.format(family='vmamba')).model
        model.backbone.arch.embed_dims = 32
        model.head.in_channels = 8 * 32
        return model
    model = load_config(RECIPE.format(family='vssd')).model
    if name in HOSTS:
        model.backbone = ConfigDict(**HOSTS[name], out_indices=(3, ))
        model.head.in_channels = 8 * (HOSTS[name].get('base_channels')
                                      or HOSTS[name]['arch']['embed_dims'])
    return model


def build(name: str):
    """Build a classifier as it is trained here, with random weights."""
    init_default_scope('mmpretrain')
    return MODELS.build(model_config(name))


def count_parameters(name: str) -> int:
    """Count the parameters of a classifier, head included."""
    return sum(parameter.numel() for parameter in build(name).parameters())


def make_config(name: str, rate: float, settings: Settings, seed: int, data_root: Path,
                work_dir: Path) -> Config:
    """Return the sample recipe for another backbone, with the pictures and lists in ``data_root``.

    Args:
        name: Of :data:`MODEL_NAMES`.
        rate: Learning rate.
        settings: What all trainings share.
        seed: Of initial weights and the order of images.
        data_root: Folder of the pictures.
        work_dir: Folder of the run; it holds the lists ``train.txt`` and ``test.txt``.
    """
    cfg = load_config(RECIPE.format(family='vssd'), work_dir=str(work_dir))
    cfg.model = model_config(name)
    cfg.optim_wrapper.optimizer.lr = rate
    cfg.train_cfg.update(max_epochs=settings.epochs, val_interval=settings.epochs)
    cfg.param_scheduler[-1].end = settings.epochs
    cfg.randomness.seed = seed
    shift = settings.size // 8  # one scanned pixel; no flips, a turned digit is another one
    pipelines = dict(
        train=[dict(type='LoadImageFromFile'),
               dict(type='RandomCrop', crop_size=settings.size, padding=shift),
               dict(type='PackInputs')],
        test=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
    for phase, kind in (('train', 'train'), ('val', 'test')):
        loader = cfg[f'{phase}_dataloader']
        loader.update(batch_size=settings.batch, num_workers=0, persistent_workers=False)
        loader.dataset = dict(  # an update would keep what the recipe's has beside these
            type='CustomDataset', data_root=str(data_root.resolve()),
            ann_file=str((work_dir / f'{kind}.txt').resolve()), metainfo=dict(classes=CLASSES),
            pipeline=pipelines[kind])
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.default_hooks.checkpoint = None  # a stopped run of a minute starts anew
    cfg.log_level = 'WARNING'
    cfg.experiment_name = str(work_dir.resolve())  # several runs may start in one second
    return cfg


def train(name: str, rate: float, split: Split, settings: Settings, seed: int, labels: np.ndarray,
          data_root: Path, work_dir: Path) -> Score:
    """Train a classifier on a split and score its last weights; a finished one is read.

    The score is kept beside ``work_dir``, as ``<its name>.json``. For the arguments see
    :func:`make_config`; ``labels`` are those of all digits, (1797,) int.
    """
    kept = work_dir.with_name(work_dir.name + '.json')
    if kept.is_file():
        return Score(**json.loads(kept.read_text()))
    for kind, rows in split._asdict().items():
        _write_list(work_dir / f'{kind}.txt', rows, labels)
    runner = build_trainer(make_config(name, rate, settings, seed, data_root, work_dir))
    start = time.perf_counter()
    model = runner.train()
    seconds = time.perf_counter() - start
    score = Score(name, rate, float(runner.message_hub.get_scalar(f'val/{METRIC}').current()),
                  len(split.test), runner.iter,
                  sum(parameter.numel() for parameter in model.parameters()), seconds)
    write_whole(kept, json.dumps(score._asdict(), indent=2) + '\n')
    return score


def best_rate(tries: Sequence[Score]) -> float:
    """Learning rate of the best try; of equal ones the lowest."""
    return min(tries, key=lambda score: (-score.top1, score.rate)).rate


def run_all(names: Sequence[str], out: Path, settings: Settings,
            report: Callable[[str, Score], None]) -> Dict[str, List[Score]]:
    """Choose learning rates, then train on all folds; what is finished is read.

    Args:
        names: Of :data:`MODEL_NAMES`.
        out: Folder of the pictures, the runs and their scores.
        settings: What all trainings share.
        report: Called with what was trained and its score, after each training.

    Returns:
        Scores of each model, fold by fold.

    Raises:
        ConfigError: A name is unknown, there are too few epochs, or the folder holds scores of
            other settings.
    """
    if settings.epochs < 2:
        raise ConfigError(f'--epochs: got {settings.epochs}, expected 2 or more; the first warms '
                          'the learning rate up')
    for name in names:
        model_config(name)
    _claim(out, settings)
    digits = all_digits()
    write_pictures(digits, out / 'pictures', settings.size)
    folds = make_folds(digits.labels, settings.folds, settings.seed)
    inner = inner_split(folds[0], digits.labels, settings.folds, settings.seed)

    def run(name: str, rate: float, split: Split, seed: int, what: str) -> Score:
        score = train(name, rate, split, settings, seed, digits.labels, out / 'pictures',
                      out / name / what)
        report(what, score)
        return score

    rates = {}
    for name in names:
        rates[name] = best_rate([run(name, rate, inner, settings.seed, f'rate-{rate:g}')
                                 for rate in settings.rates])
    scores = {name: [] for name in names}
    for i, split in enumerate(folds):
        for name in names:
            scores[name].append(run(name, rates[name], split, settings.seed + i, f'fold-{i}'))
    return scores


def _claim(out: Path, settings: Settings) -> None:
    """Note a folder's settings; ConfigError if it holds scores of others."""
    file = out / 'settings.json'
    wanted = json.loads(json.dumps(dict(
        settings._asdict(), models={name: model_config(name) for name in MODEL_NAMES})))
    if file.is_file():
        there = json.loads(file.read_text())
        differing = [key for key in wanted if there.get(key) != wanted[key]]
        if differing:
            raise ConfigError(
                f'--out: {out} holds scores of other settings: '
                + ', '.join(f'{key} was {there.get(key)}, asked for {wanted[key]}'
                            for key in differing)
                + '; name another folder')
    write_whole(file, json.dumps(wanted, indent=2) + '\n')


def training_speeds(names: Sequence[str], settings: Settings, rounds: int = 9) -> Dict[str, float]:
    """Return images a second forward and backward through the backbones, which take turns."""
    makers = {name: lambda name=name: build(name).backbone for name in names}
    rows = measure(names, [Setting('train', settings.batch, settings.size)], makers=makers,
                   rounds=rounds)
    return {row.model: row.images_per_second for row in rows}


def nearest_neighbour(digits: Digits, folds: Sequence[Split]) -> List[float]:
    """Top-1 in percent, fold by fold, of the label of the nearest scan by its 64 pixels."""
    from sklearn.neighbors import KNeighborsClassifier
    pixels = digits.images.reshape(len(digits.labels), -1)
    return [100 * KNeighborsClassifier(1).fit(pixels[train], digits.labels[train]).score(
        pixels[test], digits.labels[test]) for train, test in folds]


def spread(values: Sequence[float], sign: str = '') -> str:
    """Mean and standard deviation (of a sample, n - 1), such as ``98.11 ± 0.42``."""
    return f'{statistics.mean(values):{sign}.2f} ± {statistics.stdev(values):.2f}'


def format_table(scores: Dict[str, List[Score]], speeds: Dict[str, float],
                 neighbour: Optional[Sequence[float]] = None) -> str:
    """Write the scores as a Markdown table, with differences to the first model fold by fold.

    Args:
        scores: Scores of each model, fold by fold.
        speeds: Images a second of each model.
        neighbour: Top-1 of the nearest neighbour, fold by fold, for a last row.
    """
    first, *_ = scores
    baseline = [score.top1 for score in scores[first]]
    held_out = [score.held_out for score in scores[first]]
    lines = [f'| model | parameters | learning rate | top-1, % | wrong of {sum(held_out)} '
             f'| minus {first}, fold by fold | images/s |', '|---|---|---|---|---|---|---|']
    for name, rows in scores.items():
        top1 = [score.top1 for score in rows]
        lines.append(f'| {name} | {rows[0].parameters:,} | {rows[0].rate:g} | '
                     f'{_scored(top1, held_out, None if name == first else baseline)} | '
                     f'{speeds[name]:.0f} |')
    if neighbour:
        lines.append(f'| nearest neighbour | - | - | {_scored(neighbour, held_out, baseline)} '
                     '| - |')
    return '\n'.join(lines) + '\n'


def _scored(top1: Sequence[float], held_out: Sequence[int],
            baseline: Optional[Sequence[float]]) -> str:
    wrong = sum(round(number * (100 - score) / 100) for score, number in zip(top1, held_out))
    minus = [a - b for a, b in zip(top1, baseline)] if baseline else None
    return f'{spread(top1)} | {wrong} | {spread(minus, "+") if minus else "-"}'
