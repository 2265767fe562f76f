"""Files of the jobs in a queue, all in one folder: outputs/jobs/, or where the user has the launcher keep them.

<id>_job.json              what it does, written when it is submitted
<id>_process.json          of a job of this machine: which process it is, and where it runs
<id>_<rank>_outcome.json   how each of its processes ended
<id>_<rank>_log.out        what they printed; the name is submitit's
"""

from __future__ import annotations

from pathlib import Path

_JOB, _PROCESS = "_job.json", "_process.json"


def jobs_folder(outputs: Path) -> Path:
    """Where the launchers keep the files of their jobs, unless the user says another place."""
    return outputs / "jobs"


def job_file(folder: Path, job: str) -> Path:
    return folder / f"{job}{_JOB}"


def job_files(folder: Path) -> dict[str, Path]:
    """Name -> file, of all jobs that were submitted from a folder."""
    return _named(folder, _JOB)


def process_file(folder: Path, job: str) -> Path:
    return folder / f"{job}{_PROCESS}"


def process_files(folder: Path) -> dict[str, Path]:
    """Name -> file, of the jobs of machines that were no cluster."""
    return _named(folder, _PROCESS)


def outcome_file(folder: Path, job: str, rank: int) -> Path:
    return folder / f"{job}_{rank}_outcome.json"


def has_outcome(folder: Path, job: str) -> bool:
    """Whether any process of a job has told how it ended."""
    return any(folder.glob(f"{job}_*_outcome.json"))


def log_file(folder: Path, job: str) -> Path:
    """What the first process of a job printed."""
    return folder / f"{job}_0_log.out"


def _named(folder: Path, ending: str) -> dict[str, Path]:
    return {file.name.removesuffix(ending): file for file in folder.glob(f"*{ending}")}
