#!/usr/bin/env python
"""Export every arch to ONNX, compare it with PyTorch, and print a table."""
import argparse
from pathlib import Path

from mmvssd.cli.command_line import run
from mmvssd.deployment.archs import measure_apart, names, table
from mmvssd.deployment.onnx_models import require
from mmvssd.files import write_whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--archs', nargs='+', choices=names(), default=names(), metavar='ARCH',
                        help='such as vssd-tiny (default: all)')
    parser.add_argument('--out', type=Path, help='file for the table, whole after every arch')
    args = parser.parse_args()
    require('onnx', 'onnxscript', 'onnxruntime')
    rows = []
    for name in args.archs:
        rows.append(measure_apart(name))
        if args.out:
            write_whole(args.out, table(rows))
    print(table(rows), end='')


if __name__ == '__main__':
    run(main)
