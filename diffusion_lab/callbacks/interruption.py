"""SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 make training save and end; a second signal ends it at once.

Our own, because Lightning 2.6 ends with exit code 0 on SIGTERM without saving, can deadlock in its handler when ranks talk
there, and under Slurm takes no signal that already has a handler, as submitit's do. Here a handler only sets a flag.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class InterruptedTraining(BaseException):
    """A signal ended training after it had saved; the message says how to resume."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Interruption:
    """`signum`: the signal that ended training, or None. A signal of another rank counts too, once `Saving` has agreed on it."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._pid = os.getpid()
        self._previous: dict[int, object] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block our handlers catch the signals; afterwards the earlier handlers are restored."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread only
            return
        self._previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)

    def listen(self) -> None:
        """Install our handlers, also over those that were installed since the block began."""
        if self._previous:
            for signum in SIGNALS:
                signal.signal(signum, self._on_signal)

    @contextmanager
    def forwarding_signals(self) -> Iterator[None]:
        """A signal that ends the block goes on to the handler before ours: a cluster's, which may put the job back in its queue.

        Only when the block has left everything in order, because the cluster kills the job that it puts back.
        """
        try:
            yield
        except InterruptedTraining:
            handler = self._previous.get(self.signum)
            if callable(handler) and handler is not signal.default_int_handler:
                with suppress(SystemExit):  # we end too, and say why
                    handler(self.signum, None)
            raise

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that loads data, forked with this handler
            if signum != signal.SIGINT:  # a terminal sends it to all; the one that trains still needs its batches
                _default(signum)
        elif self.signum is not None:
            _default(signum)
        else:
            self.signum = signum


def _default(signum: int) -> None:
    """Die of the signal."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
