#!/usr/bin/env python
"""Draw top-1 over images/s of classifiers that resolution_scaling.py has measured."""
import argparse
from pathlib import Path

from mmvssd.analysis.efficiency_plot import ACCURACIES, draw, read_dots
from mmvssd.analysis.result_files import write
from mmvssd.cli.command_line import named, run
from mmvssd.cli.launch import check_output_file
from mmvssd.errors import ConfigError
from mmvssd.phrases import counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('files', nargs='+', type=named, metavar='FILE.json',
                        help='resolution_scaling.json of a run, with counts and inference')
    parser.add_argument('--out', type=named, required=True, metavar='FILE.png', help='the picture')
    parser.add_argument('--accuracy', choices=ACCURACIES, default='published',
                        help='default: %(default)s')
    parser.add_argument('--size', type=named,
                        help='such as 224; default: that of the files, if they have one')
    args = parser.parse_args()
    if Path(args.out).suffix != '.png':
        raise ConfigError(f'--out: got {args.out}, expected a name that ends with .png')
    check_output_file(args.out, '--out')
    left_out = []
    dots, title = read_dots(list(map(Path, args.files)), args.size, args.accuracy, left_out)
    write(Path(args.out), draw(dots, args.accuracy, title))
    for line in left_out:
        print(f'left out: {line}')
    print(f'{counted(len(dots), "model")} in {args.out}')


if __name__ == '__main__':
    run(main)
