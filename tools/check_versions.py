"""Prove the range of versions: the tests in new environments, a Python and a PyTorch each.

    python tools/check_versions.py                      # all pairs below, one after the other
    python tools/check_versions.py 3.12:2.4.1 3.10:2.6.0

Each pair gets a virtualenv with that PyTorch, which tools/setup.sh then adopts, and the fast tests.
The results go into the table of docs/compat.md. An environment with PyTorch's CUDA build takes 6 GB
and minutes to download; it is removed before the next one is made, unless --keep is given.
"""
import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'compat.md'
BEGIN, END = '<!-- check_versions: begin -->', '<!-- check_versions: end -->'
HEADER = ('| Python | PyTorch | torchvision | Triton | tests | result |',
          '|---|---|---|---|---|---|')
PAIRS = tuple(f'{python}:{torch}' for python in ('3.10', '3.12', '3.13')
              for torch in ('2.4.1', '2.6.0', '2.13.0'))
FAST = ('--numprocesses', '2', '--dist', 'loadfile', '-m', 'not slow')


class Failure(Exception):
    """A step that did not work, in a few words; the environment's log has the rest."""


def find_python(version):
    """Find an interpreter such as 3.12 on PATH or in pyenv; raise Failure if there is none."""
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    candidates: list = [f'python{version}',
                        *sorted(pyenv.glob(f'versions/{version}.*/bin/python'))]
    code = 'import sys; print("%d.%d" % sys.version_info[:2])'
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, '-I', '-c', code], capture_output=True, text=True,
                                  check=False)
        except OSError:
            continue
        if done.stdout.strip() == version:
            return candidate
    raise Failure(f'not run: no Python {version} here')


def run(step, command, log, **environment):
    """Run a command with its output in a log; returns that output, or raises Failure."""
    print(f'  {step}', flush=True)
    env = {name: value for name, value in os.environ.items()
           if name not in ('PYTHON', 'PYTHONPATH', 'VIRTUAL_ENV', 'CONDA_PREFIX')}
    with log.open('a+') as file:
        begin = file.tell()
        done = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=file,
                              stderr=subprocess.STDOUT, env={**env, **environment}, check=False)
        file.seek(begin)
        output = file.read()
    if done.returncode:
        raise Failure(f'{step}: {reason(output)}')
    return output


def reason(output):
    """Return the line that says most of why a command failed."""
    for pattern in (r'^\d+ failed.*|^=+ .*\d+ failed.* =+$', r'^ERROR: .*', r'^Set-up stopped: .*',
                    r'^\w*Error: .*'):
        found = re.findall(pattern, output, re.MULTILINE)
        if found:
            return found[-1].strip('= ')
    return output.strip().splitlines()[-1] if output.strip() else 'no output'


def check(python, torch, folder, tests, *, keep):
    """Make an environment, set it up and test; returns the cells of its row after the PyTorch."""
    environment, log = folder / f'{python}-{torch}', folder / f'{python}-{torch}.log'
    interpreter = environment / 'bin' / 'python'
    versions = {}
    keep = keep or environment.exists()  # what was there before is not this tool's to remove
    try:
        if not interpreter.exists():
            run('virtualenv', [find_python(python), '-I', '-m', 'venv', environment], log)
        pip = (interpreter, '-I', '-m', 'pip', 'install', '--disable-pip-version-check')
        minor = int(torch.split('.')[1])  # torchvision 0.(15 + n) goes with PyTorch 2.n
        run('PyTorch', [*pip, '--no-compile', f'torch=={torch}', f'torchvision==0.{15 + minor}.*'],
            log)
        run('set-up', ['bash', ROOT / 'tools' / 'setup.sh'], log, VIRTUAL_ENV=str(environment))
        versions = installed(interpreter)
        output = run('tests', [interpreter, '-m', 'pytest', '-q', *tests], log,
                     OMP_NUM_THREADS=str(((os.cpu_count() or 1) + 1) // 2))
        result = output.strip().splitlines()[-1].strip('= ')
    except Failure as failure:
        result = str(failure)
    finally:
        if not keep:
            shutil.rmtree(environment, ignore_errors=True)
    return [versions.get('torchvision', ''), versions.get('triton', ''), describe(tests), result]


def installed(interpreter):
    """Distribution -> version in an environment."""
    code = ('from importlib.metadata import distributions\n'
            'for found in distributions(): print(found.metadata["Name"], found.version)')
    output = subprocess.run([interpreter, '-I', '-c', code], capture_output=True, text=True,
                            check=True).stdout
    return dict(line.split() for line in output.splitlines())


def describe(tests):
    return 'fast' if tuple(tests) == FAST else '`' + ' '.join(tests).replace('|', r'\|') + '`'


def read_rows(text):
    """Read the rows of the page's table: (Python, PyTorch) -> cells."""
    section = text.split(BEGIN)[1].split(END)[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip('| ').split(' | ')]
        if re.match(r'3\.\d+$', cells[0]):
            rows[cells[0], cells[1]] = cells
    return rows


def write_rows(text, rows):
    """Return the page with these rows in its table, in the order of their versions."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    order = sorted(rows, key=lambda key: [int(part) for part in '.'.join(key).split('.')])
    lines = [*HEADER, *(f'| {" | ".join(rows[key])} |' for key in order)]
    return f'{before}{BEGIN}\n' + '\n'.join(lines) + f'\n{END}{after}'


def record(row):
    """Put one row into the page, whole or not at all."""
    text = PAGE.read_text(encoding='utf-8')
    text = write_rows(text, {**read_rows(text), (row[0], row[1]): row})
    temporary = PAGE.with_name(f'{PAGE.name}.tmp.{os.getpid()}')
    temporary.write_text(text, encoding='utf-8')
    temporary.replace(PAGE)


def main():
    """Check each pair; the exit status is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('pairs', nargs='*', default=PAIRS, metavar='PYTHON:TORCH')
    parser.add_argument('--tests', nargs=argparse.REMAINDER, default=FAST,
                        help='what pytest gets in place of the fast tests; comes last')
    parser.add_argument('--folder', type=Path, help='where the environments and logs go')
    parser.add_argument('--keep', action='store_true',
                        help='leave the environments there; the next run in the folder uses them')
    options = parser.parse_args()
    wrong = [pair for pair in options.pairs if not re.fullmatch(r'3\.\d+:\d+\.\d+\.\d+', pair)]
    if wrong:
        parser.error(f'got {", ".join(wrong)}, expected such as 3.12:2.6.0')
    folder = options.folder or Path(tempfile.mkdtemp(prefix='mmvssd-versions-'))
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for pair in options.pairs:
        python, torch = pair.split(':')
        print(f'Python {python}, PyTorch {torch}; log: {folder}/{python}-{torch}.log', flush=True)
        row = [python, torch,
               *check(python, torch, folder, options.tests, keep=options.keep)]
        record(row)
        failed += ' passed' not in row[-1] or ' failed' in row[-1]
        print(f'  {row[-1]}', flush=True)
    print(f'{len(options.pairs) - failed} of {len(options.pairs)} work, on {platform.platform()}; '
          f'the table is in {PAGE}')
    return min(failed, 1)


if __name__ == '__main__':
    sys.exit(main())
