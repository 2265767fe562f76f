"""What a user sees of a sweep while it runs: one line for each job when it ends, and on a terminal how far the running ones are.

It looks at the jobs' folders only, so it is the same for jobs of this process, of other processes, and of other machines.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from diffusion_lab.measures import SECONDS, read_measures
from diffusion_lab.runs import RunError, read_json
from diffusion_lab.status import FAILED, INTERRUPTED, RUNNING, written_status
from diffusion_lab.sweeps.plan import Job

_POLL_SECONDS = 0.5


@contextmanager
def watching(jobs: Sequence[Job], console: Console) -> Iterator[Watch]:
    """Report on `jobs` while the block runs."""
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    # The jobs of this process write elsewhere; the bar must not catch their output back.
    bars = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    watch = Watch(jobs, console, bars)
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_SECONDS):
            watch.update()

    thread = threading.Thread(target=poll, daemon=True, name="watch")
    with bars if console.is_terminal else nullcontext():
        thread.start()
        try:
            yield watch
        finally:
            stop.set()
            thread.join()
            watch.update(last=True)


class Watch:
    """Watches folders and prints once for each job how it ended."""

    def __init__(self, jobs: Sequence[Job], console: Console, bars: Progress) -> None:
        self._waiting, self._num_jobs = list(jobs), Counter(job.what for job in jobs)
        self._reported: Counter[str] = Counter()
        self._console, self._bars = console, bars
        self._tasks: dict[Path, TaskID] = {}

    def update(self, last: bool = False) -> None:
        """Report every job that has ended since the last update; move the bars of those that run.

        One that was killed has not ended before that is written down, because it may get another try, and one that was
        interrupted may be put back in its queue.
        """
        ends = (FAILED, INTERRUPTED) if last else (FAILED,)
        for job in list(self._waiting):
            status = written_status(job.folder)
            if job.done:
                self._report(job, result_line(job))
            elif status is not None and status.state == RUNNING:
                self._move(job, status.step or 0, status.steps)
            elif status is not None and status.state in ends:
                self._report(job, f"{status.state}: {status.reason}")

    def _report(self, job: Job, how: str) -> None:
        self._waiting.remove(job)
        self._reported[job.what] += 1
        if job.folder in self._tasks:
            self._bars.remove_task(self._tasks.pop(job.folder))
        number, of = self._reported[job.what], self._num_jobs[job.what]
        place = f"{job.what} {number:>{len(str(of))}} of {of}"
        self._console.print(Text(f"{place}  {job.label}  → {how}"), soft_wrap=True)

    def _move(self, job: Job, step: int, steps: int | None) -> None:
        if job.folder not in self._tasks:
            self._tasks[job.folder] = self._bars.add_task(job.label)
        self._bars.update(self._tasks[job.folder], completed=step, total=steps)


def result_line(job: Job) -> str:
    """A result in one line: of a model its training, of a cell its main measures."""
    try:
        result = read_json(job.result)
    except RunError as error:
        return str(error)
    values = result.get("values")
    if values is None:
        return f"trained, {result['steps']} steps in {result['seconds']:.0f} s"
    main = [m for m in read_measures(result) if m.name in values and (m.headline or m.name == SECONDS)]
    return "  ".join(f"{m.label} {values[m.name]:.{m.decimals}f}" for m in main)
