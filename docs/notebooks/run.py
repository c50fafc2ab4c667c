"""Run the notebooks of this folder from beginning to end, and keep their outputs in them.

    python docs/notebooks/run.py                  # all of them
    python docs/notebooks/run.py finetune.ipynb

They run in a temporary folder. A notebook notes the sources that its outputs come from.
"""
import argparse
import hashlib
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
SOURCES = 'sources'  # the notebook's metadata that has the digest


def digest(book: nbformat.NotebookNode) -> str:
    """Return a digest of all code."""
    code = [cell.source for cell in book.cells if cell.cell_type == 'code']
    return hashlib.sha256('\0'.join(code).encode()).hexdigest()


def execute(book: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in a folder; nbclient's CellExecutionError shows a cell that fails."""
    NotebookClient(book, kernel_name='python3', timeout=3600, startup_timeout=300,
                   record_timing=False, resources=dict(metadata=dict(path=str(folder)))).execute()


def keep_outputs(file: Path) -> None:
    """Run a notebook and write it with its outputs, whole or not at all."""
    book = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory(prefix='mmvssd-notebook-') as folder:
        execute(book, Path(folder))
    book.metadata[SOURCES] = digest(book)
    temporary = file.with_name(f'{file.name}.tmp.{os.getpid()}')
    nbformat.write(book, temporary)
    temporary.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME')
    names = parser.parse_args().names or sorted(file.name for file in FOLDER.glob('*.ipynb'))
    for name in names:
        keep_outputs(FOLDER / name)
        print(f'{name}: {(FOLDER / name).stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    main()
