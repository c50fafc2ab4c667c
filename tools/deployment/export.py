#!/usr/bin/env python
"""Export a trained model to ONNX, a PyTorch program or OpenVINO, and compare."""
import argparse

from mmvssd.cli.command_line import add_recipe_arguments, named, run
from mmvssd.cli.launch import load_config
from mmvssd.cli.terminal import keep_details_off
from mmvssd.deployment.export import TARGETS, export


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
                        const='raw', help='the same as --result raw')
    parser.add_argument('--normalize', action='store_true',
                        help='the file takes pixels of 0 to 255 and applies mean and standard '
                        'deviation itself')
    parser.add_argument('--images', nargs='+', default=['sklearn'], metavar='PATH',
                        help='photographs that a detector is compared on, files or folders, '
                        'the first ten (default: those that scikit-learn bundles)')
    args = parser.parse_args()
    keep_details_off()
    comparisons = export(load_config(args.config, options=args.cfg_options), args.checkpoint,
                         args.out, to=args.to, result=args.result, normalizes=args.normalize,
                         images=args.images)
    largest = {}
    for shape, results, differences in comparisons:
        print(f'images {" x ".join(map(str, shape))}, '
              + (f'{results} results: {_said(differences)}' if results else
                 'nothing was found, so nothing was compared'))
        for name, difference in differences.items():
            largest[name] = max(difference, largest.get(name, 0))
    if any(results for _, results, _ in comparisons):
        print(f'{args.out}: compared and written; largest differences: {_said(largest)}')
    else:
        print('The model found nothing on any of these images, so its results were not compared '
              'with those of the file: name others with --images')
        print(f'{args.out}: written, not compared')


def _said(differences: dict) -> str:
    return ', '.join(f'{name} {difference:.1e}' for name, difference in differences.items())


if __name__ == '__main__':
    run(main)
