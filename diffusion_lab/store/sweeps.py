"""Many cells: outputs/sweeps/<name>/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.store.contents import wrong_in_sweep
from diffusion_lab.store.directory import Directory, validated, write_json
from diffusion_lab.store.foreign import inside, read_printable_json


class SweepDirectory(Directory):
    """Many cells: their command, and the report on them. The cells themselves lie in outputs/runs."""

    @property
    def sweep(self) -> Path:
        """The axes, and the model and run directory of each cell; written before anything starts."""
        return self.path / "sweep.json"

    @property
    def code(self) -> Path:
        """Folder of the copies of the code and the configs that its jobs run from."""
        return self.path / "code"

    @property
    def jobs(self) -> Path:
        """Folder of the jobs' logs, one folder each."""
        return self.path / "jobs"

    @property
    def cancelled(self) -> Path:
        """A mark: nothing more of this sweep is to be submitted."""
        return self.path / "cancelled"

    @property
    def report(self) -> Path:
        """Folder of report.html, the tables and the figures."""
        return self.path / "report"

    @property
    def outputs(self) -> Path:
        """The outputs/ that this sweep, its models and its runs lie in."""
        return self.path.parent.parent

    def write_sweep(self, content: Mapping[str, Any]) -> None:
        write_json(self.sweep, content)

    def read_sweep(self) -> dict[str, Any]:
        """What `write_sweep` wrote. RunError if it is not what a sweep writes."""
        return validated(inside(self.path, self.sweep), read_printable_json(self.sweep), wrong_in_sweep, "a sweep")


def job_log(folder: Path) -> Path:
    """What the job whose folder this is, one of `SweepDirectory.jobs`, printed."""
    return folder / "log.txt"
