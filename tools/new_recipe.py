#!/usr/bin/env python
"""Write a recipe for your own data: a folder of images with annotations, or an annotation file.

It says what it found, converts what no host reads beside the recipe, and changes nothing of the
data. Then train with: python tools/train.py RECIPE
"""
import argparse

from mmvssd.cli.command_line import named, run
from mmvssd.datasets.formats import FORMATS
from mmvssd.new_recipe import new_recipe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', metavar='DATA', type=named,
                        help='folder of images and annotations, or an annotation file')
    parser.add_argument('--out', required=True, type=named, metavar='RECIPE.py',
                        help='recipe to write, such as mine/recipe.py')
    parser.add_argument('--task', choices=('det', 'seg', 'cls'),
                        help='detection, segmentation (also from outlines of objects) or '
                        'classification; default: what the data tell')
    parser.add_argument('--arch', type=named, default='vssd-tiny',
                        help='backbone, such as vssd-nano, which is for a CPU, vssd-micro or '
                        'vmamba-tiny-s1l8; a wrong one lists all (default: %(default)s)')
    parser.add_argument('--checkpoint', type=named, metavar='FILE',
                        help='converted checkpoint that the backbone starts from; default: '
                        'checkpoints/ARCH_in1k.pth if it is there')
    parser.add_argument('--format', choices=tuple(FORMATS), help='default: what the data tell')
    parser.add_argument('--classes', nargs='+', metavar='NAME',
                        help='names of the classes in the order of their numbers, for data that '
                        'do not name them')
    parser.add_argument('--ignore-zero', action=argparse.BooleanOptionalAction, default=None,
                        help='0 of a label map is not labelled, classes count from 1')
    parser.add_argument('--val', type=named, metavar='DATA',
                        help='data for validation; default: those in DATA, else some of its '
                        'images')
    parser.add_argument('--val-fraction', type=float, default=0.2, metavar='SHARE',
                        help='share of the images that validate if none are set aside '
                        '(default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0,
                        help='of the choice of these images (default: %(default)s)')
    parser.add_argument('--epochs', type=int, metavar='N',
                        help='passes over the images; default: by their number')
    parser.add_argument('--batch-size', type=int, metavar='N',
                        help='images of a step on one device; default: 2 in detection, 4 in '
                        'segmentation, 32 in classification')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace RECIPE.py and RECIPE_data')
    args = parser.parse_args()
    new_recipe(args.data, args.out, arch=args.arch, task=args.task, form=args.format,
               val=args.val, val_fraction=args.val_fraction, seed=args.seed,
               classes=args.classes, ignore_zero=args.ignore_zero, checkpoint=args.checkpoint,
               epochs=args.epochs, batch_size=args.batch_size, overwrite=args.overwrite)


if __name__ == '__main__':
    run(main)
