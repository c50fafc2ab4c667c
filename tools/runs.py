#!/usr/bin/env python
"""List the runs below folders with their state, scores, time and size, or compare two of them."""
import argparse
from pathlib import Path

from mmvssd.cli.command_line import named, run, show
from mmvssd.cli.image_files import each_path
from mmvssd.files import strict_json
from mmvssd.reports.runs import listing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folders', nargs='*', type=named, default=['work_dirs'], metavar='FOLDER',
                        help='where to look (default: work_dirs)')
    parser.add_argument('--compare', nargs=2, type=named, metavar=('A', 'B'),
                        help='show in which settings and scores two runs differ')
    parser.add_argument('--json', action='store_true', help='print JSON in place of a table')
    args = parser.parse_args()
    roots = [Path(folder) for folder in each_path(args.folders)]
    if args.compare:
        found = listing.comparison(*(listing.find_run(name, *roots) for name in args.compare))
        show(strict_json(found, indent=1) if args.json else listing.comparison_table(found))
        return
    runs = listing.find_runs(*roots)
    show(strict_json([listing.as_json(one) for one in runs], indent=1) if args.json
         else listing.table(runs, roots[0] if len(roots) == 1 else None))


if __name__ == '__main__':
    run(main)
