"""Which copies of code nothing needs any more: those of sweeps whose cells all have their score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab.foreign import RunError
from diffusion_lab.pruning.unused import InUseError, Unused, refuse
from diffusion_lab.runs.places import run_directory, sweeps_in
from diffusion_lab.runs.sweeps import SweepDirectory
from diffusion_lab.store.lease import OvertakenError
from diffusion_lab.sweeps.copies import remove_copy, unused_copies
from diffusion_lab.written import PlaceError


@dataclass(frozen=True)
class _UnusedCopy(Unused):
    jobs: Path = Path()

    def remove(self) -> str | None:
        try:
            return None if remove_copy(self.path, self.jobs, refuse) else "a process is using it"
        except (InUseError, OvertakenError, PlaceError, OSError) as error:
            return str(error)


def unused_code(outputs: Path, jobs: Path) -> Iterator[Unused]:
    """jobs: where queued jobs, which may outlive their command, have their files."""
    for sweep in sweeps_in(outputs):
        if any(path.is_symlink() for path in (sweep.code, sweep.path, sweep.path.parent)) or not _is_scored(sweep):
            continue
        for copy in unused_copies(sweep.code, jobs):
            files = [path for path in copy.rglob("*") if path.is_file() and not path.is_symlink()]
            yield _UnusedCopy(sweep.code / copy.name, "every cell of its sweep has its score", files, jobs=jobs)


def _is_scored(sweep: SweepDirectory) -> bool:
    try:
        cells = sweep.read_sweep()["cells"]
    except RunError:
        return False
    return all(run_directory(sweep.outputs, cell["run"]).metrics.is_file() for cell in cells)
