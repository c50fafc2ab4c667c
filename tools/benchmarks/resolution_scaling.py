#!/usr/bin/env python
"""Count and time classifiers at rising resolution, by VMamba's published procedure (its Table 4).

MODEL is NAME, NAME@CHECKPOINT or NAME@CHECKPOINT=LABEL. NAME is an arch such as vssd-tiny, a peer
such as resnet-50, a classifier's recipe (FILE.py, below configs/, or mmpretrain::PATH.py), or
timm:NAME. With --sizes 224 --batch 128 it is VMamba's Table 1. A machine without a GPU can count
first: --no-speed here, then --continue on the other machine in the same folder.
"""
import argparse
import os
from importlib import metadata
from pathlib import Path
from typing import Dict, Optional

import torch

from mmvssd.analysis.named_models import ModelName
from mmvssd.analysis.published_speed import AMP
from mmvssd.analysis.resolution_accuracy import check_accuracy, measure_top1
from mmvssd.analysis.resolution_scaling import (
    MODELS,
    SIZES,
    Settings,
    check,
    failures,
    measure,
    measured_nowhere,
    parse_size,
    size_text,
)
from mmvssd.analysis.resolution_scaling_report import (
    notes,
    print_rows,
    read_rows,
    write_report,
    write_rows,
)
from mmvssd.analysis.speed_report import machine
from mmvssd.analysis.throughput import MODES
from mmvssd.cli.command_line import named, run
from mmvssd.cli.launch import check_device, check_seed, check_writable
from mmvssd.errors import ConfigError
from mmvssd.version import __version__
from mmvssd_kernels import dispatch


def main() -> None:
    args = _arguments()
    check_device(args.device)
    check_seed(args.seed)
    models = [ModelName.parse(text) for text in args.models]
    settings = _settings(args)
    if not (settings.modes or settings.count or args.accuracy):
        raise ConfigError('--no-speed and --no-flops without --accuracy leave nothing to measure')
    check(models, settings)
    if args.accuracy:
        check_accuracy(models)
    check_writable(args.out, '--out')
    folder = Path(args.out)
    protocol = dict(warmup=settings.warmup, steps=settings.steps, train_amp=settings.train_amp,
                    halve=settings.halve, seed=settings.seed, device=settings.device,
                    mmvssd=__version__, torch=torch.__version__, machine=machine(args.device),
                    **_kernels())

    def score(model, shape):
        return measure_top1(model, shape, folder / 'top1' / f'{model.label}_{size_text(shape)}')

    rows = measure(models, settings, score=score if args.accuracy else None,
                   done=read_rows(protocol, folder) if args.resume else (),
                   each=lambda rows: write_rows(rows, protocol, folder))
    title = _title(settings)
    write_report(rows, title, folder)
    print_rows(rows, title)
    for line in notes(rows):
        print(line)
    if failures(rows):
        raise ConfigError('\n'.join(['some could not be measured; --continue tries these again:',
                                     *failures(rows)]))
    if measured_nowhere(rows):
        raise ConfigError('\n'.join([f'{folder}: the tables have columns without any result, since '
                                     'every model failed at every size; try smaller --sizes, a '
                                     'smaller --batch or --halve:', *measured_nowhere(rows)]))


def _settings(args: argparse.Namespace) -> Settings:
    """Return the settings; those not given are the published ones on a GPU, few on a CPU."""
    on_gpu = torch.device(args.device).type == 'cuda'
    warmup, steps, batch, amp = (50, 30, 32, 'float16') if on_gpu else (1, 3, 1, 'none')
    amp = args.train_amp or amp
    return Settings(
        tuple(map(parse_size, args.sizes)), tuple(args.batch or (batch, )),
        () if args.no_speed else tuple(args.modes),
        warmup if args.warmup is None else args.warmup,
        steps if args.steps is None else args.steps, None if amp == 'none' else amp,
        not args.no_flops, args.halve, args.seed, args.device)


def _kernels() -> Dict[str, Optional[str]]:
    """Return what decides how the ops are computed."""
    versions: Dict[str, Optional[str]] = {}
    for package in ('triton', 'numba'):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return dict(implementation=os.environ.get(dispatch.ENVIRONMENT_VARIABLE, 'auto'), **versions)


def _title(settings: Settings) -> str:
    title = f'Resolution scaling: {machine(settings.device)}'
    if settings.modes:
        precisions = dict(infer='inference in float32',
                          train=f'training in {settings.train_amp or "float32"}')
        title += (f'; {settings.warmup} + {settings.steps} steps, '
                  + ', '.join(precisions[mode] for mode in settings.modes))
    return title


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', type=named, nargs='*', default=list(MODELS), metavar='MODEL',
                        help=f'default: {" ".join(MODELS)}')
    parser.add_argument('--out', type=named, required=True, metavar='FOLDER',
                        help='folder for resolution_scaling.json, .csv, .md and .png')
    parser.add_argument('--continue', action='store_true', dest='resume',
                        help='go on from what an earlier run has written to FOLDER; of another '
                        "machine's only the counts are kept")
    parser.add_argument('--sizes', nargs='+', default=list(SIZES), metavar='SIZE',
                        help='sides of square images, or HEIGHTxWIDTH; default: '
                        f'{" ".join(SIZES)}')
    parser.add_argument('--batch', type=int, nargs='+', metavar='N',
                        help='images of a step, for all sizes or one for each; default: 32, on a '
                        'CPU 1')
    parser.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES),
                        help=f'what is timed; default: {" ".join(MODES)}')
    parser.add_argument('--warmup', type=int, metavar='N',
                        help='steps before those that count; default: 50, on a CPU 1')
    parser.add_argument('--steps', type=int, metavar='N',
                        help='steps that count; default: 30, on a CPU 3')
    parser.add_argument('--train-amp', choices=(*AMP, 'none'),
                        help='autocast in training; default: float16, on a CPU none')
    parser.add_argument('--accuracy', action='store_true',
                        help='test each RECIPE@CHECKPOINT at each size, on its own test set')
    parser.add_argument('--halve', action='store_true',
                        help='halve a batch that does not fit into memory, until it does')
    parser.add_argument('--no-flops', action='store_true',
                        help='do not count parameters and multiply-adds, which a CPU does')
    parser.add_argument('--no-speed', action='store_true', help='time nothing')
    parser.add_argument('--seed', type=int, default=0, metavar='NUMBER',
                        help='of random weights and of images (default: %(default)s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    return parser.parse_args()


if __name__ == '__main__':
    run(main)
