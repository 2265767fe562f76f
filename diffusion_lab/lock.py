"""One holder a folder: who trains or scores what lies in it.

The operating system's lock on `<folder>/.lock` comes first: a process that dies, even by kill -9, lets go of it. Not every
file system shows it to other machines, so whoever has it must also have the newest claim (`claims`). A claim is taken over
from a process of this machine that is dead, and from one of another machine that has shown no sign of life for as long as
*we* watched, by our own clock: clocks of two machines are never compared. A holder may be overtaken all the same, because it
was suspended or cut off; so it looks at its claim before every file that it puts in place, and stops where it is not the
newest any more.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from diffusion_lab import claims, written
from diffusion_lab.claims import Claim, Holder, newest
from diffusion_lab.files import guarded, make_folders
from diffusion_lab.written import PlaceError

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # a holder on another machine that was silent for so long while we watched is dead
_LONG_AGO_SECONDS = 3600.0  # more than clocks of machines that share files differ by
_POLL_SECONDS = 0.5
_TRIES = 20  # each time because somebody has just removed the folder
_FILE = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system that has none


class OvertakenError(Exception):
    """Another process holds the folder that this one took for its own; the message is one sentence."""


@contextmanager
def hold(
    folder: Path,
    waiting: Callable[[Holder | None], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Callable[[], None]]:
    """The block runs while no other process holds `folder`, which is made if it is missing.

    If another process does, `waiting` is called once with the holder (None: not known yet), then this waits until
    it lets go or dies; `waiting` may raise instead. OSError if the folder cannot be written, PlaceError for a link.

    Yields a function that raises OvertakenError if another process has taken the folder over. `files` calls it before it puts
    a file in place there.
    """
    make_folders(folder)
    for own in (folder / _FILE, folder / claims.FOLDER):
        if own.is_symlink():
            raise PlaceError(f"{own}, by which a process holds {folder}, is a link: remove it")
    if (folder / _FILE).is_dir():
        raise PlaceError(f"{folder / _FILE} was not written by diffusion-lab: remove it")
    # preserve_lock_file: a file that is removed while another process waits for it would lock nothing.
    # fallback_to_soft=False: a lock file left behind by a dead process would hold the folder for ever.
    lock = FileLock(folder / _FILE, fallback_to_soft=False, preserve_lock_file=True, thread_local=False)
    me, silence, said = Holder.current(), Silence(clock), False
    while (number := _take(lock, folder, me, silence)) is None:
        if not said:
            waiting(newest(folder).holder)
            said = True
        sleep(_POLL_SECONDS)

    def check() -> None:
        claim = newest(folder)
        found = claim.holder
        if claim.number == 0:
            raise OvertakenError(f"{folder} was removed or renamed: this process stops and writes nothing more there")
        if found is None or found.token != me.token:
            raise OvertakenError(
                f"{found or 'another process'} has taken over {folder}, because this process did not respond for "
                f"{STALE_SECONDS:.0f} seconds; this one stops and writes nothing more there"
            )

    try:
        with guarded(folder, check), _heartbeat(folder, number):
            yield check
    finally:  # also after an error: this process may live on, and holds nothing any more
        claims.release(folder, number, me)
        lock.release()


def give_up(folder: Path) -> None:
    """Remove the files of a folder's lock, and the folder unless something else lies there.

    Call it only while you hold it, as the last step there. A process that waits for the folder makes it again.
    """
    claims.clear(folder)
    (folder / _FILE).unlink(missing_ok=True)
    (folder / written.FILE).unlink(missing_ok=True)
    with suppress(OSError):  # a user has put something there, or another process has just taken it
        folder.rmdir()


class Silence:
    """How long a folder's newest claim has shown no sign of life, by our own clock and as far as we have looked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[int, int, float]] = {}

    def __call__(self, folder: Path, claim: Claim) -> float:
        """Seconds since this sign of life was first seen here."""
        number, beat, since = self._seen.get(folder, (0, 0, 0.0))
        if (number, beat) == (claim.number, claim.beat):
            return self._clock() - since
        self._seen[folder] = (claim.number, claim.beat, self._clock())
        return 0.0


_silence = Silence()


def is_held(folder: Path) -> bool:
    """Whether a living process holds `folder`, as far as this machine can tell.

    A process of another machine that died is noticed only after STALE_SECONDS of waiting, or an hour later.
    """
    claim = newest(folder)
    return not (
        claim.released or _is_dead(folder, claim, _silence) or time.time() - claim.beat / 1e9 > _LONG_AGO_SECONDS
    )


def _take(lock: FileLock, folder: Path, me: Holder, silence: Silence) -> int | None:
    """The number of our claim; None: another process holds the folder. Makes the folder again if its last holder has removed it."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            return _try(lock, folder, me, silence)
        folder.mkdir(parents=True, exist_ok=True)
    return _try(lock, folder, me, silence)


def _try(lock: FileLock, folder: Path, me: Holder, silence: Silence) -> int | None:
    """As `_take`; FileNotFoundError if somebody removes the folder meanwhile."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
    number = None
    try:
        claim = newest(folder)
        if claim.number >= claims.MOST:
            raise PlaceError(f"{folder / claims.FOLDER} was not written by diffusion-lab: remove it")
        if (claim.released or _is_dead(folder, claim, silence)) and claims.succeed(folder, claim, me):
            number = claim.number + 1
    finally:
        if number is None:
            lock.release()
    return number


def _is_dead(folder: Path, claim: Claim, silence: Silence) -> bool:
    process = claim.holder.process if claim.holder else None
    if process is not None and process.is_of_this_machine:
        return not process.lives()
    return silence(folder, claim) >= STALE_SECONDS


@contextmanager
def _heartbeat(folder: Path, number: int) -> Iterator[None]:
    """Show a sign of life now and then while the block runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the next one may come through
                claims.beat(folder, number)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
