"""Copies of the code and the configs that a sweep was planned with: its jobs run from one, whatever is edited meanwhile.

<folder>/<digest>/              a copy, named by what is in it: the same code is the same copy
<folder>/<digest>/.in_use/      a file for each command that works with it now
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from diffusion_lab.lock import hold
from diffusion_lab.processes import Process
from diffusion_lab.runs import RunError, read_json, write_json
from diffusion_lab.sweeps.submitted import Submitted, submitted

_LENGTH = 12  # hex digits in a copy's name
_IN_USE = ".in_use"


@contextmanager
def copy_in_use(
    folder: Path, files: Mapping[Path, bytes], links: Mapping[Path, Path], jobs: Path | None
) -> Iterator[Path]:
    """The copy with these files, at paths relative to it; made if it is missing. Others that nothing uses any more are removed.

    links: path in the copy -> what lies there beside the code and is not copied. jobs: where queued jobs have their files; they
    may outlive the command, and name the copy that they run from.
    """
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path.as_posix()} {hashlib.sha256(content).hexdigest()}\n".encode())
    copy = folder.absolute() / digest.hexdigest()[:_LENGTH]
    mark = copy / _IN_USE / f"{uuid.uuid4().hex}.json"
    with hold(folder, waiting=lambda holder: None):
        if not copy.is_dir():
            _write(copy, files)
        for place, target in links.items():
            if not (copy / place).exists():
                (copy / place).symlink_to(target)
        write_json(mark, asdict(Process.current()))
        for other in folder.iterdir():
            if not other.name.startswith(".") and other.name != copy.name and not _used(other.absolute(), jobs):
                shutil.rmtree(other)
    try:
        yield copy
    finally:
        mark.unlink(missing_ok=True)


def _write(copy: Path, files: Mapping[Path, bytes]) -> None:
    """All files or no copy at all. Called while the folder is held."""
    staged = copy.with_name(".staged")
    if staged.exists():
        shutil.rmtree(staged)  # of a process that was killed
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
    return [job for name, job in submitted(jobs).items() if not any(jobs.glob(f"{name}_*_outcome.json"))]
