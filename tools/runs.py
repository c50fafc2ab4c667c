#!/usr/bin/env python
"""List the runs below a folder with their state, scores, time and size, or compare two of them."""
import argparse
from pathlib import Path

from mmvssd.cli.command_line import named, run, show
from mmvssd.files import strict_json
from mmvssd.reports.runs import listing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', type=named, default='work_dirs',
                        help='where to look (default: %(default)s)')
    parser.add_argument('--compare', nargs=2, type=named, metavar=('A', 'B'),
                        help='show in which settings and scores two runs differ')
    parser.add_argument('--json', action='store_true', help='print JSON in place of a table')
    args = parser.parse_args()
    root = Path(args.folder)
    if args.compare:
        found = listing.comparison(*(listing.find_run(name, root) for name in args.compare))
        show(strict_json(found, indent=1) if args.json else listing.comparison_table(found))
        return
    runs = listing.find_runs(root)
    show(strict_json([listing.as_json(one) for one in runs], indent=1) if args.json
         else listing.table(runs, root))


if __name__ == '__main__':
    run(main)
