#!/usr/bin/env python
"""Draw and measure which pixels move the centre of a model's feature map (VMamba's Fig. 10).

MODEL is NAME, NAME@CHECKPOINT or NAME@CHECKPOINT=LABEL. NAME is an arch such as vssd-tiny, a peer
such as resnet-50, a recipe (FILE.py, below configs/, or mmpretrain::PATH.py), or timm:NAME. Without
a checkpoint the weights are random. On a CPU, take --size 512 --num-images 8.
"""
import argparse
from pathlib import Path

import torch

from mmvssd.analysis.named_models import ModelName
from mmvssd.analysis.photographs import RESIZES, choose_photographs, report_failures
from mmvssd.analysis.receptive_field import (
    FINAL_NORMS,
    GRADIENTS,
    LAYOUTS,
    Settings,
    check_settings,
    measure,
)
from mmvssd.analysis.receptive_field_report import (
    FIGURES,
    print_rows,
    read_rows,
    write_report,
    write_rows,
)
from mmvssd.analysis.speed_report import machine
from mmvssd.cli.command_line import add_photograph_arguments, named, run
from mmvssd.cli.launch import check_device, check_seed, check_writable
from mmvssd.version import __version__


def main() -> None:
    args = _arguments()
    settings = Settings(args.size, args.resize, args.gradient, args.final_norm, args.layer,
                        args.layout, args.seed, args.device)
    check_settings(settings)
    check_device(args.device)
    check_seed(args.seed)
    models = [ModelName.parse(text) for text in args.models]
    files = choose_photographs(args.images, args.num_images, args.seed)
    check_writable(args.out, '--out')
    folder, failures = Path(args.out), {}
    protocol = dict(settings._asdict(), display=args.display, images=list(map(str, files)),
                    mmvssd=__version__, torch=torch.__version__, machine=machine(args.device))
    rows = measure(models, files, settings, before=args.before, failures=failures,
                   done=read_rows(models, protocol, folder) if args.resume else (),
                   each=lambda rows: write_rows(rows, protocol, folder))
    write_report(rows, folder, args.display)
    print_rows(rows, f'Effective receptive field, {args.size} pixels: {machine(args.device)}')
    for row in rows:
        for image, why in row.field.left_out.items():
            print(f'{row.title}: without {image}: {why}')
    report_failures(failures, len(files))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', type=named, nargs='+', metavar='MODEL')
    parser.add_argument('--out', type=named, required=True, metavar='FOLDER',
                        help='folder for receptive_field.png, .md, .csv, .json and the raw maps')
    parser.add_argument('--continue', action='store_true', dest='resume',
                        help='go on from the models that an earlier run has written to FOLDER')
    parser.add_argument('--before', action='store_true',
                        help='draw each model without its checkpoint above it')
    add_photograph_arguments(parser)
    parser.add_argument('--size', type=int, default=1024, metavar='PIXELS',
                        help='side of the images (default: %(default)s, as published)')
    parser.add_argument('--layer', type=named, metavar='NAME',
                        help="take this layer's output; default: the backbone's last feature")
    parser.add_argument('--layout', choices=LAYOUTS,
                        help='of the output of --layer, if it is not one of ours')
    parser.add_argument('--final-norm', choices=FINAL_NORMS, default='published',
                        help="behind the backbone's last norm (on), before it (off), or as in the "
                        'published figure (default)')
    parser.add_argument('--gradient', choices=GRADIENTS, default='relu',
                        help='relu: pixels that raise the feature (default); abs: also those that '
                        'lower it')
    parser.add_argument('--resize', choices=RESIZES, default='crop',
                        help='crop the centre (default), or squash the whole image')
    parser.add_argument('--display', choices=FIGURES, default='power',
                        help="scale of the figure's colours (default: %(default)s)")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    return parser.parse_args()


if __name__ == '__main__':
    run(main)
