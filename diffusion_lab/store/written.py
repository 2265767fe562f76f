"""Which files in a folder we wrote: the record `.written`, a line of JSON for each file put in place.

    {"name": "raw.safetensors", "size": 812, "mtime_ns": 17…, "sha256": "9f…", "folder": "model"}
    {"staged": ".raw.safetensors.1f0a9c3e.staged", "folder": "model"}    being written, or left by a process that was killed

A line is appended before its file gets its name, so a process killed in between leaves a file that matches an earlier line. A file
that matches no line of its name was written or changed by somebody else. Lines are only appended, so several processes can write
into one folder; only a process that holds the folder shortens the record (`files`). Imports nothing of this package.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO

FILE = ".written"
_STAGED = re.compile(r"\..+\.[0-9a-f]{8}\.staged")
LONG = 2**16  # bytes of a record that is worth shortening
_LARGEST = 2**28
_LONGEST = 255  # bytes of a name, in every file system
_CLAIM_SECONDS = 0.1  # more than pass between making a staged file and claiming it
_KEPT = 2  # lines of a name in a record that was shortened: of the file, and of the one about to take its place


class PlaceError(Exception):
    """A path that cannot be written or held safely; the message is one sentence."""


def append(path: Path, size: int, sha256: str, mtime_ns: int | None = None) -> None:
    """Record that `path`, which must not have its new content yet, is to hold this. mtime_ns: None where it is not known yet."""
    _append(path.parent, {"name": path.name, "size": size, "mtime_ns": mtime_ns, "sha256": sha256})


def append_content(path: Path, file: BufferedIOBase) -> None:
    """Record that an open file, on the disk already, is to become `path`."""
    file.seek(0)
    state = os.fstat(file.fileno())
    append(path, state.st_size, hashlib.file_digest(file, "sha256").hexdigest(), state.st_mtime_ns)


def carry(source: Path, target: Path) -> None:
    """Record that `source` is to become `target`, if `source` is ours."""
    line = _line_of(source)
    if line is not None:
        _append(target.parent, {**line, "name": target.name})


def stage(path: Path) -> Path:
    """A free name beside `path` for what is to become `path`, recorded before it is used."""
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.staged")
    _append(path.parent, {"staged": staged.name}, sync=False)
    return staged


def claim(file: BinaryIO | int) -> None:
    """Show that a staged file or folder is being written, as long as it is open."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)


def abandoned(folder: Path) -> list[Path]:
    """Staged files and folders of processes that were killed."""
    found = [path for line in _lines(folder) if "staged" in line and _is_abandoned(path := folder / line["staged"])]
    if found:
        time.sleep(_CLAIM_SECONDS)
    return [path for path in found if _is_abandoned(path)]


def names(folder: Path) -> list[str]:
    """Names in the record, the last written first."""
    return list(dict.fromkeys(line["name"] for line in reversed(_lines(folder)) if "name" in line))


def is_ours(path: Path) -> bool:
    """Whether we wrote `path`, and nobody has changed it since. Neither a folder nor a link is."""
    return _line_of(path) is not None


def ours(folder: Path) -> list[Path]:
    """Files in `folder` that we wrote and nobody has changed, the last written first. None behind a link."""
    if folder.is_symlink():
        return []
    known: dict[str, list[dict[str, Any]]] = {}
    for line in reversed(_lines(folder)):
        if "name" in line:
            known.setdefault(line["name"], []).append(line)
    return [folder / name for name, lines in known.items() if _match(folder / name, lines) is not None]


def ours_below(folder: Path) -> list[Path]:
    """As `ours`, with those in the folders below."""
    return [file for each in recorded_folders(folder) for file in ours(each)]


def recorded_folders(folder: Path) -> list[Path]:
    """`folder` and those below it, as far as they have a record; each before the ones in it.

    Subfolders whose record names another folder are copies that the user made, as are those in a folder of the user's; they are
    skipped.
    """
    found = []
    for each, below, files in [] if folder.is_symlink() else os.walk(folder):
        path = Path(each)
        if FILE not in files or (path != folder and any(line.get("folder") != path.name for line in _lines(path))):
            below.clear()
        else:
            found.append(path)
    return found


def shorten(folder: Path) -> None:
    """Rewrite the record with what still counts. Only while nobody else writes into `folder`."""
    counts: dict[str, int] = {}
    kept = []
    for line in reversed([*_read((folder / FILE).read_bytes())]):
        name = line.get("name") or line["staged"]
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= (_KEPT if "name" in line else os.path.lexists(folder / name)):
            kept.append(line)
    staged = folder / f".{FILE}.staged"  # in no record; the next one replaces what a kill leaves
    staged.unlink(missing_ok=True)
    with open(staged, "xb") as file:
        file.write(b"".join(map(_encoded, kept[::-1])))
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, folder / FILE)


def is_long_or_linked(folder: Path) -> bool:
    """Whether the record is worth rewriting: it is long, or has another name, as in a backup by `cp -al`."""
    with suppress(FileNotFoundError):  # nothing was written yet, or the user removed it
        state = (folder / FILE).lstat()
        return (
            stat.S_ISREG(state.st_mode) and state.st_size <= _LARGEST and (state.st_size > LONG or state.st_nlink > 1)
        )
    return False


def _append(folder: Path, line: dict[str, Any], sync: bool = True) -> None:
    # A link, or a pipe without a reader, is refused rather than followed or waited for.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(folder / FILE, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENOENT and folder.is_dir():  # in /proc, where no file can be made
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(folder / FILE)) from None
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise PlaceError(
            f"{folder / FILE} was not written by diffusion-lab: remove it, or choose another folder"
        ) from None
    with open(descriptor, "ab") as file:
        file.write(_encoded({**line, "folder": folder.name}))
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _encoded(line: dict[str, Any]) -> bytes:
    """A line of the record. The line break comes first, so that a line that a full disk cut off does not damage the next."""
    return b"\n" + json.dumps(line).encode()


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The readable lines, without names that lead out of the folder: the record may come from somebody else."""
    file = folder / FILE
    try:
        state = file.lstat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > _LARGEST:
            return []
        content = file.read_bytes()
    except OSError:
        return []
    return list(_read(content))


def _read(content: bytes) -> Iterator[dict[str, Any]]:
    for text in content.splitlines():
        try:
            line = json.loads(text)
            name = line.get("name") or line["staged"]
            length = len(os.fsencode(name))  # ValueError for what no file can be called
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        if length > _LONGEST or not isinstance(name, str) or name in (".", "..", FILE) or set("/\0") & set(name):
            continue
        if "name" in line or _STAGED.fullmatch(name):
            yield line


def _line_of(path: Path) -> dict[str, Any] | None:
    for _ in range(2):  # another process may have put a new file in place since the record was read
        if not os.path.lexists(path):
            return None
        line = _match(path, [line for line in reversed(_lines(path.parent)) if line.get("name") == path.name])
        if line is not None:
            return line
    return None


def _match(path: Path, lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The line that matches `path`; the content is read only if the time of change is not the recorded one."""
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            return None
        sized = [line for line in lines if line.get("size") == state.st_size]
        for line in sized:
            if line.get("mtime_ns") == state.st_mtime_ns:
                return line
        if not sized:
            return None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    return next((line for line in sized if line.get("sha256") == digest), None)


def _is_abandoned(path: Path) -> bool:
    """Whether no process writes a staged file or folder any more, as far as this file system shows."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
