"""All jobs of a sweep, through a launcher that may lose some of them, until each has its result or a reason.

What happened is read from the jobs' own folders (the result, status.json, the lease), because a process that was killed says
nothing and a launcher whose worker was killed may give up on all the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from diffusion_lab.files import clear
from diffusion_lab.status import DONE, FAILED, FILE, INTERRUPTED, RUNNING, Status, read_status, written_status
from diffusion_lab.store.lease import is_held
from diffusion_lab.sweeps.plan import Job

# Runs jobs and says of each, in their order, why it failed (None: it did not). Raises where it lost some.
Launch = Callable[[Sequence[Job]], Sequence[str | None]]
_POLL_SECONDS = 0.5


def run_all(jobs: Sequence[Job], launch: Launch, keeps_order: bool) -> dict[Path, str]:
    """Folder -> reason, of the jobs that failed; status.json there says the same. Raises what `launch` raises if none began.

    keeps_order: whether `launch` itself begins a job when the one that it depends on is done. Otherwise it is given the jobs that
    depend on no other, and when all of them have ended the others.
    """
    forget_failures(jobs)
    stages = (
        [jobs]
        if keeps_order
        else [[job for job in jobs if (job.depends_on is None) == first] for first in (True, False)]
    )
    failures: dict[Path, str] = {}
    for stage in stages:
        ready = [job for job in stage if job.depends_on not in failures]
        if ready:
            failures |= _complete(ready, launch)
        for job in stage:
            if job.depends_on in failures:
                failures[job.folder] = fail(job.folder, f"its model failed: {failures[job.depends_on]}")
    return failures


def forget_failures(jobs: Sequence[Job]) -> None:
    """Remove the reason of an earlier attempt; what was interrupted resumes."""
    for job in jobs:
        status = written_status(job.folder)
        if status is not None and status.state != INTERRUPTED and not is_held(job.folder):
            clear(job.folder / FILE)


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


def _complete(jobs: Sequence[Job], launch: Launch) -> dict[Path, str]:
    try:
        reasons = launch(jobs)
    except Exception as error:
        return _after_loss(jobs, launch, error)
    failures = {}
    for job, reason in zip(jobs, reasons, strict=True):
        if job.depends_on in failures:
            continue
        if reason is None and not job.done:
            reason = _own_reason(job) or "it ended without a result"
        if reason is not None:
            failures[job.folder] = fail(job.folder, reason)
    return failures


def _after_loss(jobs: Sequence[Job], launch: Launch, error: Exception) -> dict[Path, str]:
    """The launcher lost a job and gave up: wait for running jobs, mark killed ones as failed, launch the others again.

    Where several were killed together, one of them may have pulled down the rest: each gets another try, alone.
    """
    while any(is_held(job.folder) for job in jobs):
        time.sleep(_POLL_SECONDS)
    lost = [job for job in jobs if not job.done]
    killed = [job for job in lost if _was_killed(job)]
    failed = [job for job in lost if job not in killed and _own_reason(job)]
    waiting = [job for job in lost if job not in killed and job not in failed]
    if waiting == list(jobs):
        raise error
    failures = {job.folder: fail(job.folder, _own_reason(job) or "") for job in failed}
    if len(killed) == 1:
        failures[killed[0].folder] = fail(killed[0].folder, _own_reason(killed[0]) or "")
    else:
        for job in killed:
            failures |= _complete([job], launch)
    return failures | (_complete(waiting, launch) if waiting else {})


def _was_killed(job: Job) -> bool:
    """Whether its status is running although no process is."""
    status = written_status(job.folder)
    return status is not None and status.state == RUNNING and not is_held(job.folder)


def _own_reason(job: Job) -> str | None:
    """Why it failed, from its status or from the lack of one."""
    status = read_status(job.folder)
    return None if status is None or status.state == DONE else status.reason
