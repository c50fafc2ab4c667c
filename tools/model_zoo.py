#!/usr/bin/env python
"""Write the model-zoo tables of the documents from the recipes' metafiles."""
import argparse
import sys
from pathlib import Path

from mmvssd.analysis.model_zoo import ModelZooError, update_documents

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true',
                        help='write nothing; exit with 1 if a table is out of date')
    args = parser.parse_args()
    try:
        outdated = update_documents(ROOT, check=args.check)
    except (ModelZooError, OSError) as error:
        sys.exit(f'error: {error}')
    names = ', '.join(str(document.relative_to(ROOT)) for document in outdated)
    if args.check and outdated:
        sys.exit(f'out of date: {names}; run python tools/model_zoo.py')
    print(f'written: {names}' if outdated else 'all tables are up to date')


if __name__ == '__main__':
    main()
