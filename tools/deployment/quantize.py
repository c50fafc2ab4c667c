#!/usr/bin/env python
"""Quantize an exported classifier to 8 bits, and compare its accuracy with the float file's."""
import argparse
import os

from mmvssd.cli.command_line import add_recipe_arguments, named, run
from mmvssd.cli.launch import load_config
from mmvssd.deployment.quantization import quantize
from mmvssd.phrases import counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('model', type=named, metavar='MODEL', help='ONNX file of export.py')
    parser.add_argument('--out', type=named, required=True, metavar='FILE',
                        help='file to write; it ends with .onnx')
    parser.add_argument('--calibrate', type=_positive, default=128, metavar='IMAGES',
                        help='training images that tell the ranges (default: %(default)s)')
    parser.add_argument('--evaluate', type=_positive, default=1000, metavar='IMAGES',
                        help='images of the test data to compare on, at most '
                        '(default: %(default)s)')
    parser.add_argument('--max-loss', type=float, default=1, metavar='POINTS',
                        help='percentage points of top-1 accuracy that may be lost; beyond, '
                        'nothing is written (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='NUMBER',
                        help='draws the images (default: %(default)s)')
    args = parser.parse_args()
    scores = quantize(load_config(args.config, options=args.cfg_options), args.model, args.out,
                      calibration=args.calibrate, evaluation=args.evaluate,
                      max_loss=args.max_loss / 100, seed=args.seed)
    print(f'{counted(scores.images, "image")}: top-1 {scores.float_top1:.2%} in float32, '
          f'{scores.int8_top1:.2%} in 8 bits; the same class for {scores.agreement:.2%}')
    print(f'{args.out}: written, {os.path.getsize(args.out) / 1e6:.1f} MB; '
          f'{args.model} has {os.path.getsize(args.model) / 1e6:.1f}')


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'got {text!r}, expected a number of images')
    return int(text)


if __name__ == '__main__':
    run(main)
