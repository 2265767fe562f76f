"""A file appears whole or not at all. Imports neither torch nor anything of this package."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_STAGED = ".{name}.{unique}.staged"
_guards: dict[Path, Callable[[], None]] = {}


@contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """In the block, `check` is called before this process puts a file in place under `folder`; it may raise instead."""
    _guards[folder.absolute()] = check
    try:
        yield
    finally:
        del _guards[folder.absolute()]


def check_guards(path: Path) -> None:
    """Raises what the check of a guarded folder above `path` raises. For who writes in other ways than those below."""
    for folder, check in list(_guards.items()):
        if path.absolute().is_relative_to(folder):
            check()


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all: see `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def make_folders(path: Path) -> None:
    """Make `path` and the folders above it that are missing. OSError with a folder in it if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # in /proc, where no folder can be made
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), error.filename) from error


@contextmanager
def whole_file(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write beside `path`; at the end of the block it is forced to the disk and put in place in one step.

    A reader, also after a crash, sees the old file or the new one, never a part. Beside the target and not
    in a temporary folder, because a move across file systems is a copy. Folders above `path` are made. On any error
    (OSError with `path` in it: disk full, no permission; what a guard of the folder raises) the old file stays and nothing
    else is left.

    previous: where the old file goes; a crash between the two moves leaves it there and nothing at `path`.
    """
    staged = path.with_name(_STAGED.format(name=path.name, unique=uuid.uuid4().hex[:8]))
    try:
        make_folders(path.parent)
        with open(staged, "xb") as file:  # not tempfile: its files are readable by their owner only
            yield file
            file.flush()
            os.fsync(file.fileno())
        check_guards(path)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(staged, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(staged)):
            error.filename = str(path)  # a full disk does not say which file it was
        raise
    finally:
        with suppress(OSError):  # a folder that cannot be written has nothing to remove, and must not hide why
            staged.unlink(missing_ok=True)
    with suppress(OSError):  # the rename itself; some file systems and systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder with these files (name, perhaps with folders in it -> content), whole or not at all.

    FileExistsError if something is there already, other than an empty folder; any OSError leaves nothing behind.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(errno.EEXIST, "it already exists", str(folder))
    staged = folder.with_name(_STAGED.format(name=folder.name, unique=uuid.uuid4().hex[:8]))
    try:
        for name, content in files.items():
            write_whole(staged / name, content)
        os.rename(staged, folder)
    except OSError as error:
        if error.errno and (not error.filename or Path(error.filename).is_relative_to(staged)):
            error.filename = str(folder)
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def remove_staged(folder: Path) -> None:
    """Clear away what processes that were killed while writing left behind. Call it only while you hold the folder."""
    for staged in staged_in(folder):
        staged.unlink(missing_ok=True)


def staged_in(folder: Path) -> list[Path]:
    """What is being written there, or was when its process was killed."""
    return list(folder.glob(_STAGED.format(name="*", unique="*")))
