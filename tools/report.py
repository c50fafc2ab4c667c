#!/usr/bin/env python
"""Show one run, or several side by side, on a page of one file."""
import argparse
import shlex
import sys
from pathlib import Path

from mmvssd.cli.command_line import named, run
from mmvssd.cli.image_files import each_path
from mmvssd.cli.launch import check_output_file
from mmvssd.errors import ConfigError, printable
from mmvssd.reports.page import write
from mmvssd.reports.runs.page import page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', type=named, metavar='WORK_DIR',
                        help='work dir of a training or a test')
    parser.add_argument('--out', type=named, required=True, metavar='FILE.html', help='the page')
    args = parser.parse_args()
    if Path(args.out).suffix not in ('.html', '.htm'):
        raise ConfigError(f'--out: got {args.out}, expected a name that ends with .html')
    check_output_file(args.out, '--out')
    work_dirs = [Path(path) for path in each_path(args.work_dirs)]
    html = page(work_dirs, shlex.join(['python', *sys.argv]))
    write(Path(args.out), html)
    print(f'report in {printable(args.out)}')


if __name__ == '__main__':
    run(main)
