#!/usr/bin/env python
"""Draw the places of photographs that speak for a class: Grad-CAM of a classifier.

MODEL is a recipe of a classifier (FILE.py, below configs/, or mmpretrain::PATH.py), an arch such as
vssd-tiny, or a peer such as resnet-50. Archs and peers have the head of ImageNet's 1000 classes.
"""
import argparse
from dataclasses import replace
from pathlib import Path
from typing import Optional

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmvssd.analysis import result_files
from mmvssd.analysis.class_activation import (
    Settings,
    category_of,
    check_settings,
    draw_all,
    find_subject,
    read_rows,
)
from mmvssd.analysis.named_models import ModelName, check_models
from mmvssd.analysis.photographs import choose_photographs, report_failures
from mmvssd.analysis.speed_report import machine
from mmvssd.cli.command_line import add_photograph_arguments, named, run
from mmvssd.cli.launch import check_device, check_seed, check_writable
from mmvssd.errors import ConfigError
from mmvssd.phrases import numbered
from mmvssd.version import __version__


def main() -> None:
    args = _arguments()
    settings = Settings(args.size, args.stage, None, args.seed, args.device)
    check_settings(settings)
    check_device(args.device)
    check_seed(args.seed)
    name = _model(args.model, args.checkpoint)
    check_models([name], args.size)
    if args.category is not None:
        settings = settings._replace(category=category_of(args.category, name))
        check_settings(settings)
    files = choose_photographs(args.images, args.num_images, args.seed)
    subject = find_subject(name, settings)
    check_writable(args.out, '--out')
    protocol = dict(result_files.facts(name), mmvssd=__version__, torch=torch.__version__,
                    machine=machine(args.device))
    table = Table('image', 'class', 'score', 'best class', 'score',
                  title=f'Grad-CAM of {escape(name.label)}, {subject.activations.what}')
    folder, failures, rows = Path(args.out), {}, []
    done = read_rows(folder, settings, protocol) if args.resume else ()
    for row in draw_all(subject, files, settings, folder, protocol=protocol, failures=failures,
                        done=done):
        rows.append(row)
        table.add_row(escape(Path(row['picture']).stem), escape(row['category_name']),
                      f'{row["score"]:.3g}', escape(row['predicted_name']),
                      f'{row["predicted_score"]:.3g}')
    if rows:
        Console().print(table)
        print(f'pictures in {args.out}')
    if not name.checkpoint:
        print('Without a checkpoint the weights are random: the map shows no class.')
    for row in rows:
        if row['note']:
            print(f'{row["picture"]}: {row["note"]}')
    enlarged = sum(row['enlarged'] for row in rows)
    if enlarged:
        print(numbered(f'{{}} image[s] [is|are] smaller than {args.size} pixels and [was|were] '
                       'enlarged.', enlarged))
    report_failures(failures, len(files))


def _model(model: str, checkpoint: Optional[str]) -> ModelName:
    name = ModelName.parse(model)
    if checkpoint is None:
        return name
    if name.checkpoint:
        raise ConfigError(f'CHECKPOINT: got {checkpoint}, and {model} names one already; give one')
    return replace(name, checkpoint=checkpoint)


def _arguments() -> argparse.Namespace:
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=named, metavar='MODEL')
    parser.add_argument('checkpoint', type=named, nargs='?', metavar='CHECKPOINT',
                        help='also as MODEL@CHECKPOINT; default: random weights')
    parser.add_argument('--out', type=named, required=True, metavar='FOLDER',
                        help='gets a picture and a map (.npy) of each image, and '
                        'class_activation.json')
    parser.add_argument('--continue', action='store_true', dest='resume',
                        help='go on from the images that an earlier run has drawn in FOLDER')
    add_photograph_arguments(parser)
    parser.add_argument('--size', type=int, default=default.size, metavar='PIXELS',
                        help='side of the images (default: %(default)s)')
    parser.add_argument('--stage', type=int, help='stage whose activations are taken, from 0 '
                        '(default: the last)')
    parser.add_argument('--category', type=named, metavar='CLASS',
                        help='number of the class, or its name if the checkpoint knows it '
                        '(default: the one with the best score)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    return parser.parse_intermixed_args()  # an option may stand before CHECKPOINT


if __name__ == '__main__':
    run(main)
