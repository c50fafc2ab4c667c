#!/usr/bin/env python
"""Look at all data of a recipe, tell all their faults at once, and show them on a page.

Exit status: 0 if a training may begin, 1 if it will go wrong, 2 if the recipe or an option does not
fit.
"""
import argparse
import contextlib
import shlex
import sys
from pathlib import Path

from mmvssd.cli.command_line import add_recipe_arguments, named, run, show
from mmvssd.cli.launch import check_output_file, check_seed, load_config
from mmvssd.errors import ConfigError, printable
from mmvssd.files import strict_json
from mmvssd.reports import page
from mmvssd.reports.data import examine
from mmvssd.reports.data.page import as_json, table, verdict
from mmvssd.reports.data.page import page as data_page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe_arguments(parser)
    parser.add_argument('--out', type=named, metavar='FILE.html',
                        help='write a page with pictures of samples to FILE.html')
    parser.add_argument('--samples', type=int, default=12, metavar='N',
                        help='put N samples of each part through its pipeline (default: 12)')
    parser.add_argument('--seed', type=int, default=0, metavar='NUMBER',
                        help='chooses the samples and their augmentation (default: 0)')
    parser.add_argument('--strict', action='store_true',
                        help='exit with status 1 for what is doubtful, too')
    parser.add_argument('--json', action='store_true', help='print JSON in place of the table')
    args = parser.parse_args()
    check_seed(args.seed)
    if args.samples < 0:
        raise ConfigError(f'--samples: got {args.samples}, expected a number from 0 on')
    if args.out:
        if Path(args.out).suffix not in ('.html', '.htm'):
            raise ConfigError(f'--out: got {args.out}, expected a name that ends with .html')
        check_output_file(args.out, '--out')
    # what the hosts print is no part of the JSON
    with contextlib.redirect_stdout(sys.stderr):
        cfg = load_config(args.config, options=args.cfg_options)
        report = examine(cfg, args.samples, args.seed)
    if args.out:
        command = shlex.join(['python', *sys.argv])
        page.write(Path(args.out), data_page(report, args.config, command))
    if args.json:
        show(strict_json(as_json(report, args.config), indent=1))
    else:
        page_of = (f'the page: {printable(args.out)}' if args.out
                   else '--out check.html shows the samples')
        show(f'{table(report)}\n\n{printable(args.config)}: {verdict(report)}; {page_of}')
    doubtful = args.strict and report.findings.as_json()
    sys.exit(0 if report.is_sensible and not doubtful else 1)


if __name__ == '__main__':
    run(main)
