"""Files that are written whole or not at all, and folders that the user names with to=. Does not import torch.

A file is written beside its place and renamed. What a killed process leaves beside it, `.<name>.<random>.staged`, is removed by the
next one that holds the folder (`lock`). Folders in outputs/ are the lab's; in another only files that the lab wrote are replaced.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

MARKER = ".diffusion-lab"  # in a folder chosen with to=: the command that wrote there last, and the names of its files


class PlaceError(Exception):
    """A path cannot be written; the message is one sentence."""


def make_folders(path: Path) -> None:
    """Make `path` and its missing parents. OSError, naming a folder, on failure; PlaceError where none can be made, as in /proc."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        raise PlaceError(f"{path} cannot be made there; choose another place") from None


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all: see `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write beside `path`; at the end of the block it is synced to the disk and put in place in one step.

    A reader, also after a crash, sees the old file or the new one, never a part. Folders above `path` are made. On any error
    (OSError with `path` in it: disk full, no permission) the old file stays and nothing else is left.

    previous: where the old file is moved; a crash between the two moves leaves it there and nothing at `path`.
    """
    staged = _beside(path)
    try:
        make_folders(path.parent)
        with staged.open("xb") as file:  # not tempfile, whose files only their owner can read
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(staged, path)
    except OSError as error:
        if error.errno and str(error.filename or staged) in (str(staged), str(path)):
            error.filename = str(path)  # errors of a full disk name no file
        raise
    finally:
        with suppress(OSError):  # the first error is the one to show
            staged.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill beside `folder`, which it becomes at the end of the block.

    FileExistsError if there is something other than an empty folder; OSErrors name `folder`; on any error nothing is left.
    """
    staged = _beside(folder)
    try:
        if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            raise FileExistsError(errno.EEXIST, "it already exists", str(folder))
        make_folders(staged)
        yield staged
        os.rename(staged, folder)
    except OSError as error:
        if error.errno:
            error.filename = str(folder)
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.staged")


def remove_staged(folder: Path) -> None:
    """Remove the staged files of killed processes from a folder that this process holds."""
    for staged in folder.glob(".*.staged"):
        if staged.is_dir() and not staged.is_symlink():
            shutil.rmtree(staged, ignore_errors=True)
        else:
            staged.unlink(missing_ok=True)


# ---- folders and files that the user names with to=


def check_folder(folder: Path, command: str) -> None:
    """PlaceError unless `folder` is new, empty, or was written by the same command before."""
    if folder.is_dir():
        if any(folder.iterdir()) and _read_marker(folder)[0] != command:
            raise PlaceError(
                f"{folder} holds files that diffusion-lab {command} did not write: choose a new or an empty folder with to=…"
            )
    elif os.path.lexists(folder):
        raise PlaceError(f"{folder} is not a folder: choose another to=…")


def begin_folder(folder: Path, command: str, names: Collection[str], stale: str = "") -> None:
    """Mark a folder as written by a command, which is about to write these names.

    Of the files that it wrote before, others that match `stale`, a regular expression, are removed: they must not mix with these.
    """
    earlier = _read_marker(folder)[1]
    for name in earlier - {*names}:
        if re.fullmatch(stale, name):
            with suppress(OSError):  # the user has put a folder there, or removed the file
                (folder / name).unlink()
    content = {"command": command, "files": sorted({*names} | earlier)}
    write_whole(folder / MARKER, json.dumps(content, indent=1, ensure_ascii=False).encode())


def check_file(path: Path) -> None:
    """PlaceError if a file that the user names exists."""
    if os.path.lexists(path):
        raise PlaceError(f"{path} already exists and is not overwritten: choose another to=…, or move it")


def _read_marker(folder: Path) -> tuple[str | None, set[str]]:
    """The command that wrote into a folder, and the names of its files below it; none without a marker of ours."""
    try:
        content = json.loads((folder / MARKER).read_bytes())
        names = {name for name in content["files"] if not (Path(name).is_absolute() or ".." in Path(name).parts)}
        return content["command"], names
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None, set()
