#!/usr/bin/env python
"""Time mmcv's ops as this package serves them beside mmcv's compiled ones, in turns."""
import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mmvssd.analysis.mmcv_ops_speed import Comparison, compare, op_steps, training_step
from mmvssd.cli.command_line import run
from mmvssd.cli.launch import load_config
from mmvssd.datasets import make_sample_data
from mmvssd.errors import ConfigError

SAMPLE = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', nargs='*', choices=('step', 'ops'), default=('step', 'ops'),
                        help='the training step of the sample detector, the ops at the sizes of '
                        'COCO, or both (default)')
    parser.add_argument('--rounds', type=int, default=15, help='runs of each (default: 15)')
    parser.add_argument('--threads', type=int, help='threads of PyTorch (default: its own choice)')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    try:
        if 'step' in args.what:
            with tempfile.TemporaryDirectory() as folder:
                rows += compare([sample_step(folder)], args.rounds)
        if 'ops' in args.what:
            rows += compare(op_steps(), args.rounds)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print_rows(rows)


def sample_step(folder: str):
    """Return the training step of the sample detector, on sample data made in a folder."""
    make_sample_data(folder, num_scenes=(16, 2), num_crops=(2, 2), progress=False)
    data = Path(folder, 'coco')
    return training_step(load_config(SAMPLE, options={
        'train_dataloader.dataset.data_root': f'{data}/'}))


def print_rows(rows: 'list[Comparison]') -> None:
    """Print a table with a row for each comparison."""
    table = Table('what', 'compiled, ms', 'here, ms', 'ratio', 'quartiles',
                  title=f'PyTorch {torch.__version__}, {torch.get_num_threads()} threads')
    for row in rows:
        low, middle, high = row.ratio
        table.add_row(row.what, f'{1000 * row.compiled:.1f}', f'{1000 * row.own:.1f}',
                      f'{middle:.2f}', f'{low:.2f} to {high:.2f}')
    Console(width=120).print(table)


if __name__ == '__main__':
    run(main)
