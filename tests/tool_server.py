"""A process that has imported all that tools need, and forks one for each run of a tool.

    python tool_server.py [MODULE...]
    python tool_server.py --libraries
    python tool_server.py --socket PATH MODULE...

It reads requests from stdin, a JSON object a line, and answers with the exit status. The fork is
as fresh as a process that has just done its imports, which take several seconds: nothing was built,
computed or set, and no thread started.

torchrun forks too, where it would start Python anew for each process, and again after a restart.
Such forks are its children like any other: it waits for them, stops them and starts them again.
At a socket any number of tools run side by side, for processes that forked_python.py stands for.

A server of libraries has imported neither the hosts nor the project. Its forks do what a new
process does, but for these imports of others, which take most of its time.
"""
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
import types

HOSTS = ('mmpretrain', 'mmdet', 'mmseg')

#: Imported before the first request, as far as they are installed, if nothing else is asked for.
PRELOADED = [
    'torch.distributed.run', 'mmvssd.cli.command_line', 'mmvssd.engine', 'mmvssd.models',
    *(f'{host}.{part}' for host in HOSTS for part in ('models', 'datasets', 'engine', 'evaluation',
                                                      'visualization', 'apis'))]

#: What the hosts and the project import of others: nine tenths of the time that their imports take.
LIBRARIES = [
    'torch', 'torchvision', 'torch.distributed.run', 'torch.distributed.optim',
    'torch.utils.tensorboard', 'cv2', 'ftfy', 'matplotlib.pyplot', 'numba', 'pycocotools.mask',
    'rich.console', 'scipy.stats', 'sklearn.manifold', 'sklearn.metrics', 'sklearn.mixture',
    'sympy', 'yapf']


def preload(names):
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # a tool that needs it says so


def prepare(end):
    """Spare the forks what takes a small training most time and is as it is in any process.

    The first run of a tool is in a fresh process, which lays out its config as users' do.

    Args:
        end: The :class:`Exit` of this process.
    """
    if 'torch.distributed.run' in sys.modules:
        fork_jobs(end)
    if 'mmengine.config' in sys.modules:
        config = sys.modules['mmengine.config.config']
        config.FormatCode = lambda text, **style: (text, True)
        know_hosts(config, sys.modules['mmengine.config.utils'])
    gc.collect()
    gc.freeze()  # MMEngine collects after each data set, and no import is garbage


def know_hosts(config, utils):
    """Find the hosts, and read the lists in which MMEngine looks up a config that one inherits."""
    utils.load = functools.cache(utils.load)
    for name in ('is_installed', 'get_installed_path'):
        setattr(config, name, functools.cache(getattr(config, name)))
    for host in HOSTS:
        if host in sys.modules:
            config.is_installed(host)
            with contextlib.suppress(ValueError):  # no config has this name
                utils._get_cfg_metainfo(config.get_installed_path(host), '')


def fork_jobs(end):
    """Let torchrun fork the processes of a job."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    def start(handler, args, env):
        # the function, called in the fork, never returns to what would take the fork's place
        return subprocess.Popen(args, stdout=handler._stdout, stderr=handler._stderr,
                                start_new_session=True,
                                preexec_fn=lambda: join_job(args, env, end))

    subprocess_handler.SubprocessHandler._popen = start


def join_job(args, env, end):
    """Take the place of ``python -u script *arguments`` in a fork of torchrun's."""
    # also the one by whose end Popen knows that the process has started
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    gc.enable()  # Popen has stopped it
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # which torchrun handles
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    sys.stdout.reconfigure(write_through=True)
    sys.argv = list(args[2:])
    try:
        with end:
            run_tool()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # any: what Popen's function raises, it raises anew in torchrun
        traceback.print_exc()
    atexit._run_exitfuncs()  # the last of them ends the process


def run_tool():
    """Run what ``sys.argv`` names, as Python does: a script, ``-c CODE`` or ``-m MODULE``."""
    if sys.argv[0] in ('-c', '-m'):
        option, what = sys.argv[:2]
        sys.argv[:2] = [option]
        sys.path[0] = '' if option == '-c' else os.getcwd()
        if option == '-m':
            runpy.run_module(what, run_name='__main__', alter_sys=True)
        else:
            sys.modules['__main__'] = script = types.ModuleType('__main__')
            exec(compile(what, '<string>', 'exec'), vars(script))
    else:
        sys.path[0] = os.path.dirname(sys.argv[0])
        runpy.run_path(sys.argv[0], run_name='__main__')


def next_request():
    """Answer requests by forks of this process; returns in a fork, with its request."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def next_client(path):
    """Answer clients by forks of this process; returns in a fork, with its request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    while True:
        client, _ = listener.accept()
        if os.fork():
            client.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        _, files, *_ = socket.recv_fds(client, 1, 4)
        request = json.loads(client.makefile().readline())
        child = os.fork()
        if child == 0:
            client.close()
            os.setsid()
            *standard, network = files
            enter_network(network)
            return {**request, 'files': standard}
        for file in files:
            os.close(file)
        client.sendall(b'%d\n' % child)
        _, status = os.waitpid(child, 0)
        client.sendall(b'%d\n' % os.waitstatus_to_exitcode(status))
        os._exit(0)


def enter_network(namespace):
    """Be in the network namespace of an open file, which needs root if it is another."""
    if os.fstat(namespace).st_ino == os.stat('/proc/self/ns/net').st_ino:
        return
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
        raise OSError(ctypes.get_errno(), 'setns')


def become(request):
    """Take the place of ``python tool *arguments``, with stdout and stderr in one file or given."""
    os.chdir(request['folder'])
    change_path(os.environ.get('PYTHONPATH'), request['environment'].get('PYTHONPATH'))
    os.environ.clear()
    os.environ.update(request['environment'])
    files = request.get('files')
    if not files:
        output = os.open(request['output'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        files = [os.open(os.devnull, os.O_RDONLY), output, output]
    for target, source in enumerate(files):
        os.dup2(source, target)
    if 'files' in request:  # others wait until nobody holds these open
        os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    sys.argv = request['command']


def change_path(old, new):
    """Put the folders of another import path where Python has put those of this one."""
    if old != new:
        old, new = ([os.path.abspath(folder) for folder in path.split(os.pathsep)] if path else []
                    for path in (old, new))
        sys.path[1:] = [*new, *(folder for folder in sys.path[1:] if folder not in old)]


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


def main(end):
    names = sys.argv[1:]
    path = names[1] if names[:1] == ['--socket'] else None
    if path:
        names = names[2:]
    preload(LIBRARIES if names == ['--libraries'] else names or PRELOADED)
    prepare(end)
    become(next_client(path) if path else next_request())
    run_tool()


if __name__ == '__main__':
    with Exit() as end:
        main(end)
