"""A file appears whole or not at all, and no file of the user's is overwritten or removed. Imports no torch.

The record of each folder lists our files (`written`). A file of the user's at a path that we write is kept under another
name. Below a folder that the user named, nothing is written or removed behind a link that leads out of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from diffusion_lab.store import written
from diffusion_lab.store.written import PlaceError

_guards: dict[Path, Callable[[], None]] = {}
_roots: dict[Path, Path] = {}  # folders that the user named, and where they really are


@contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """In the block, `check` is called before this process puts a file in place under `folder`; it may raise instead."""
    _guards[folder.absolute()] = check
    try:
        yield
    finally:
        del _guards[folder.absolute()]


def name_root(folder: Path) -> None:
    """Register a folder that the user named: it may be a link, but no link below it may lead out.

    Inside a registered folder, that one applies.
    """
    place = Path(os.path.abspath(folder))
    if not any(place.is_relative_to(root) for root in _roots if root != place):
        _roots[place] = place.resolve()


def check_links(path: Path) -> None:
    """PlaceError if a link makes `path` lie outside of the folder that the user named."""
    place = Path(os.path.abspath(path))
    above = [root for root in _roots if place.is_relative_to(root)]
    root = max(above, key=lambda folder: len(folder.parts), default=None)  # outputs may be a link below to=.
    if root is not None and not Path(os.path.realpath(place)).is_relative_to(_roots[root]):
        raise PlaceError(
            f"{path} lies behind a link that leads out of {root}, where nothing is written or removed: replace the link"
        )


def make_folders(path: Path) -> None:
    """Make `path` and the folders above it that are missing. OSError, naming a folder, if that fails; see `check_links`."""
    check_links(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # in /proc, where no folder can be made
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), error.filename) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all: see `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write beside `path`; at the end of the block it is forced to the disk and put in place in one step.

    A reader, also after a crash, sees the old file or the new one, never a part. Beside the target and not
    in a temporary folder, because a move across file systems is a copy. Folders above `path` are made. On any error
    (OSError with `path` in it: disk full, no permission; what a guard of the folder raises) the old file stays and nothing
    else is left. A file of the user's at `path` is kept under another name.

    previous: where the old file goes; a crash between the two moves leaves it there and nothing at `path`.
    """
    staged = None
    try:
        _check_guards(path)
        make_folders(path.parent)
        _shorten(path.parent)
        staged = written.stage(path)
        with open(staged, "x+b") as file:  # not tempfile: its files are readable by their owner only
            written.claim(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            _check_guards(path)
            _make_room(path)
            if previous is not None and path.exists():
                move(path, previous)
            written.append_content(path, file)
            os.replace(staged, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(staged), str(path.with_name(written.FILE))):
            error.filename = str(path)  # a full disk does not say which file it was
            if isinstance(error, FileNotFoundError):
                raise PlaceError(
                    f"{path.parent} was removed or replaced while {path.name} was written there"
                ) from error
        raise
    finally:
        if staged is not None:
            with suppress(OSError):  # if the folder cannot be written, the first error is the one to show
                staged.unlink(missing_ok=True)
    with suppress(OSError):  # the rename itself; some file systems and systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def extend(path: Path, content: bytes, more: bytes) -> None:
    """Append `more` to a file of ours that holds `content`."""
    check_links(path)
    _check_guards(path)
    whole = content + more
    if path.stat().st_nlink > 1:  # the other name is the user's, such as a backup by `cp -al`
        write_whole(path, whole)
        return
    _shorten(path.parent)
    written.append(path, len(whole), hashlib.sha256(whole).hexdigest())
    with path.open("ab") as file:
        file.write(more)


def move(source: Path, target: Path, replace: bool = False) -> None:
    """Move a file to a place of the same file system. A file of the user's that lies there is kept under another name.

    replace: what lies there goes, as a file that a logger wrote, of which there is no record.
    """
    _check_guards(target)
    make_folders(target.parent)
    if not replace:
        _make_room(target)
    _shorten(target.parent)
    written.carry(source, target)
    os.replace(source, target)


def clear(path: Path) -> None:
    """Remove a file of ours, if it is there. One that the user put there or changed is kept under another name."""
    check_links(path.parent)
    _check_guards(path)
    _make_room(path)
    path.unlink(missing_ok=True)


def check_free(paths: Collection[Path]) -> None:
    """PlaceError if a file of the user's lies at one of these paths, which `to` names. Call it before the work starts."""
    for folder in {path.parent for path in paths}:
        check_links(folder)
        remove_staged(folder)
        known = set(written.ours(folder))
        for path in paths:
            if path.parent == folder and path not in known and os.path.lexists(path):
                raise PlaceError(
                    f"{path} was changed, or not written by diffusion-lab, and is not overwritten: choose another to=…, or move it"
                )


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder with these files (name, perhaps with folders in it -> content), whole or not at all.

    FileExistsError if something is there already, other than an empty folder; any OSError leaves nothing behind.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(errno.EEXIST, "it already exists", str(folder))
    try:
        make_folders(folder.parent)
        remove_staged(folder.parent)
        with staged_folder(folder) as staged:
            for name, content in files.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                with (staged / name).open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(staged, folder)
    except OSError as error:
        if error.errno:
            error.filename = str(folder)
        raise


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which the block moves to its place. If it still exists after the block, it is removed."""
    staged = written.stage(folder)
    staged.mkdir()
    descriptor = os.open(staged, os.O_RDONLY)
    written.claim(descriptor)
    try:
        yield staged
    finally:
        os.close(descriptor)
        shutil.rmtree(staged, ignore_errors=True)


def remove_staged(folder: Path) -> None:
    """Remove the staged files of processes that were killed while writing."""
    for staged in written.abandoned(folder):
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        else:
            staged.unlink(missing_ok=True)


def remove_written(folder: Path) -> None:
    """Remove our unchanged files in `folder` and below it, then the empty folders in it.

    The record of `folder` stays, for `lease.give_up`. The last file written is removed first, so that a folder that a kill leaves
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


def _check_guards(path: Path) -> None:
    """Raises what the check of a guarded folder above `path` raises."""
    for folder, check in list(_guards.items()):
        if path.absolute().is_relative_to(folder):
            check()


def _shorten(folder: Path) -> None:
    """Rewrite a long record, or one with another name, while we hold the folder, because then nobody else writes there."""
    if any(folder.absolute().is_relative_to(held) for held in list(_guards)) and written.is_long_or_linked(folder):
        written.shorten(folder)


def _make_room(path: Path) -> None:
    """Rename a file at `path` that is not ours to a free name, and print the new name."""
    if not os.path.lexists(path) or written.is_ours(path):
        return
    names = (f"yours{number}-{path.name}" for number in ("", *map(str, range(2, 10**6))))
    kept = next(free for name in names if not os.path.lexists(free := path.with_name(name)))
    os.rename(path, kept)
    print(f"{path} was changed, or not written by diffusion-lab: it is kept as {kept.name}", file=sys.stderr)
