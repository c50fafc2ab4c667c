"""Load a machine on purpose, to measure what other work on it does to a step."""
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import Iterator, List

from mmvssd.errors import ConfigError
from mmvssd.phrases import counted, numbered

#: Processes for each core, at most: a mistyped number must not take the machine down.
MOST_PER_CORE = 16

# It asks for its parent every few hundredths of a second: however that ends, it ends too. It stays
# in the parent's session, where the scheduler treats both alike, so it has to ignore Ctrl-C itself.
_SPIN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.write(1, b'.')
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_processes(number: int) -> None:
    """Raise ConfigError unless so many processes may load this machine."""
    most = MOST_PER_CORE * cores()
    if not 1 <= number <= most:
        raise ConfigError(f'--busy: got {number}, expected 1 to {counted(most, "process")}, '
                          f'{MOST_PER_CORE} for each core; this machine has {cores()}')


@contextmanager
def busy(number: int) -> Iterator[List[int]]:
    """Keep processes spinning, each as busy as a core allows, while the context is open.

    None of them outlives the context, nor this process, even if that is killed.

    Args:
        number: How many; :func:`cores` fills the machine.

    Yields:
        Their process ids, once all of them spin.

    Raises:
        ConfigError: There may not be so many, or not all of them started, or one ended early: the
            machine was not as busy as asked for.
    """
    check_processes(number)
    with ExitStack() as stack:
        try:
            spinning = [stack.enter_context(_spinning()) for _ in range(number)]
        except OSError as error:
            raise ConfigError(f'--busy: cannot start {counted(number, "process")} ({error}); '
                              'give fewer, such as --busy 1') from error
        started = [process.stdout is not None and process.stdout.read(1) for process in spinning]
        if not all(started):
            raise ConfigError(f'--busy: {started.count(b"")} of '
                              f'{counted(number, "process")} did not '
                              'start; give fewer, such as --busy 1')
        yield [process.pid for process in spinning]
        ended = sum(process.poll() is not None for process in spinning)
        if ended:
            were = numbered('[was|were]', ended)
            raise ConfigError(f'--busy: {ended} of {counted(number, "process")} {were} ended from '
                              'outside, so the machine was not busy all the time; measure again')


@contextmanager
def _spinning() -> Iterator[subprocess.Popen]:
    with subprocess.Popen([sys.executable, '-I', '-S', '-c', _SPIN, str(os.getpid())],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()
