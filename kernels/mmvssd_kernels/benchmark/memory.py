"""Memory of a step on a CPU, as the system counts it (Linux)."""
import ctypes
import os
from typing import Callable, Optional

#: Writing '5' there starts the peak of a process's resident memory, VmHWM, anew.
_CLEAR = '/proc/self/clear_refs'


def can_measure() -> bool:
    """Tell whether this system lets a process start the peak of its memory anew."""
    return os.access(_CLEAR, os.W_OK)


def added_at_peak(step: Callable[[], object]) -> Optional[int]:
    """Run a step; return the bytes that it adds to the process's resident memory at its peak.

    Memory that the allocator kept from earlier calls would hide what a step takes, so it goes back
    to the system first. The step therefore takes longer than others: do not time it.

    Args:
        step: What is measured. What it loads on first use counts, so run it once before.

    Returns:
        Bytes, or None if the system does not let a process count anew; the step has run.
    """
    if not can_measure():
        step()
        return None
    _give_back()
    try:
        with open(_CLEAR, 'w') as file:
            file.write('5')
    except OSError:  # a sandbox may refuse what permissions allow
        step()
        return None
    before = _status('VmRSS')
    step()
    return max(0, _status('VmHWM') - before)


def _give_back() -> None:
    """Return the allocator's unused memory to the system, if it is glibc's."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


def _status(line: str) -> int:
    with open('/proc/self/status') as file:
        return next(int(text.split()[1]) * 1024 for text in file if text.startswith(line))
