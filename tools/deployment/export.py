#!/usr/bin/env python
"""Export a trained classifier or segmentor to ONNX, a PyTorch program or OpenVINO, and compare."""
import argparse

from mmvssd.cli.command_line import add_recipe_arguments, named, run
from mmvssd.cli.launch import load_config
from mmvssd.deployment.export import TARGETS, export


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('checkpoint', type=named, help='weights to export')
    parser.add_argument('--to', choices=tuple(TARGETS), default='onnx',
                        help='kind of file (default: %(default)s)')
    parser.add_argument('--out', type=named, required=True, metavar='FILE',
                        help='file to write; it ends with '
                        + ', '.join(f'{target.suffix} for {name}'
                                    for name, target in TARGETS.items()))
    parser.add_argument('--result', default='', metavar='NAME',
                        help='scores or logits of a classifier, labels or scores of a segmentor '
                        '(default: the first)')
    parser.add_argument('--normalize', action='store_true',
                        help='the file takes pixels of 0 to 255 and applies mean and standard '
                        'deviation itself')
    args = parser.parse_args()
    comparisons = export(load_config(args.config, options=args.cfg_options), args.checkpoint,
                         args.out, to=args.to, result=args.result, normalizes=args.normalize)
    for shape, difference in comparisons:
        print(f'images {" x ".join(map(str, shape))}: differs by {difference:.1e}')
    largest = max(difference for _, difference in comparisons)
    print(f'{args.out}: written; largest difference {largest:.1e}')


if __name__ == '__main__':
    run(main)
