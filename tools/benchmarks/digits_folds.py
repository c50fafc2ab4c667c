#!/usr/bin/env python
"""Train small classifiers on scikit-learn's digits: five folds, equal size, equal steps.

It may be stopped and run again: finished trainings are read from the folder.
"""
import argparse
from pathlib import Path

from rich.progress import Progress

from mmvssd.analysis.digits_folds import (
    MODEL_NAMES,
    Settings,
    all_digits,
    format_table,
    make_folds,
    nearest_neighbour,
    run_all,
    training_speeds,
)
from mmvssd.cli.command_line import run
from mmvssd.cli.launch import check_writable
from mmvssd.files import write_whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('models', nargs='*', default=MODEL_NAMES, metavar='MODEL',
                        help='differences are to the first one '
                        f'(default: {" ".join(MODEL_NAMES)})')
    parser.add_argument('--out', default='work_dirs/digits_folds', metavar='FOLDER',
                        help='pictures, runs, scores, digits_folds.md (default: %(default)s)')
    parser.add_argument('--epochs', type=int, default=Settings().epochs,
                        help='of each training (default: %(default)s)')
    args = parser.parse_args()
    check_writable(args.out, '--out')
    settings, out = Settings(epochs=args.epochs), Path(args.out)
    with Progress() as progress:
        task = progress.add_task('training', total=len(args.models) * (
            len(settings.rates) + settings.folds))

        def report(what, score):
            progress.console.print(f'{score.model}, {what}: top-1 {score.top1:.2f} %, '
                                   f'{score.iterations} steps in {score.seconds:.0f} s')
            progress.advance(task)

        scores = run_all(args.models, out, settings, report)
    digits = all_digits()
    folds = make_folds(digits.labels, settings.folds, settings.seed)
    table = format_table(scores, training_speeds(args.models, settings),
                         nearest_neighbour(digits, folds))
    write_whole(out / 'digits_folds.md', table)
    print(table)


if __name__ == '__main__':
    run(main)
