#!/usr/bin/env python
"""Count a recipe's parameters and multiply-adds, in full and in the published convention."""
import argparse
import json
from dataclasses import asdict
from pathlib import Path

from mmvssd.analysis.complexity import count_recipe
from mmvssd.analysis.complexity_report import report
from mmvssd.cli.command_line import add_recipe_arguments, run
from mmvssd.cli.launch import check_output_file, load_config
from mmvssd.files import write_whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'),
                        help='size of the image; default: 224 224 for classification, 800 1280 '
                        'for detection, 512 2048 for segmentation')
    parser.add_argument('--out', metavar='FILE.json', help='write all counts to FILE.json')
    args = parser.parse_args()
    if args.out:
        check_output_file(args.out, '--out')
    complexity = count_recipe(load_config(args.config, options=args.cfg_options), args.shape)
    report(complexity, args.config)
    if args.out:
        write_whole(Path(args.out), json.dumps(asdict(complexity), indent=1))


if __name__ == '__main__':
    run(main)
