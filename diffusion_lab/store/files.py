"""Writing files whole or not at all, without overwriting or removing the user's files. Does not import torch.

The record of each folder lists our files (`written`). If a file of the user lies at a path that we write, it is renamed. Below a
folder that the user named, nothing is written or removed behind a link that leads out of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from diffusion_lab.store import written
from diffusion_lab.store.written import PlaceError

_STAGED = re.compile(r"\..+\.[0-9a-f]{8}\.staged")  # a file being written, or left by a killed process
_guards: dict[Path, Callable[[], None]] = {}
_roots: dict[Path, Path] = {}  # folders that the user named -> their real paths


@contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """In the block, `check` is called before this process puts a file in place under `folder`; it may raise to prevent this."""
    _guards[folder.absolute()] = check
    try:
        yield
    finally:
        del _guards[folder.absolute()]


def name_root(folder: Path) -> None:
    """Register a folder that the user named: it may be a link, but no link below it may lead out.

    Inside an already registered folder, that registration applies.
    """
    place = Path(os.path.abspath(folder))
    if not any(place.is_relative_to(root) for root in _roots if root != place):
        _roots[place] = place.resolve()


def check_links(path: Path) -> None:
    """PlaceError if a link makes `path` lie outside the folder that the user named."""
    place = Path(os.path.abspath(path))
    above = [root for root in _roots if place.is_relative_to(root)]
    root = max(above, key=lambda folder: len(folder.parts), default=None)  # outputs may be a link below to=
    if root is not None and not Path(os.path.realpath(place)).is_relative_to(_roots[root]):
        raise PlaceError(
            f"{path} lies behind a link that leads out of {root}, where nothing is written or removed: replace the link"
        )


def make_folders(path: Path) -> None:
    """Make `path` and its missing parents. OSError, naming a folder, on failure; see `check_links`."""
    check_links(path)
    with _making(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def _making(path: Path) -> Iterator[None]:
    """In the block `path` is made. PlaceError where nothing can be, as in /proc."""
    try:
        yield
    except FileNotFoundError:
        raise PlaceError(f"{path} cannot be made there; choose another place") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all: see `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write beside `path`; at the end of the block it is synced to the disk and put in place in one step.

    A reader, also after a crash, sees the old file or the new one, never a part. It is written beside the target,
    because a move across file systems is a copy. Folders above `path` are made. On any error
    (OSError with `path` in it: disk full, no permission; or an error of a guard) the old file stays and nothing
    else is left. A file of the user at `path` is renamed.

    previous: where the old file is moved; a crash between the two moves leaves it there and nothing at `path`.
    """
    try:
        _check_guards(path)
        make_folders(path.parent)
        with _staged(path, _new_file) as staged, open(staged, "r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _prepare(path)
            if previous is not None and path.exists():
                move(path, previous)
            written.append(path, file)
            os.replace(staged, path)
    except OSError as error:
        named = Path(error.filename or written.FILE).name  # errors of a full disk name no file
        if error.errno and (named == written.FILE or _STAGED.fullmatch(named)):
            error.filename = str(path)  # not another file, which the block may have read
        raise


def move(source: Path, target: Path, replace: bool = False) -> None:
    """Move a file within a file system. A file of the user at the target is renamed.

    replace: overwrite the target even if it is not ours, for unrecorded files of loggers.
    """
    _check_guards(target)
    make_folders(target.parent)
    _prepare(target, keep=not replace)
    written.carry(source, target)
    os.replace(source, target)


def clear(path: Path) -> None:
    """Remove our file, if it exists. A file that the user put there or changed is renamed instead."""
    check_links(path.parent)
    _prepare(path)
    path.unlink(missing_ok=True)


def check_free(paths: Collection[Path]) -> None:
    """PlaceError if a file of the user lies at one of these paths, chosen with `to`. Call it before the work starts."""
    for folder in {path.parent for path in paths}:
        remove_staged(folder)
    for path in paths:
        if os.path.lexists(path) and not written.is_ours(path):
            raise PlaceError(
                f"{path} was changed, or not written by diffusion-lab, and is not overwritten: choose another to=…, or move it"
            )


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder with these files (name, possibly with subfolders -> content), whole or not at all.

    FileExistsError if something other than an empty folder exists already; on any OSError nothing is left behind.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if os.path.lexists(folder):
        raise FileExistsError(errno.EEXIST, "it already exists", str(folder))
    try:
        make_folders(folder.parent)
        remove_staged(folder.parent)
        with staged_folder(folder) as staged:
            for name, content in files.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).write_bytes(content)
            os.rename(staged, folder)
    except OSError as error:
        if error.errno:
            error.filename = str(folder)
        raise


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, to be moved to its place in the block. If it remains after the block, it is removed."""
    with _staged(folder, Path.mkdir) as staged:
        yield staged


def remove_staged(folder: Path) -> None:
    """Remove staged files of killed processes; files being written stay."""
    check_links(folder)
    for staged in [path for path in folder.glob(".*.staged") if _STAGED.fullmatch(path.name)]:
        with suppress(OSError):
            descriptor = os.open(staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if a process is writing it
                _discard(staged)
            finally:
                os.close(descriptor)


def remove_written(folder: Path) -> None:
    """Remove our unchanged files in and below `folder`, then empty subfolders.

    The record of `folder` stays, for `lease.give_up`. The last file written is removed first, so that a folder left by a kill
    does not look finished.
    """
    check_links(folder)
    folders = written.recorded_folders(folder)
    for each in folders:
        for path in written.ours(each):
            _check_guards(path)
            path.unlink(missing_ok=True)
    for each in reversed(folders):
        _check_guards(each)
        remove_staged(each)
        if each != folder:
            (each / written.FILE).unlink(missing_ok=True)
            with suppress(OSError):  # the user put something there
                each.rmdir()


@contextmanager
def _staged(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A file or folder made by `make` beside `path` under a free name, locked in the block to show that it is being written."""
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.staged")
    while True:  # another process that tidies the folder may remove it before it is locked
        with _making(path):
            make(staged)
        with suppress(FileNotFoundError):
            descriptor = os.open(staged, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if staged.exists():
                break
            os.close(descriptor)
    try:
        yield staged
    finally:
        os.close(descriptor)
        _discard(staged)


def _new_file(path: Path) -> None:
    path.touch(exist_ok=False)  # not tempfile, whose files only their owner can read


def _discard(staged: Path) -> None:
    """Remove it if possible."""
    if staged.is_dir():
        shutil.rmtree(staged, ignore_errors=True)
    else:
        with suppress(OSError):  # the first error is the one to show
            staged.unlink(missing_ok=True)


def _check_guards(path: Path) -> bool:
    """Whether this process holds a folder above `path`. Raises the errors of its guards."""
    checks = [check for folder, check in list(_guards.items()) if path.absolute().is_relative_to(folder)]
    for check in checks:
        check()
    return bool(checks)


def _prepare(path: Path, keep: bool = True) -> None:
    """Before `path` is replaced or removed: check the guards, renew the record, and rename a file of the user."""
    content, record = written.renewed(path.parent, is_held=_check_guards(path)), path.with_name(written.FILE)
    if content is not None:
        with _staged(record, _new_file) as staged:
            staged.write_bytes(content)
            os.replace(staged, record)
    if not keep or not os.path.lexists(path) or written.is_ours(path):
        return
    names = (path.with_name(f"yours{number if number > 1 else ''}-{path.name}") for number in count(1))
    kept = next(name for name in names if not os.path.lexists(name))
    os.rename(path, kept)
    print(f"{path} was changed, or not written by diffusion-lab: it is kept as {kept.name}", file=sys.stderr)
