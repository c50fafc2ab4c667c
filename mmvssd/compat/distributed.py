"""Process groups on the CPU, and those of processes that torchrun starts again.

MMEngine's launchers call ``torch.cuda.set_device`` and start whatever backend the config names,
nccl by default. Both are wrong without an accelerator. And gloo listens at the address of the
machine's name, which the other nodes of a job cannot reach if it is 127.0.0.1. The wrappers decide
when they are called: if MMEngine has a device other than the CPU, they only pass the call on.

A process may abort at its end, after all its work is done, because a thread of gloo's still runs.

On every device, processes that torchrun starts again after a failure would find one another's
addresses as they were before it.

Fix: retire when MMEngine's launchers run on the CPU and pass torchrun's restarts on.
"""
import atexit
import logging
import os
import socket
import sys
import time
from contextlib import contextmanager
from typing import Optional

import torch
from mmengine.device import get_device
from mmengine.dist import utils as dist_utils
from mmengine.logging import print_log
from torch.distributed import PrefixStore, TCPStore

from mmvssd.compat.devices import accelerator
from mmvssd.compat.patching import wrap_once

LAUNCHERS = ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm')
CPU_BACKENDS = ('gloo', 'mpi', 'ucc')


def apply() -> None:
    """Wrap MMEngine's launchers."""
    for launcher in LAUNCHERS:
        wrap_once(dist_utils, launcher, _init_process_group)
    atexit.unregister(_leave_process_group)  # a second call leaves one
    atexit.register(_leave_process_group)


def idle() -> Optional[str]:
    """Return that there is an accelerator and nothing was started again, or None."""
    return None if _restarts() else accelerator()


def _init_process_group(launcher, backend, *args, **kwargs):
    """Run a launcher of MMEngine; on the CPU without ``set_device``, and with a CPU backend."""
    kwargs.update(_meeting_place_of_restarts())
    if get_device() != 'cpu':
        return launcher(backend, *args, **kwargs)
    cpu_backend = backend if backend in CPU_BACKENDS else 'gloo'
    if int(os.environ.get('GROUP_WORLD_SIZE', 1)) > 1:  # torchrun's number of nodes
        _listen_towards_master()
    # The launchers also read the scheduler's environment; only this one call in them is wrong.
    with _no_cuda_set_device():
        launcher(cpu_backend, *args, **kwargs)
    if cpu_backend != backend:
        warn(f'There is no accelerator here: the process group runs on {cpu_backend} '
             f'instead of {backend}.')
    return None


def _leave_process_group():
    """Stop gloo, and let its threads drop the tensors of the last collective.

    For that they wait for the interpreter's lock. One that still waits as the interpreter ends is
    ended by it, which C++ answers with an abort.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == 'gloo':
        torch.distributed.destroy_process_group()
        time.sleep(0.1)  # without the lock


@contextmanager
def _no_cuda_set_device():
    original = torch.cuda.set_device
    torch.cuda.set_device = lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = original


def _meeting_place_of_restarts() -> dict:
    """Return arguments of ``init_process_group`` for processes that torchrun has started again.

    They meet in a store that lives in torchrun's own process and still holds the addresses of the
    processes before them; here each restart has a part of the store to itself.
    """
    restarts = _restarts()
    if not restarts or os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return {}
    store = TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), is_master=False,
                     wait_for_workers=False)
    return dict(store=PrefixStore(f'restart_{restarts}', store), rank=int(os.environ['RANK']),
                world_size=int(os.environ['WORLD_SIZE']))


def _restarts() -> int:
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


def _listen_towards_master():
    """Tell gloo the network interface on the way to MASTER_ADDR, unless the user has."""
    interface = _interface_towards(os.environ['MASTER_ADDR'])
    if interface is not None:
        os.environ.setdefault('GLOO_SOCKET_IFNAME', interface)


def _interface_towards(host: str) -> Optional[str]:
    """Return the network interface on the way to a host, by name; None if that is not found out."""
    if not sys.platform.startswith('linux'):
        return None
    import fcntl
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing: the route is looked up
        except OSError:
            return None
        own = socket.inet_aton(probe.getsockname()[0])
        for _index, name in socket.if_nameindex():
            try:  # SIOCGIFADDR: the interface's address, behind 20 bytes
                found = fcntl.ioctl(probe, 0x8915, name.encode().ljust(256, b'\0'))[20:24]
            except OSError:  # it has none
                continue
            if found == own:
                return name
    return None


def warn(message):
    """Log a warning, in the main process."""
    if dist_utils.is_main_process():
        print_log(message, logger='current', level=logging.WARNING)
