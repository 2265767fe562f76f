"""The record `.written` of our files in a folder: one line of JSON for each file put in place.

    {"size": 812, "mtime_ns": 17…, "sha256": "9f…", "name": "raw.safetensors", "folder": "model"}

A line is appended before its file gets its name, so a process killed in between leaves a file that matches an earlier line. A file
that matches no line with its name was written or changed by somebody else. Lines are only appended, so several processes can write
to one folder; only a process that holds the folder shortens the record (`files`). A record with hard links, as in a backup, is
first replaced by a copy. Imports nothing of this package.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any

FILE = ".written"
_LONG = 2**16  # bytes; longer records are shortened
_LARGEST = 2**28
_LONGEST = 255  # bytes of a name, in all file systems
_KEPT = 2  # lines kept per name in a shortened record: of the file, and of the one about to replace it

Line = dict[str, Any]


class PlaceError(Exception):
    """A path that cannot be written or held safely; the message is one sentence."""


def append(path: Path, file: BufferedIOBase) -> None:
    """Record that an open, synced file is to become `path`, which must not have its new content yet."""
    file.seek(0)
    state, digest = os.fstat(file.fileno()), hashlib.file_digest(file, "sha256").hexdigest()
    _append(path, {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest})


def carry(source: Path, target: Path) -> None:
    """Record that `source` is to become `target`, if `source` is ours."""
    line = _line_of(source)
    if line is not None:
        _append(target, line)


def names(folder: Path) -> list[str]:
    """Names in the record, the last written first."""
    return list(_lines(folder))


def is_ours(path: Path) -> bool:
    """Whether we wrote `path` and it is unchanged since. False for folders and links."""
    return _line_of(path) is not None


def ours(folder: Path) -> list[Path]:
    """Our unchanged files in `folder`, the last written first. None behind a link."""
    known = {} if folder.is_symlink() else _lines(folder)
    return [folder / name for name, lines in known.items() if _match(folder / name, lines) is not None]


def ours_below(folder: Path) -> list[Path]:
    """Like `ours`, including subfolders."""
    return [file for each in recorded_folders(folder) for file in ours(each)]


def recorded_folders(folder: Path) -> list[Path]:
    """`folder` and its subfolders that have a record, parents first.

    Subfolders whose record names another folder are copies made by the user, as are those in a user's folder; they are
    skipped.
    """
    found = []
    for each, below, files in [] if folder.is_symlink() else os.walk(folder):
        path = Path(each)
        copied = path != folder and any(line.get("folder") != path.name for line in chain(*_lines(path).values()))
        if FILE not in files or copied:
            below.clear()
        else:
            found.append(path)
    return found


def renewed(folder: Path, is_held: bool) -> bytes | None:
    """The new content of the record; None to keep it. For a long record, while nobody else writes into `folder` (is_held), the
    lines that still matter; for a record with hard links all lines, so that the linked backup keeps its content."""
    record = folder / FILE
    if is_held and _is_file(record, _LONG):
        kept = [line for lines in _by_name(record.read_bytes()).values() for line in lines[:_KEPT]]
        return b"".join(map(_encoded, reversed(kept)))
    return record.read_bytes() if _is_file(record) and record.stat().st_nlink > 1 else None


def _append(path: Path, line: Line) -> None:
    record = path.with_name(FILE)
    if os.path.lexists(record) and not _is_file(record):  # links are not followed, and pipes not waited for
        raise PlaceError(f"{record} was not written by diffusion-lab: remove it, or choose another folder")
    with open(record, "ab") as file:
        file.write(_encoded({**line, "name": path.name, "folder": path.parent.name}))
        file.flush()
        os.fsync(file.fileno())


def _encoded(line: Line) -> bytes:
    """A line of the record. It begins with a line break, so that a line truncated by a full disk does not damage the next one."""
    return b"\n" + json.dumps(line).encode()


def _lines(folder: Path) -> dict[str, list[Line]]:
    """Name -> its lines, the last first; for a damaged record the readable ones."""
    try:
        return _by_name((folder / FILE).read_bytes()) if _is_file(folder / FILE) else {}
    except OSError:
        return {}


def _by_name(content: bytes) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in reversed([*_read(content)]):
        found.setdefault(line["name"], []).append(line)
    return found


def _read(content: bytes) -> Iterator[Line]:
    """The readable lines, without names that lead out of the folder, because the record may be a stranger's."""
    for text in content.splitlines():
        try:
            line = json.loads(text)
            name = line["name"]
            length = len(os.fsencode(name))  # ValueError for impossible file names
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if length <= _LONGEST and name not in ("", ".", "..", FILE) and not set("/\0") & set(name):
            yield line


def _is_file(path: Path, least: int = 0) -> bool:
    """Whether `path` is a regular file, not a link, and small enough to read."""
    try:
        state = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(state.st_mode) and least <= state.st_size <= _LARGEST


def _line_of(path: Path) -> Line | None:
    for _ in range(2):  # another process may have replaced the file since the record was read
        line = _match(path, _lines(path.parent).get(path.name, []))
        if line is not None:
            return line
    return None


def _match(path: Path, lines: list[Line]) -> Line | None:
    """The line that matches `path`; its content is read only if the modification time differs from the recorded one."""
    try:
        state = path.lstat()
        sized = [line for line in lines if line.get("size") == state.st_size and stat.S_ISREG(state.st_mode)]
        timed = [line for line in sized if line.get("mtime_ns") == state.st_mtime_ns]
        if timed or not sized:
            return next(iter(timed), None)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return next((line for line in sized if line.get("sha256") == digest), None)
