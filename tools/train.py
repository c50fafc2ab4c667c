#!/usr/bin/env python
"""Train a recipe of any of the three hosts."""
import argparse
from functools import partial

from mmvssd.checkpoint import way_on
from mmvssd.cli.command_line import (
    add_recipe_arguments,
    add_report_argument,
    add_run_arguments,
    named,
    read_recipe,
    run,
    say_if_ended,
    write_report,
)
from mmvssd.cli.launch import build_trainer
from mmvssd.cli.settings import naming_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('--resume', type=named, nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from CHECKPOINT, or from the newest one of the work dir')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate to the global batch that really runs')
    add_report_argument(parser)
    add_run_arguments(parser)
    args = parser.parse_args()
    cfg = read_recipe(args)
    say_if_ended(partial(way_on, cfg.work_dir))  # until the training has a last word of its own
    runner = build_trainer(cfg, resume=args.resume, amp=args.amp, auto_scale_lr=args.auto_scale_lr)
    with naming_settings(cfg):  # optimizers and schedules are built now
        runner.train()
    say_if_ended(partial(str, 'the training had come to its end before'))
    if args.report:
        write_report(cfg.work_dir)


if __name__ == '__main__':
    run(main)
