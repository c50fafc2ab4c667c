#!/usr/bin/env python
"""Compute mean and std of each band over the training data of a recipe that uses LoadBands.

The two lines to paste into LoadBands go to the standard output, all else to the standard error.
Values of `nodata` are left out.
"""
import argparse
import contextlib
import sys

from mmvssd.bands.statistics import measure
from mmvssd.cli.command_line import add_recipe_arguments, run, show
from mmvssd.cli.launch import load_config, require
from mmvssd.errors import ConfigError, printable
from mmvssd.phrases import counted

#: Images that cannot be read and are named.
NAMED = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe_arguments(parser)
    parser.add_argument('--images', type=int, metavar='N',
                        help='read N images, evenly spread over the data (default: all)')
    args = parser.parse_args()
    if args.images is not None and args.images < 1:
        raise ConfigError(f'--images: got {args.images}, expected a number from 1 on')
    with contextlib.redirect_stdout(sys.stderr):
        cfg = load_config(args.config, options=args.cfg_options)
        require(cfg, 'train_dataloader', 'default_scope')
        found = measure(cfg, args.images)
        print(f'{"band":>4} {"mean":>14} {"std":>14} {"lowest":>14} {"highest":>14} {"no data":>8}')
        for band in found.bands:
            share = band.missing / (band.missing + band.count)
            print(f'{band.number:>4} {band.mean:>14.6g} {band.std:>14.6g} {band.low:>14.6g} '
                  f'{band.high:>14.6g} {share:>8.2%}')
            if not band.std:
                print(f'     band {band.number} has one value throughout: leave it out of bands')
        for line in found.unreadable[:NAMED]:
            print(f'left out: {printable(line)}')
        print(f'{counted(found.images, "image")} in {found.seconds:.1f} seconds, '
              f'{len(found.unreadable)} left out; paste into LoadBands:')
    show(f'mean=[{", ".join(f"{band.mean:.7g}" for band in found.bands)}],\n'
         f'std=[{", ".join(f"{band.std:.7g}" for band in found.bands)}],')


if __name__ == '__main__':
    run(main)
