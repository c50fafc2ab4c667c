#!/usr/bin/env python
"""Draw the loss and score curves of one or more trainings to a PNG."""
import argparse
from pathlib import Path

from mmvssd.analysis.curves import choose_keys, name_runs, plot_curves, read_run
from mmvssd.cli.command_line import run
from mmvssd.cli.image_files import each_path
from mmvssd.cli.launch import check_output_file
from mmvssd.errors import ConfigError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('runs', nargs='+', metavar='WORK_DIR',
                        help='work dir of a training, resumed parts included, or a scalars.json')
    parser.add_argument('--out', required=True, metavar='FILE.png', help='the picture')
    parser.add_argument('--keys', nargs='+', metavar='KEY',
                        help='what to draw, such as loss coco/bbox_mAP_50; default: the loss, each '
                        'score and the learning rate. An unknown one lists those that there are')
    parser.add_argument('--smooth', type=int, default=1, metavar='N',
                        help='draw training curves as means over N logged points (default: 1)')
    args = parser.parse_args()
    if Path(args.out).suffix != '.png':
        raise ConfigError(f'--out: got {args.out}, expected a name that ends with .png')
    if args.smooth < 1:
        raise ConfigError(f'--smooth: got {args.smooth}, expected a positive number')
    check_output_file(args.out, '--out')
    paths = [Path(path) for path in each_path(args.runs)]
    runs = dict(zip(name_runs(paths), map(read_run, paths)))
    plot_curves(runs, choose_keys(list(runs.values()), args.keys), Path(args.out),
                smooth=args.smooth)
    print(f'curves in {args.out}')


if __name__ == '__main__':
    run(main)
