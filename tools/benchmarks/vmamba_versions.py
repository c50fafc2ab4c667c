#!/usr/bin/env python
"""Count and time each version of VMamba from V0 to V9, beside what is published (Fig. 9)."""
import argparse
from pathlib import Path

import torch

from mmvssd.analysis.speed_report import machine
from mmvssd.analysis.vmamba_versions import (
    PUBLISHED_SIZE,
    check_numbers,
    compare,
    print_rows,
    write_report,
)
from mmvssd.cli.command_line import named, run
from mmvssd.cli.launch import check_device, check_writable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=named, required=True, metavar='FOLDER',
                        help='folder for vmamba_versions.csv, .md and .png')
    parser.add_argument('--size', type=int, default=PUBLISHED_SIZE, metavar='PIXELS',
                        help='side of the images (default: %(default)s, as published)')
    parser.add_argument('--batch', type=int, metavar='IMAGES',
                        help='images of a step that is timed (default: 128 on a GPU, as published; '
                        '1 on a CPU)')
    parser.add_argument('--rounds', type=int,
                        help='steps of each version that are timed (default: 30 on a GPU, 3 on a '
                        'CPU)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    args = parser.parse_args()
    check_device(args.device)
    on_cpu = torch.device(args.device).type == 'cpu'
    batch = (1 if on_cpu else 128) if args.batch is None else args.batch
    rounds = (3 if on_cpu else 30) if args.rounds is None else args.rounds
    check_numbers(args.size, batch, rounds)
    check_writable(args.out, '--out')
    rows = compare(size=args.size, batch=batch, device=args.device, rounds=rounds)
    title = (f'inference, batch {batch} of {args.size} x {args.size} pixels, '
             f'{machine(args.device)}')
    print_rows(rows, title)
    write_report(rows, title, Path(args.out))


if __name__ == '__main__':
    run(main)
