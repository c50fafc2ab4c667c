"""Run torchrun, and say in one sentence what ended it.

    python torchrun.py [options of torchrun] SCRIPT [arguments]

What the processes themselves say stands above that sentence, which a traceback of torchrun's would
bury. It ends with the exit status of the process that failed first.
"""
import signal
import socket
import sys
import threading
from contextlib import contextmanager

try:
    from torch import distributed
except ModuleNotFoundError:
    sys.exit(f'{sys.executable} has no PyTorch: activate the environment of the project first '
             '(. .venv/bin/activate)')
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.run import get_args_parser
from torch.distributed.run import main as torchrun

#: Seconds until a node says that it waits for others.
PATIENCE = 8


def main(arguments):
    """Run torchrun with a command line's arguments; returns the exit status."""
    options = get_args_parser().parse_args(arguments)
    place = f'{options.master_addr}:{options.master_port}'
    first = str(options.node_rank) == '0'
    try:
        socket.getaddrinfo(options.master_addr, None)
    except OSError as error:
        say(f'MASTER_ADDR: this machine does not find {options.master_addr} ({error.strerror}); '
            'give the address of node 0, which all nodes reach.')
        return 1
    try:
        with saying_that_it_waits(waiting(options, place, first)):
            torchrun(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        say(explain(rank, failure.exitcode))
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        say(f'\nStopped by {signal.Signals(error.sigval).name}, and all processes with it.')
        return 128 + error.sigval
    except (RuntimeError, ValueError) as error:
        # of an old PyTorch a port in use is a bare RuntimeError
        if type(error) is RuntimeError and 'EADDR' not in str(error):
            raise
        say(explain_connection(error, place, first))
        return 1
    return 0


def say(message):
    print(message, file=sys.stderr, flush=True)


def waiting(options, place, first):
    """Return what to print while a node waits."""
    if first:
        return (f'Waiting at {place} for the other nodes, {options.nnodes} with this one: start '
                'the same on each, with NODE_RANK 1, 2 and so on. If they run, see that '
                'MASTER_ADDR and PORT are the same on all, and that they reach this address.')
    return (f'Waiting for node 0 at {place}: start the same there with NODE_RANK=0. If it runs, '
            'see that MASTER_ADDR and PORT are the same on all nodes, and that a firewall lets '
            'them through.')


@contextmanager
def saying_that_it_waits(message):
    """Print a message if nodes do not meet within :data:`PATIENCE`."""
    meet = StaticTCPRendezvous.next_rendezvous

    def meet_or_say(rendezvous):
        timer = threading.Timer(PATIENCE, say, [message])
        timer.daemon = True
        timer.start()
        try:
            return meet(rendezvous)
        finally:
            timer.cancel()

    StaticTCPRendezvous.next_rendezvous = meet_or_say
    try:
        yield
    finally:
        StaticTCPRendezvous.next_rendezvous = meet


def explain(rank, status):
    """Say how the process ended that failed first; a negative status is a signal's number."""
    if status > 0:
        return (f'\nProcess {rank} ended with exit status {status}; what it said stands above. '
                'All others were stopped.')
    name = signal.Signals(-status).name
    hint = ' The system does so if memory runs out.' if name == 'SIGKILL' else ''
    return f'\nProcess {rank} was killed by {name}.{hint} All others were stopped.'


def explain_connection(error, place, first):
    """Say why the nodes did not meet."""
    text = str(error).strip()
    if 'EADDRINUSE' in text:
        return (f'\nThe port of {place} is in use, perhaps by another training: choose another, on '
                'all nodes the same, with PORT=29600 before the command.')
    if 'EADDRNOTAVAIL' in text:
        return f'\nThis machine has no address {place}: MASTER_ADDR is the address of node 0.'
    if isinstance(error, distributed.DistError):
        whom = 'The other nodes did not come to' if first else 'Node 0 was not reached at'
        return f'\n{whom} {place} (MASTER_ADDR, PORT): {text.splitlines()[0]}'
    return f'\ntorchrun: {text}'


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
