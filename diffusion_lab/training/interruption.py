"""Signals: SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 make training save and end; a second signal ends it immediately. In other
commands, SIGINT and SIGTERM end the command with one line.

Lightning's handlers are not used: Lightning 2.6 ends with exit code 0 on SIGTERM without saving, can deadlock when ranks
communicate in its handler, and under Slurm ignores signals that already have a handler, as with submitit. Ours only set a flag.
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
    """A signal ended the work. The message, empty on all ranks except the first, says what is saved and how to resume."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@contextmanager
def restoring(signals: Collection[signal.Signals] = SIGNALS) -> Iterator[dict[int, Any]]:
    """Restores the signal handlers after the block. Yields the earlier ones; none outside the main thread."""
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
    """`signum`: the signal that ended training, or None. It may have reached another rank; `Saving` makes all ranks agree."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block our handlers receive the signals; afterwards the earlier ones are restored."""
        with restoring() as self._previous:
            self.listen()
            yield

    def listen(self) -> None:
        """Install our handlers, also over those installed since the block began."""
        if self._previous:
            for signum in SIGNALS:
                signal.signal(signum, self._on_signal)

    @contextmanager
    def forwarding_signals(self) -> Iterator[None]:
        """Pass a signal that ends the block to the earlier handler, for example a cluster's, which may requeue the job.

        This happens only after a clean end, because the cluster kills the job that it requeues.
        """
        try:
            yield
        except Interrupted as stop:
            handler = self._previous.get(stop.signum)
            if callable(handler) and handler is not signal.default_int_handler:
                with suppress(SystemExit, Interrupted):  # this process ends with its own message
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
    """Inside the block SIGINT and SIGTERM, unless ignored, raise Interrupted. say: name of the signal -> message.

    Where Python or a library would swallow the exception (during an import, in a finalizer), the handler prints the
    line and ends the process immediately.
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
    """End a forked data-loading process, which inherited its parent's handler.

    SIGINT is ignored: a terminal sends it to all processes, and the parent, which may still need batches, ends its workers.
    """
    if signum != signal.SIGINT:
        _default(signum)


def _default(signum: int) -> None:
    """End this process by the signal."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
