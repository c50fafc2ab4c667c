#!/usr/bin/env python
"""Predict on an image or a folder of images: pictures, and a JSON of all predictions."""
import argparse

from mmvssd.cli.command_line import add_recipe_arguments, named, run
from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import MAX_PIXELS, predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('checkpoint', type=named, help='weights to predict with')
    parser.add_argument('images', type=named, help='an image, or a folder of images')
    parser.add_argument('--out-dir', type=named, default='predictions', metavar='FOLDER',
                        help='folder for pictures and predictions.json (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                        help='leave out detections below SCORE (default: %(default)s)')
    parser.add_argument('--device', type=named,
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='PIXELS',
                        help='leave out images of more pixels, and those that the recipe hands the '
                        'model with more than a quarter of it (default: %(default)s)')
    args = parser.parse_args()
    predict(load_config(args.config, options=args.cfg_options), args.checkpoint,
            args.images, args.out_dir, score_thr=args.score_thr, device=args.device,
            max_pixels=args.max_pixels)


if __name__ == '__main__':
    run(main)
