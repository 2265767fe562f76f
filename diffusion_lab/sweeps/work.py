"""The work of a sweep's jobs, and how each model and cell ended: status.json in its folder holds the reason of a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from diffusion_lab.store.files import clear
from diffusion_lab.store.lease import is_held
from diffusion_lab.store.status import DONE, FAILED, FILE, INTERRUPTED, RUNNING, Status, read_status, written_status
from diffusion_lab.sweeps.plan import MODEL, Job, Work

# Runs jobs; for each, in their order, why not all of it is done (None: it is, or the parts have reasons of their own).
Launch = Callable[[Sequence[Job]], Sequence[str | None]]


def do(job: Job, run: Callable[[Work], str | None], is_alone: bool = True) -> str | None:
    """What is missing of a job, one after the other; the first reason of a failure, or None. A failed cell stops no other.

    run: trains or scores, and returns why it failed. is_alone: whether one process does it; several would not fail together, so
    they stop at the first failure.
    """
    first = None
    for work in job.work:
        reason = None if work.done else run(work)
        if reason is not None:
            reason = fail(work.folder, reason)
            first = first or reason
            if work.what == MODEL or not is_alone:
                break
    return first


def run_all(jobs: Sequence[Job], launch: Launch) -> dict[Path, str]:
    """Folder -> reason, of all that failed. What a killed job has not begun is launched again."""
    forget_failures(work for job in jobs for work in job.work)
    failures: dict[Path, str] = {}
    while jobs:
        reasons = launch(jobs)
        rests = [_settle(job, reason, failures) for job, reason in zip(jobs, reasons, strict=True)]
        jobs = [job for job in rests if job.work]
    return failures


def forget_failures(all_work: Iterable[Work]) -> None:
    """Remove the reason of an earlier attempt; what was interrupted resumes."""
    for work in all_work:
        status = written_status(work.folder)
        if status is not None and status.state != INTERRUPTED and not is_held(work.folder):
            clear(work.folder / FILE)


def fail(folder: Path, reason: str) -> str:
    """Record why the work in `folder` failed, unless it did so itself or another process works there.

    Returns the reason that is recorded now.
    """
    if is_held(folder):
        return reason
    status = written_status(folder)
    if status is not None and status.state in (FAILED, INTERRUPTED):
        return status.reason or reason
    (status or Status.begin()).now(FAILED, reason=reason).write(folder)
    return reason


def _settle(job: Job, reason: str | None, failures: dict[Path, str]) -> Job:
    """Record the failures of a job that has ended; what another job is to do of it.

    A job that was killed leaves what it was at as running. What it left without any status is done by another one, unless nothing
    of it failed: then that would end as this job did.
    """
    missing = [work for work in job.work if not work.done]
    states = [status.state if (status := written_status(work.folder)) else None for work in missing]
    begun = [work for work, state in zip(missing, states, strict=True) if state in (RUNNING, FAILED)]
    goes_on = begun and begun[0].what != MODEL and INTERRUPTED not in states
    rest = tuple(work for work in missing if work not in begun) if goes_on else ()
    for work in missing:
        model = job.work[0] if job.work[0].folder in failures else None
        if model is not None and model.what == MODEL and work is not model:
            failures[work.folder] = fail(work.folder, f"its model failed: {failures[model.folder]}")
        elif work not in rest:
            failures[work.folder] = fail(work.folder, reason or _own_reason(work) or "it ended without a result")
    return replace(job, work=rest)


def _own_reason(work: Work) -> str | None:
    """Why it failed, from its status or from the lack of one."""
    status = read_status(work.folder)
    return None if status is None or status.state == DONE else status.reason
