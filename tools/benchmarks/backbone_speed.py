#!/usr/bin/env python
"""Time backbones side by side: a table of ratios to the first one, a CSV and a plot."""
import argparse
import csv
import io
import platform
from pathlib import Path
from typing import List

import torch
from rich.console import Console
from rich.table import Table

from mmvssd.analysis.throughput import Setting, Speed, measure
from mmvssd.engine.command_line import run
from mmvssd.engine.launch import ConfigError, check_device, check_writable
from mmvssd.files import write_whole

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
    device = (torch.cuda.get_device_name(args.device) if args.device.startswith('cuda')
              else f'{platform.machine()} CPU, {torch.get_num_threads()} threads')
    title = f'{device}, PyTorch {torch.__version__}'
    _print(rows, title)
    if args.out:
        folder = Path(args.out)
        _write_csv(rows, folder / 'backbone_speed.csv')
        _plot(rows, title, folder / 'backbone_speed.png')


def _ratio(row: Speed, rows: List[Speed]) -> float:
    """Speed over that of the first model in the same setting."""
    first = next(other for other in rows if other.setting == row.setting)
    return first.seconds / row.seconds


def _print(rows: List[Speed], title: str) -> None:
    table = Table('setting', 'model', 'images/s', 'ms a step', 'ratio', 'MB a step', title=title,
                  caption=f'ratio: speed over that of {rows[0].model} in the same setting')
    for row in rows:
        table.add_row(str(row.setting), row.model, f'{row.images_per_second:.2f}',
                      f'{1000 * row.seconds:.1f}', f'{_ratio(row, rows):.2f}',
                      f'{row.memory:.0f}' if row.memory else '-')
    Console().print(table)


def _write_csv(rows: List[Speed], file: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['setting', 'model', 'images_per_second', 'seconds', 'ratio', 'mb_a_step'])
    for row in rows:
        writer.writerow([row.setting, row.model, row.images_per_second, row.seconds,
                         _ratio(row, rows), row.memory])
    write_whole(file, text.getvalue())


def _plot(rows: List[Speed], title: str, file: Path) -> None:
    from matplotlib.figure import Figure
    settings = list(dict.fromkeys(row.setting for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(2 + 2.6 * len(settings), 4.5), layout='constrained')
    axes = figure.subplots()
    width = 0.8 / len(models)
    for i, model in enumerate(models):
        heights = [_ratio(row, rows) for row in rows if row.model == model]
        places = [j + (i - (len(models) - 1) / 2) * width for j in range(len(settings))]
        axes.bar_label(axes.bar(places, heights, width, label=model), fmt='%.2f', fontsize=7)
    axes.axhline(1, color='black', linewidth=0.8)
    axes.set_xticks(range(len(settings)), [str(setting) for setting in settings])
    axes.set_ylabel(f'speed over {models[0]}')
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, ncols=2, loc='upper center', bbox_to_anchor=(0.5, -0.08))
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format='png')
    write_whole(file, picture.getvalue())


if __name__ == '__main__':
    run(main)
