#!/usr/bin/env python
"""Time backbones side by side: a table of ratios to the first one, a CSV and a plot.

With --kernels it also says where a step's time goes, by kind of work.
"""
import argparse
from pathlib import Path
from typing import List, Optional, Sequence

import torch

from mmvssd.analysis.busy_machine import cores
from mmvssd.analysis.speed_report import machine, plot_speeds, print_speeds, write_speeds
from mmvssd.analysis.step_kernels import StepKernels, markdown, write
from mmvssd.analysis.throughput import Setting, measure, profile
from mmvssd.cli.command_line import run
from mmvssd.cli.launch import check_device, check_writable
from mmvssd.errors import ConfigError
from mmvssd.phrases import counted
from mmvssd_kernels.benchmark.profiling import unit

MODELS = ('resnet-50', 'swin-tiny', 'convnext-tiny', 'vssd-tiny', 'vssd-tiny-iccv2025',
          'vssd-tiny+bfloat16', 'vssd-tiny+compile')
SETTINGS = ('infer:8x224', 'infer:1x512', 'train:4x224')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('models', nargs='*', default=MODELS, metavar='MODEL',
                        help='such as vssd-tiny, vssd-tiny+bfloat16+compile, or vssd-tiny+'
                        'reference for an implementation of its ops; the first is the yardstick '
                        f'(default: {" ".join(MODELS)})')
    parser.add_argument('--settings', nargs='+', default=SETTINGS, metavar='MODE:BATCHxSIZE',
                        help=f'infer or train, batch, side (default: {" ".join(SETTINGS)})')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--rounds', type=int, default=7, help='steps of each (default: 7)')
    parser.add_argument('--busy', type=_processes, nargs='?', const=cores(), default=0,
                        metavar='N', help='in each round time all once more while N processes '
                        f'load the machine (default of N: one for each core, here {cores()})')
    parser.add_argument('--kernels', type=int, nargs='?', const=3, metavar='N',
                        help="then list the GPU's time of a step by kind of work, by PyTorch's "
                        'profiler, the mean of N steps (default of N: 3); on a CPU the time of '
                        'operators')
    parser.add_argument('--out', metavar='FOLDER', help='write backbone_speed.csv and .png there, '
                        'and backbone_kernels.md and .json')
    args = parser.parse_args()
    check_device(args.device)
    if args.out:
        check_writable(args.out, '--out')
    if args.kernels is not None and args.kernels < 1:
        raise ConfigError(f'--kernels: got {args.kernels}, expected a positive number of steps')
    title = machine(args.device)
    if args.busy:
        title += f', busy: {args.busy} other processes on {cores()} cores'
    folder = Path(args.out) if args.out else None

    def keep(rows) -> None:
        if folder:  # after each setting, for a run that is cut short
            write_speeds(rows, folder / 'backbone_speed.csv')

    try:
        settings = [Setting.parse(text) for text in args.settings]
        rows = measure(args.models, settings, device=args.device, rounds=args.rounds,
                       busy=args.busy, each=keep)
        print_speeds(rows, title)
        if folder:
            plot_speeds(rows, title, folder / 'backbone_speed.png')
        if args.kernels is not None:
            _profile(args.models, settings, args.device, args.kernels, folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _profile(models: Sequence[str], settings: Sequence[Setting], device: str, calls: int,
             folder: Optional[Path]) -> None:
    """Print where steps spend their time, and write it after each of them."""
    facts = [machine(device), '', f'{unit(torch.device(device))}, by torch.profiler: mean of '
             f'{counted(calls, "step")}.']
    steps: List[StepKernels] = []
    for found in profile(models, settings, device=device, calls=calls):
        steps.append(StepKernels(*found))
        if folder:
            write(steps, facts, folder / 'backbone_kernels.md')
    print(markdown(steps, facts))


def _processes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'got {text!r}, expected a positive number of processes; '
                                         'models go before --busy')
    return int(text)


if __name__ == '__main__':
    run(main)
