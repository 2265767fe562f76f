"""Signals: SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 make training save and end; the same signal again ends it immediately.

In other commands, SIGINT and SIGTERM end the command with one line.

Lightning's handlers are not used: Lightning 2.6 ends with exit code 0 on SIGTERM without saving, can deadlock when ranks
communicate in its handler, and under Slurm ignores signals that already have a handler, as with submitit. Our handlers only set a
flag.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """A signal ended the work. message: the saved files and how to resume, for rank 0; empty on the other ranks."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@contextmanager
def restoring(signals: Collection[signal.Signals] = SIGNALS) -> Iterator[dict[int, Any]]:
    """Restores the signal handlers after the block. Yields the earlier handlers, by signal."""
    before: dict[int, Any] = {signum: signal.getsignal(signum) for signum in signals}
    try:
        yield before
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Interruption:
    """The signals of a training. `signum`: the signal that ended it, or None; `Saving` makes all ranks agree on it."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block; afterwards the earlier handlers are restored."""
        with restoring() as self._previous:
            self.listen()
            yield

    def listen(self) -> None:
        """Install the handlers, also over handlers installed since the block began."""
        for signum in self._previous:
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
                with suppress(SystemExit, Interrupted):  # this process prints its own message
                    handler(stop.signum, None)
            raise

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        # A process that loads data inherits this handler. It does not end, because its parent may still need batches.
        self.signum = self.signum or signum
        signal.signal(signum, signal.SIG_DFL)


@contextmanager
def ending(say: Callable[[str], str] = "ended by {}".format) -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM, unless ignored, raise Interrupted. say: name of the signal -> message."""
    pid = os.getpid()

    def end(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != pid:  # a forked process that loads data
            os._exit(128 + signum)
        raise Interrupted(signum, say(signal.Signals(signum).name))

    with restoring((signal.SIGINT, signal.SIGTERM)) as before:
        for signum in before:
            if before[signum] != signal.SIG_IGN:
                signal.signal(signum, end)
        yield
