"""Who claims to hold a folder: numbered files in `<folder>/.holder`. The one with the highest number counts.

    <n>.json    written once by the n-th holder, whose heartbeat is its time of change; `null` when it has let go

To take a folder is to create the next number, which the file system lets exactly one process do; no process ever removes or
rewrites the newest number but the process that made it, so a holder that was overtaken harms nobody by what it still does.
Imports nothing of this package but `processes`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusion_lab.processes import Process

FOLDER = ".holder"
MOST = 10**12  # claims of a folder, a thousand a second for 30 years; a claim with a higher number is invalid
_NUMBER = re.compile("[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder, or held it and is gone. token: its own, for this one time."""

    process: Process
    since: str
    token: str

    @classmethod
    def current(cls) -> Holder:
        return cls(Process.current(), time.strftime("%Y-%m-%d %H:%M:%S"), uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host}, since {self.since}"


@dataclass(frozen=True)
class Claim:
    """The newest number. holder: None where no process holds the folder, or where it has not written its name yet.

    released: it has let go. beat: changes with each heartbeat.
    """

    number: int = 0
    holder: Holder | None = None
    released: bool = True
    beat: int = 0


def newest(folder: Path) -> Claim:
    """What counts now in `folder`."""
    while True:
        number = max(_numbers(folder), default=0)
        if number == 0:
            return Claim()
        file = _file(folder, number)
        try:
            there = file.stat()
            beat = there.st_mtime_ns
            said = file.read_bytes() if stat.S_ISREG(there.st_mode) else b""  # a pipe may have no writer
        except PermissionError:  # of another user, who keeps it to himself
            return Claim(number, None, False, beat)
        except FileNotFoundError:
            continue  # its successor has cleared it away since
        try:
            found = json.loads(said)
            if found is None:
                return Claim(number, None, True, beat)
            return Claim(number, Holder(**{**found, "process": Process(**found["process"])}), False, beat)
        except (ValueError, TypeError, KeyError, RecursionError):
            return Claim(number, None, False, beat)  # it is being written, or its writer died over it


def succeed(folder: Path, earlier: Claim, holder: Holder) -> bool:
    """Claim `folder` for `holder` after `earlier`; False if another process was faster. OSError if it cannot be written."""
    (folder / FOLDER).mkdir(exist_ok=True)
    mine = earlier.number + 1
    try:
        file = _file(folder, mine).open("xb", buffering=0)
    except FileExistsError:
        return False
    try:
        with file:
            file.write(json.dumps(asdict(holder)).encode())
    except OSError:
        _file(folder, mine).unlink(missing_ok=True)
        raise
    numbers = _numbers(folder)
    if max(numbers) != mine:  # many came and went since `earlier` was read, and this number was cleared away and free
        _file(folder, mine).unlink(missing_ok=True)
        return False
    for number in numbers:
        if number < mine:
            _file(folder, number).unlink(missing_ok=True)
    return True


def beat(folder: Path, number: int) -> None:
    """A sign of life. OSError if the file system does not take it."""
    os.utime(_file(folder, number))


def release(folder: Path, number: int, holder: Holder) -> None:
    """Let go of a number of one's own; one that was overtaken and cleared away stays away."""
    with suppress(OSError), _file(folder, number).open("r+b", buffering=0) as file:
        said = file.read()
        if holder.token.encode() in said:  # else a process that came after `clear` has begun to count again
            file.seek(0)
            file.write(b"null".ljust(len(said)))  # in place: the disk may be full


def clear(folder: Path) -> None:
    """Remove every number. Only for the newest holder, when there is nothing left to hold."""
    for number in sorted(_numbers(folder)):
        _file(folder, number).unlink(missing_ok=True)
    with suppress(OSError):  # it holds other files
        (folder / FOLDER).rmdir()


def _numbers(folder: Path) -> list[int]:
    """Of the claims there. Other names and links are not ours: whoever looked for them under their number would not find them."""
    files = [
        file for file in (folder / FOLDER).glob("*.json") if _NUMBER.fullmatch(file.stem) and not file.is_symlink()
    ]
    return [int(file.stem) for file in files]


def _file(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number}.json"
