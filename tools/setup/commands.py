"""Run the steps of the set-up, and show the user what happens."""
import collections
import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import time


class SetupError(Exception):
    """What is wrong in one line, then lines that say what to do."""

    def __str__(self):
        return '\n  '.join(self.args)


class Progress:
    """Lines with the seconds since the start; on a terminal a step is one line that changes."""

    def __init__(self, stream):
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.started = time.monotonic()

    def say(self, text):
        self._erase()
        print(self._line(text), file=self.stream, flush=True)

    def show(self, text):
        """Replace the changing line; nothing unless on a terminal."""
        if self.is_terminal:
            self._erase()
            width = shutil.get_terminal_size().columns - 1
            print(self._line(text)[:width], end='', file=self.stream, flush=True)

    def _line(self, text):
        return f'[{time.monotonic() - self.started:3.0f} s] {text}'

    def _erase(self):
        if self.is_terminal:
            print('\r\033[K', end='', file=self.stream)


def telling(line):
    """Return what of a line of pip's or a compiler's output is worth showing, or None."""
    counter = re.match(r'\s*\[(\d+)/(\d+)\]', line)  # ninja's
    if counter:
        return '{} of {} files'.format(*counter.groups())
    found = re.match(r'\s*((Collecting|Downloading|Installing|Building) .*)', line)
    return found and found.group(1)


class Commands:
    """Runs commands for their effect; their output goes to a log.

    Args:
        progress (Progress): says which step runs.
        log (Path): grows by each command and its output.
        lock (int): an open file that the commands inherit. It stays locked while one of them runs,
            even if this process is killed.
    """

    def __init__(self, progress, log, lock):
        self.progress, self.log, self.lock = progress, log, lock

    def run(self, label, command):
        """Run one step; raises SetupError with the reason if it fails."""
        if not self.progress.is_terminal:
            self.progress.say(label)
        command = [str(part) for part in command]
        end = collections.deque(maxlen=300)
        with self.log.open('a') as log:
            log.write(f'\n$ {shlex.join(command)}\n')
            status = self._run(label, command, lambda line: (log.write(line), end.append(line)))
        if status:
            raise SetupError(f'it did not work: {label}', *explain(''.join(end), status),
                             f'The whole output is in {self.log}.')
        if self.progress.is_terminal:
            self.progress.say(f'{label}: done')

    def _run(self, label, command, keep):
        process, latest, started = None, '', time.monotonic()
        try:
            with held_interruption():
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, env=pip_environment(), pass_fds=(self.lock,),
                    start_new_session=True)  # stop() reaches its children, such as compilers, too
            for line in timed_lines(process.stdout.fileno()):
                if line:
                    keep(line)
                    latest = telling(line) or latest
                self.progress.show(f'{label}, {time.monotonic() - started:.0f} s  {latest}')
            return process.wait()
        except BaseException:
            if process:
                stop(process)
            raise


@contextlib.contextmanager
def held_interruption():
    """Raise KeyboardInterrupt at the end only, so that a process that starts is not lost."""
    arrived = []
    kept = {number: signal.signal(number, lambda *_: arrived.append(True))
            for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


def timed_lines(pipe):
    """Yield each line of a pipe, and an empty string for each second without one."""
    rest = b''
    while True:
        if not select.select([pipe], [], [], 1)[0]:
            yield ''
            continue
        part = os.read(pipe, 1 << 16)
        *lines, rest = (rest + part).split(b'\n')
        yield from (line.decode(errors='replace') + '\n' for line in lines)
        if not part:
            if rest:
                yield rest.decode(errors='replace') + '\n'
            return


def stop(process):
    """Interrupt a process and what it started; kill what is left of them."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def pip_environment():
    return {**os.environ, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_USER': '0',
            'PIP_NO_INPUT': '1'}


UNREACHABLE = (r'NewConnectionError|NameResolutionError|Name or service not known|'
               r'name resolution|Connection refused|Network is unreachable|ProxyError|SSLError|'
               r'CERTIFICATE_VERIFY_FAILED|ConnectTimeout|[Rr]ead timed out|HTTP error \d+')


def explain(output, status=1):
    """Turn the output of a failed step into what is wrong and what to do, as lines."""
    network = ('Check the network (behind a proxy: HTTPS_PROXY) and the settings of pip, which '
               '`pip config list` shows.')
    again = 'Then run it again: it goes on from here.'
    if re.search('No space left on device', output):
        return ('The disk is full. Free some space, or use another disk: for the checkout, or '
                '(TMPDIR) for downloads.', again)
    if re.search(UNREACHABLE, output):
        return ('pip does not reach its package index.', network, again)
    missing = re.search(r'No matching distribution found for (\S+)', output)
    if missing:
        return (f'The package index of pip has no {missing[1]} that fits this Python and machine.',
                'Point pip to one that has it (PIP_INDEX_URL, or PIP_EXTRA_INDEX_URL beside it).',
                again)
    if status == -signal.SIGKILL:
        return ('It was killed, as the system does if memory is short.', again)
    return ('Its last lines:', *(line[:300] for line in output.splitlines()[-20:]), again)
