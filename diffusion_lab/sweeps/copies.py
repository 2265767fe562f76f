"""Copies of the code and the configs that a sweep was planned with: its jobs run from one, whatever is edited meanwhile.

<folder>/<digest>/              a copy, named by what is in it: the same code is the same copy
<folder>/<digest>/.in_use/      a file for each command that works with it now
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.machinery import all_suffixes
from pathlib import Path

from diffusion_lab.files import clear, remove_staged, staged_folder
from diffusion_lab.processes import Process
from diffusion_lab.runs import RunError, read_json, write_json
from diffusion_lab.runs.jobs import has_outcome
from diffusion_lab.store.lease import give_up, hold
from diffusion_lab.sweeps.submitted import Submitted, submitted
from diffusion_lab.written import PlaceError

_LENGTH = 12  # hex digits in a copy's name
_IN_USE = ".in_use"
_CODE = (*all_suffixes(), ".yaml", ".yml")


@contextmanager
def copy_in_use(
    folder: Path, files: Mapping[Path, bytes], links: Mapping[Path, Path], jobs: Path | None
) -> Iterator[Path]:
    """The copy with these files, at paths relative to it; made if it is missing. Others that nothing uses any more are removed.

    links: path in the copy -> what lies there beside the code and is not copied. jobs: where queued jobs have their files; they
    may outlive the command, and name the copy that they run from.
    """
    copy = folder.absolute() / _name(files)
    mark = copy / _IN_USE / f"{uuid.uuid4().hex}.json"
    with hold(folder, waiting=lambda holder: None):
        remove_staged(folder)
        if os.path.lexists(copy):
            _check(copy, files, links)
        else:
            _write(copy, files)
        for place, target in links.items():
            if not (copy / place).exists():
                (copy / place).symlink_to(target)
        write_json(mark, asdict(Process.current()))
        for other in unused_copies(folder, jobs):
            _remove(other)
    try:
        yield copy
    finally:
        clear(mark)


def unused_copies(folder: Path, jobs: Path) -> list[Path]:
    """Copies that nothing uses and that hold what a sweep put there, and no more. `jobs` as in `copy_in_use`."""
    copies = sorted(path.absolute() for path in folder.glob("[!.]*") if path.is_dir() and not path.is_symlink())
    return [copy for copy in copies if not _used(copy, jobs) and _name(_files(copy)) == copy.name]


def remove_copy(copy: Path, jobs: Path, waiting: Callable[[str], None]) -> bool:
    """Remove a copy, unless something has come to use it; whether it did. waiting: as in `lease.hold`."""
    with hold(copy.parent, waiting):
        unused = copy.absolute() in unused_copies(copy.parent, jobs)
        if unused:
            _remove(copy)
        give_up(copy.parent)
    return unused


def _check(copy: Path, files: Mapping[Path, bytes], links: Mapping[Path, Path]) -> None:
    """PlaceError if an existing copy holds other code or configs than `files`: the folder may come from somebody else.

    Other links and compiled files of Python are removed, because they may hide what would run.
    """
    for path in [] if copy.is_symlink() else [*copy.rglob("*")]:
        compiled = path.suffix == ".pyc" and path.parent.name == "__pycache__"
        if compiled or (path.is_symlink() and path.readlink() != links.get(path.relative_to(copy))):
            path.unlink()
    found = {name: content for name, content in _files(copy).items() if name in files or name.suffix in _CODE}
    if copy.is_symlink() or found != files:
        raise PlaceError(f"{copy} was changed, or not written by diffusion-lab, and no code runs from it: remove it")


def _name(files: Mapping[Path, bytes]) -> str:
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path.as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()[:_LENGTH]


def _files(copy: Path) -> dict[Path, bytes]:
    """What lies in a copy but links, marks, and what Python compiles."""
    files = {path.relative_to(copy): path for path in copy.rglob("*") if path.is_file() and not path.is_symlink()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if name.parts[0] != _IN_USE and not ("__pycache__" in name.parts and name.suffix == ".pyc")
    }


def _remove(copy: Path) -> None:
    """Remove a copy. It is renamed first, so that a half-removed copy is never used."""
    with staged_folder(copy) as staged:
        copy.rename(staged)


def _write(copy: Path, files: Mapping[Path, bytes]) -> None:
    """All files or no copy at all. Called while the folder is held."""
    with staged_folder(copy) as staged:
        for path, content in files.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).write_bytes(content)
        staged.rename(copy)


def _used(copy: Path, jobs: Path | None) -> bool:
    """Whether a command that lives, or may live, works with a copy, or a job that has not told its outcome."""
    for mark in (copy / _IN_USE).glob("*.json"):
        try:
            process = Process(**read_json(mark))
        except (RunError, TypeError):
            return True
        if not process.is_of_this_machine or process.lives():
            return True
    return jobs is not None and any(job.code == str(copy) for job in _unfinished(jobs))


def _unfinished(jobs: Path) -> list[Submitted]:
    return [job for name, job in submitted(jobs).items() if not has_outcome(jobs, name)]
