"""Which process wrote something, and whether it is still there."""
import os
import socket
from pathlib import Path
from typing import Optional

_PROC = Path('/proc')


def this_process() -> dict:
    """Describe this process so that any other one can look for it later.

    Returns:
        ``host``, ``pid``, ``start`` in ticks since the machine's, and ``space``, which tells
        machines' starts and containers apart. If a scheduler can start it again, also ``job`` and
        ``restarts``.
    """
    job, restarts = _job()
    return dict(host=socket.gethostname(), pid=os.getpid(), start=_start_of(os.getpid()),
                space=_space(), job=job, restarts=restarts)


def is_gone(process: dict) -> Optional[bool]:
    """Tell whether a process has ended; None if it is not to be seen from here.

    Args:
        process: What :func:`this_process` returned there.
    """
    here = this_process()
    # a job's processes are only started again when the ones before are gone
    if (process.get('job') and process['job'] == here['job']
            and here['restarts'] > process.get('restarts', 0)):
        return True
    if (process.get('host'), process.get('space')) != (here['host'], here['space']):
        return None
    start = _start_of(process.get('pid', 0))
    return start is None or start != process.get('start')


def is_this(process: dict) -> bool:
    """Tell whether a process is this one."""
    here = this_process()
    return all(process.get(name) == here[name] for name in ('host', 'space', 'pid', 'start'))


def is_first() -> bool:
    """Tell whether this is the first of a job's processes, before they have met."""
    ranks = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return int(next((os.environ[name] for name in ranks if os.environ.get(name)), 0)) == 0


def _start_of(pid: int) -> Optional[int]:
    """Return when a process was started; None if there is none, or only its exit status is left."""
    try:
        # the name, in brackets, may hold anything
        fields = (_PROC / str(pid) / 'stat').read_text(errors='replace').rpartition(')')[2].split()
    except OSError:
        return None
    return None if fields[0] in 'ZX' else int(fields[19])


def _space() -> str:
    try:
        boot = (_PROC / 'sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink(_PROC / "self/ns/pid")}'
    except OSError:
        return ''


def _job() -> tuple:
    """Return the job that may start this process again, and how often it has; else None and 0."""
    environment = os.environ
    run = environment.get('TORCHELASTIC_RUN_ID', 'none')
    run = environment.get('MMVSSD_JOB_START', '') if run == 'none' else run
    slurm = environment.get('SLURM_JOB_ID', '')
    restarts = sum(int(environment.get(name) or 0)
                   for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'))
    return (f'{slurm} {run}' if slurm or run else None), restarts
