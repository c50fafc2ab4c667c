"""Signals that end a run, turned into errors that its hooks hear of."""
import os
import signal
import threading
from typing import Callable, Dict, Optional

#: What a terminal, a scheduler and torchrun end a process with, if it is to have a last word.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOCK = (signal.SIG_DFL, signal.default_int_handler)


class EndingSignals:
    """Turn signals into KeyboardInterrupt or SystemExit while a run goes on.

    Python ends at SIGTERM and SIGHUP without a word. An error lets hooks run, and files be closed.
    A bare ``except`` of a host may swallow such an error; it is raised again at the next step.
    Handlers of the user's own stay, and a signal that is ignored, as with ``nohup``, stays ignored.

    Args:
        note: Is called with what was received, such as 'ended by SIGTERM', before the error is
            raised.
    """

    def __init__(self, note: Callable[[str], None]):
        self._note = note
        self._pid = os.getpid()
        self._before: Dict[signal.Signals, object] = {}
        self._number: Optional[signal.Signals] = None

    @property
    def received(self) -> Optional[str]:
        """What ended the run; None if no signal has."""
        return None if self._number is None else f'ended by {self._number.name}'

    def watch(self) -> None:
        """Begin; only a process's main thread can."""
        self._pid, self._number = os.getpid(), None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING:
            other = getattr(signal.getsignal(number), '__self__', None)
            if isinstance(other, EndingSignals):  # of a run that came to no end
                other.leave()
            if number not in self._before and signal.getsignal(number) in _STOCK:
                self._before[number] = signal.signal(number, self._receive)

    def leave(self) -> None:
        """Put back what was there before."""
        if threading.current_thread() is threading.main_thread():
            while self._before:
                signal.signal(*self._before.popitem())

    def raise_eaten(self) -> None:
        """Raise the error of a signal that was received, if it was swallowed."""
        if self._number is not None:
            self._raise(self._number)

    def _receive(self, number: int, frame) -> None:
        number = signal.Signals(number)
        if os.getpid() == self._pid:  # and no worker that was forked
            self._number = number
            self._note(self.received)
        self._raise(number)

    @staticmethod
    def _raise(number: signal.Signals) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
