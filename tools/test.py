#!/usr/bin/env python
"""Evaluate a checkpoint with a recipe of any of the three hosts."""
import argparse

from mmvssd.cli.command_line import (
    add_recipe_arguments,
    add_report_argument,
    add_run_arguments,
    named,
    read_recipe,
    run,
    write_report,
)
from mmvssd.cli.launch import build_tester


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('checkpoint', type=named, metavar='CHECKPOINT',
                        help='checkpoint to evaluate')
    parser.add_argument('--weights', choices=('ema', 'raw'),
                        help='of a checkpoint that holds both: the moving average or the raw '
                        "weights; default: as the recipe's EMAHook has it")
    parser.add_argument('--tta', action='store_true',
                        help="average over the recipe's test-time augmentations")
    parser.add_argument('--show-dir', type=named, metavar='FOLDER',
                        help='draw the predictions into FOLDER')
    parser.add_argument('--out', type=named, metavar='FILE.pkl',
                        help='write the predictions to FILE.pkl')
    add_report_argument(parser)
    add_run_arguments(parser)
    args = parser.parse_args()
    cfg = read_recipe(args)
    build_tester(cfg, args.checkpoint, weights=args.weights, tta=args.tta, show_dir=args.show_dir,
                 out=args.out, details=args.report).test()
    if args.report:
        write_report(cfg.work_dir)


if __name__ == '__main__':
    run(main)
