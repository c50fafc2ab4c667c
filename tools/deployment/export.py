#!/usr/bin/env python
"""Export a trained model to ONNX, a PyTorch program or OpenVINO, and compare."""
import argparse

from mmvssd.cli.command_line import add_recipe_arguments, named, run
from mmvssd.cli.launch import load_config
from mmvssd.deployment.export import TARGETS, export, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('checkpoint', type=named, metavar='CHECKPOINT', help='checkpoint to export')
    parser.add_argument('--to', choices=tuple(TARGETS), default='onnx',
                        help='kind of file (default: %(default)s)')
    parser.add_argument('--out', type=named, required=True, metavar='FILE',
                        help='file to write; it ends with '
                        + ', '.join(f'{target.suffix} for {name}'
                                    for name, target in TARGETS.items()))
    parser.add_argument('--result', default='', metavar='NAME',
                        help='scores or logits of a classifier; labels, scores or logits of a '
                        'segmentor; detections or raw of a detector (default: the first)')
    parser.add_argument('--without-post-processing', action='store_const', dest='result',
                        const='raw', help='of a detector: the same as --result raw')
    parser.add_argument('--normalize', action='store_true',
                        help='the file takes pixels of 0 to 255 and applies mean and standard '
                        'deviation itself')
    parser.add_argument('--images', nargs='+', metavar='PATH',
                        help='photographs that a detector is compared on, files or folders, '
                        'the first ten (default: those that scikit-learn bundles)')
    args = parser.parse_args()
    comparisons = export(load_config(args.config, options=args.cfg_options), args.checkpoint,
                         args.out, to=args.to, result=args.result, normalizes=args.normalize,
                         images=args.images)
    print('\n'.join(report(args.out, comparisons)))


if __name__ == '__main__':
    run(main)
