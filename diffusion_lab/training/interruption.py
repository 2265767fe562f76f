"""SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 make training save and end; a second signal ends it at once. Elsewhere SIGINT and
SIGTERM end a command with one line.

Lightning's handlers are not used: Lightning 2.6 ends with exit code 0 on SIGTERM without saving, can deadlock when ranks
communicate in its handler, and under Slurm handles no signal that already has a handler, as with submitit. Ours only set a flag.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """A signal ended the work; the message, empty on all ranks but the first, says what is saved and how to resume."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@contextmanager
def restoring(signals: Collection[signal.Signals] = SIGNALS) -> Iterator[dict[int, Any]]:
    """After the block the handlers from before are back. Yields them; none outside of the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    before: dict[int, Any] = {signum: signal.getsignal(signum) for signum in signals}
    try:
        yield before
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Interruption:
    """`signum`: the signal that ended training, or None. A signal of another rank counts too, once `Saving` has agreed on it."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block our handlers catch the signals; afterwards the earlier handlers are restored."""
        with restoring() as self._previous:
            self.listen()
            yield

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
        except Interrupted as stop:
            handler = self._previous.get(stop.signum)
            if callable(handler) and handler is not signal.default_int_handler:
                with suppress(SystemExit, Interrupted):  # this process ends too, with its message
                    handler(stop.signum, None)
            raise

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _end_fork(signum)
        elif self.signum is not None:
            _default(signum)
        else:
            self.signum = signum


@contextmanager
def ending(say: Callable[[str], str] = "ended by {}".format) -> Iterator[None]:
    """SIGINT and SIGTERM, unless they are ignored, raise Interrupted in the block. say: name of the signal -> message.

    Where Python or a library would swallow the exception (while a module is imported, in a finalizer), the handler prints the
    line and ends the process at once.
    """
    pid, hook = os.getpid(), sys.unraisablehook

    def end(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != pid:
            _end_fork(signum)
            return
        stop = Interrupted(signum, say(signal.Signals(signum).name))
        if _is_importing(frame):
            _exit(stop)
        raise stop

    with restoring((signal.SIGINT, signal.SIGTERM)) as before:
        for signum in before:
            if before[signum] != signal.SIG_IGN:
                signal.signal(signum, end)
        sys.unraisablehook = lambda lost: (
            _exit(lost.exc_value) if isinstance(lost.exc_value, Interrupted) else hook(lost)
        )
        try:
            yield
        finally:
            sys.unraisablehook = hook


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _exit(stop: Interrupted) -> NoReturn:
    os.write(2, f"diffusion-lab: {stop}\n".encode() if str(stop) else b"")
    os._exit(128 + stop.signum)


def _end_fork(signum: int) -> None:
    """End a process that loads data, forked with the handler of its parent, by the signal.

    SIGINT is ignored: a terminal sends it to all processes, and the parent, which may still need batches, ends its workers.
    """
    if signum != signal.SIGINT:
        _default(signum)


def _default(signum: int) -> None:
    """Die of the signal."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
