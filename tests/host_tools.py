"""Runs tools that a host ships, as command lines, one after the other in this process.

``python host_tools.py HOST '[["misc/print_config.py", "recipe.py"], ...]'`` stops at the first that
fails. All others only show their help. One of those may lack a package that nobody here installs.
"""
import contextlib
import io
import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

#: Tools that import what no installation has: a package named tools, a module of mmcv 1.
LOST = {'analysis_tools/test_robustness.py', 'model_converters/twins2mmpretrain.py'}

#: Tools that hide from themselves that a package is absent.
HIDING = {'analysis_tools/benchmark.py': 'psutil'}


def main(host, commands):
    """Run the commands, then show the help of the rest."""
    folder = Path(find_spec(host).submodule_search_locations[0], '.mim', 'tools')
    for name, *arguments in commands:
        run(folder / name, arguments)
    done = [command[0] for command in commands]
    for file in sorted(folder.rglob('*.py')):
        name = str(file.relative_to(folder))
        if name not in LOST.union(done) and 'argparse' in file.read_text():
            show_help(file, name)


def run(file, arguments):
    """Run a script as Python does."""
    sys.argv = [str(file), *arguments]
    sys.path.insert(0, str(file.parent))
    try:
        runpy.run_path(str(file), run_name='__main__')
    finally:
        sys.path.remove(str(file.parent))


def show_help(file, name):
    """Ask for its help; that imports all that it needs."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run(file, ['--help'])
    except SystemExit as done:
        if done.code:
            raise
    except ImportError as error:
        if error.name and find_spec(error.name.partition('.')[0]):
            raise  # without a name it is the tool that asks for a package
    except AttributeError:
        if name not in HIDING or find_spec(HIDING[name]):
            raise


main(sys.argv[1], json.loads(sys.argv[2]))
