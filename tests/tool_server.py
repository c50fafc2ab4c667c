"""A process that has imported all that tools need, and forks one for each run of a tool.

    python tool_server.py [MODULE...]

It reads requests from stdin, a JSON object a line, and answers with the exit status. The fork is
as fresh as a process that has just done its imports, which take several seconds: nothing was built,
computed or set, and no thread started.
"""
import atexit
import gc
import importlib
import json
import os
import runpy
import sys

#: Imported before the first request, as far as they are installed, if nothing else is asked for.
PRELOADED = ['mmvssd.cli.launch', 'mmvssd.engine', 'mmvssd.models', *(
    f'{host}.{part}' for host in ('mmpretrain', 'mmdet', 'mmseg')
    for part in ('models', 'datasets', 'engine', 'evaluation', 'visualization', 'apis'))]


def preload(names):
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # a tool that needs it says so


def prepare():
    """Spare the forks what takes a small training most time and is as it is in any process.

    The first run of a tool is in a fresh process, which lays out its config as users' do.
    """
    if 'mmengine.config' in sys.modules:
        sys.modules['mmengine.config.config'].FormatCode = lambda text, **style: (text, True)
    gc.collect()
    gc.freeze()  # MMEngine collects after each data set, and no import is garbage


def next_request():
    """Answer requests by forks of this process; returns in a fork, with its request."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def become(request):
    """Take the place of ``python tool *arguments``, with stdout and stderr in one file."""
    os.chdir(request['folder'])
    os.environ.clear()
    os.environ.update(request['environment'])
    output = os.open(request['output'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    sys.argv = request['command']
    sys.path[0] = os.path.dirname(request['command'][0])


class Exit:
    """Ends the process with the status that it would end with, after all that is done at exit.

    Registered first, it is called last: it spares the second that the interpreter takes to free
    every object of a forked process.
    """

    def __init__(self):
        self.status = 0
        atexit.register(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, SystemExit):
            self.status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            self.status = 1

    def __call__(self):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.status)


if __name__ == '__main__':
    with Exit():
        preload(sys.argv[1:] or PRELOADED)
        prepare()
        request = next_request()
        become(request)
        runpy.run_path(request['command'][0], run_name='__main__')
