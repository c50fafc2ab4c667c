"""Stands for Python: a fork of the tool server at a socket runs the command.

    python forked_python.py SOCKET [-u] TOOL [ARGUMENT...]

The fork has this process's files, folder, variables and network. What ends this process by a signal
reaches the fork, and this process ends as the fork does.
"""
import json
import os
import signal
import socket
import sys
import time


def connect(path):
    """Connect to the server, which may be at its imports still."""
    end = time.monotonic() + 120
    while True:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(path)
            return server
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def main():
    server = connect(sys.argv[1])
    request = dict(command=[word for word in sys.argv[2:] if word != '-u'], folder=os.getcwd(),
                   environment=dict(os.environ))
    network = os.open('/proc/self/ns/net', os.O_RDONLY)
    socket.send_fds(server, [b' '], [0, 1, 2, network])
    server.sendall(json.dumps(request).encode() + b'\n')
    answers = server.makefile()
    child = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: os.kill(child, number))
    status = int(answers.readline())
    if status < 0:
        if -status != signal.SIGKILL:  # which nobody handles
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == '__main__':
    main()
