#!/usr/bin/env python
"""Compare VMamba's scan patterns: parameters, GFLOPs, speed and memory."""
import argparse
from pathlib import Path

import torch

from mmvssd.analysis.scan_patterns import compare, print_costs
from mmvssd.analysis.speed_report import machine, plot_speeds, print_speeds, write_speeds
from mmvssd.cli.command_line import run
from mmvssd.cli.launch import check_device, check_writable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', default='tiny-s2l5',
                        help='arch of VMamba (default: %(default)s)')
    parser.add_argument('--size', type=int, default=224, metavar='PIXELS',
                        help='side of the images (default: %(default)s)')
    parser.add_argument('--batch', type=int, default=8, metavar='IMAGES',
                        help='images of a step that is timed (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=7,
                        help='steps of each pattern that are timed (default: %(default)s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    parser.add_argument('--out', metavar='FOLDER', help='write scan_patterns.csv and .png there')
    args = parser.parse_args()
    check_device(args.device)
    if args.out:
        check_writable(args.out, '--out')
    costs, speeds = compare(args.arch, size=args.size, batch=args.batch, device=args.device,
                            rounds=args.rounds)
    print_costs(costs, f'vmamba-{args.arch}, one image of {args.size} x {args.size}')
    title = f'vmamba-{args.arch}: {machine(args.device)}'
    print_speeds(speeds, title)
    if args.out:
        folder = Path(args.out)
        write_speeds(speeds, folder / 'scan_patterns.csv',
                     {pattern: cost._asdict() for pattern, cost in costs.items()})
        plot_speeds(speeds, title, folder / 'scan_patterns.png')


if __name__ == '__main__':
    run(main)
