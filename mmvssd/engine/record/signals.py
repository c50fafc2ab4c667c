"""Signals that end a run, turned into errors that its hooks hear of."""
import os
import signal
import threading
from typing import Any, Callable, Dict, Optional

#: What a terminal, a scheduler and torchrun end a process with, if it is to have a last word.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds after which a process ends that SIGTERM or SIGHUP found waiting outside Python, such as
#: for another process.
PATIENCE = 10
#: Seconds that its last word may take then.
LAST_WORD = 2
_STOCK = (signal.SIG_DFL, signal.default_int_handler)


class EndingSignals:
    """Turn signals into KeyboardInterrupt or SystemExit while a run goes on.

    Python ends at SIGTERM and SIGHUP without a word. An error lets hooks run, and files be closed.
    A bare ``except`` of a host may swallow such an error; it is raised again at the next step.
    Handlers of the user's own stay, and a signal that is ignored, as with ``nohup``, stays ignored.

    Args:
        note: Is called with what was received, such as 'ended by SIGTERM', before the error is
            raised.
        last_word: Is called before a process ends that has not come to raise an error.
        lasting: Whether it goes on when another one, which began after it, has left.
    """

    def __init__(self, note: Callable[[str], None], last_word: Callable[[], None], *,
                 lasting: bool = False):
        self._note, self._last_word, self._lasting = note, last_word, lasting
        self._outer: Optional[EndingSignals] = None
        self._pid = os.getpid()
        self._before: Dict[signal.Signals, Any] = {}
        self._number: Optional[signal.Signals] = None
        self._pipe: Optional[int] = None

    @property
    def number(self) -> Optional[signal.Signals]:
        """Return the signal that was received; None if none was."""
        return self._number

    @property
    def received(self) -> Optional[str]:
        """Return what ended the run; None if no signal has."""
        return None if self._number is None else _described(self._number)

    def watch(self) -> None:
        """Begin; only a process's main thread can."""
        self._pid, self._number = os.getpid(), None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING:
            other = getattr(signal.getsignal(number), '__self__', None)
            if isinstance(other, EndingSignals) and other is not self:
                # another run, if it is none that lasts, came to no end
                self._outer = other if other._lasting else other._outer
                other.leave(for_good=False)
            if number not in self._before and signal.getsignal(number) in _STOCK:
                self._before[number] = signal.signal(number, self._receive)
        self._stand_by()

    def leave(self, for_good: bool = True) -> None:
        """Put back what was there before.

        Args:
            for_good: Whether one that lasts goes on.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        while self._before:
            signal.signal(*self._before.popitem())
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe)  # which ends the thread
            self._pipe = None
        if for_good and self._outer is not None:
            self._outer.watch()
            self._outer = None

    def raise_eaten(self) -> None:
        """Raise the error of a signal that was received, if it was swallowed."""
        if self._number is not None:
            self._raise(self._number)

    def _receive(self, number: int, frame) -> None:
        number = signal.Signals(number)
        if os.getpid() == self._pid:  # and no worker that was forked
            self._number = number
            if number != signal.SIGINT:
                # workers end by it too, of which PyTorch raises errors amidst the last words
                signal.signal(signal.SIGCHLD, lambda *_: None)
            self._note(_described(number))
        self._raise(number)

    @staticmethod
    def _raise(number: signal.Signals) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _stand_by(self) -> None:
        """Have a thread hear of signals at once; Python's handlers wait for a call to return."""
        outlet, inlet = os.pipe()
        os.set_blocking(inlet, False)
        taken = signal.set_wakeup_fd(inlet, warn_on_full_buffer=False)
        if taken != -1:  # another one's, such as asyncio's, stays
            signal.set_wakeup_fd(taken)
            os.close(inlet)
            os.close(outlet)
            return
        self._pipe = inlet
        threading.Thread(target=self._listen, args=(outlet, ), daemon=True).start()

    def _listen(self, outlet: int) -> None:
        with open(outlet, 'rb', buffering=0) as signals:
            for number in iter(lambda: signals.read(1), b''):
                if number[0] in (signal.SIGTERM, signal.SIGHUP) and self._handles(number[0]):
                    threading.Timer(PATIENCE, self._end, (signal.Signals(number[0]), )).start()

    def _handles(self, number: int) -> bool:
        """Tell whether a signal is handled here, and not by who came later."""
        return bool(self._before) and signal.getsignal(number) == self._receive

    def _end(self, number: signal.Signals) -> None:
        """End the process if its main thread has not even begun to."""
        if self._number is None and self._handles(number):
            self._number = number
            try:
                self._note(_described(number))
                # it looks at files, and the main thread may hold the log: neither may keep it
                last_word = threading.Thread(target=self._last_word, daemon=True)
                last_word.start()
                last_word.join(LAST_WORD)
            finally:
                os._exit(128 + number)


def signal_behind(error: BaseException) -> Optional[signal.Signals]:
    """Return the signal that an error came from; None if it came from none.

    MMEngine takes whatever happens while it writes a config for an error of its syntax.
    """
    for one in (error, error.__context__):
        if isinstance(one, KeyboardInterrupt):
            return signal.SIGINT
        if isinstance(one, SystemExit) and one.code in [128 + number for number in ENDING]:
            return signal.Signals(one.code - 128)
    return None


def _forget_in_child() -> None:
    """Leave a forked worker's signals out of its parent's pipe."""
    if threading.current_thread() is threading.main_thread() and any(isinstance(
            getattr(signal.getsignal(number), '__self__', None), EndingSignals)
            for number in ENDING):
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_child)


def _described(number: signal.Signals) -> str:
    return f'ended by {number.name}'
