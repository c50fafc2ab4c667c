#!/usr/bin/env python
"""Time backbones side by side: a table of ratios to the first one, a CSV and a plot."""
import argparse
from pathlib import Path

import torch

from mmvssd.analysis.speed_report import machine, plot_speeds, print_speeds, write_speeds
from mmvssd.analysis.throughput import Setting, measure
from mmvssd.cli.command_line import run
from mmvssd.cli.launch import check_device, check_writable
from mmvssd.errors import ConfigError

MODELS = ('resnet-50', 'swin-tiny', 'convnext-tiny', 'vssd-tiny', 'vssd-tiny-iccv2025',
          'vssd-tiny+bfloat16', 'vssd-tiny+compile')
SETTINGS = ('infer:8x224', 'infer:1x512', 'train:4x224')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('models', nargs='*', default=MODELS, metavar='MODEL',
                        help='such as vssd-tiny or vssd-tiny+bfloat16+compile; the first is the '
                        f'yardstick (default: {" ".join(MODELS)})')
    parser.add_argument('--settings', nargs='+', default=SETTINGS, metavar='MODE:BATCHxSIZE',
                        help=f'infer or train, batch, side (default: {" ".join(SETTINGS)})')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--rounds', type=int, default=7, help='steps of each (default: 7)')
    parser.add_argument('--out', metavar='FOLDER', help='write backbone_speed.csv and .png there')
    args = parser.parse_args()
    check_device(args.device)
    if args.out:
        check_writable(args.out, '--out')
    try:
        rows = measure(args.models, [Setting.parse(text) for text in args.settings],
                       device=args.device, rounds=args.rounds)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    title = machine(args.device)
    print_speeds(rows, title)
    if args.out:
        folder = Path(args.out)
        write_speeds(rows, folder / 'backbone_speed.csv')
        plot_speeds(rows, title, folder / 'backbone_speed.png')


if __name__ == '__main__':
    run(main)
