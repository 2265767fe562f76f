"""What a user sees of a running sweep: a line for each model and cell when it ends, and on a terminal the progress of the others.

It looks at their folders only, so it is the same for jobs of this process, of other processes, and of other machines.
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

from diffusion_lab.store import RunError, read_json
from diffusion_lab.store.measures import SECONDS, read_measures
from diffusion_lab.store.status import FAILED, INTERRUPTED, RUNNING, written_status
from diffusion_lab.sweeps.plan import Work

_POLL_SECONDS = 0.5


@contextmanager
def watching(all_work: Sequence[Work], console: Console) -> Iterator[Watch]:
    """Report on models and cells while the block runs."""
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    # The jobs of this process write elsewhere; the bar must not catch their output back.
    bars = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    watch = Watch(all_work, console, bars)
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
    """Watches folders and prints once for each how it ended."""

    def __init__(self, all_work: Sequence[Work], console: Console, bars: Progress) -> None:
        self._waiting, self._num_of = list(all_work), Counter(work.what for work in all_work)
        self._reported: Counter[str] = Counter()
        self._console, self._bars = console, bars
        self._tasks: dict[Path, TaskID] = {}

    def update(self, last: bool = False) -> None:
        """Report all that has ended since the last update; move the bars of those that run.

        One that was killed has not ended before that is written down, because it may get another try, and one that was
        interrupted may be put back in its queue.
        """
        ends = (FAILED, INTERRUPTED) if last else (FAILED,)
        for work in list(self._waiting):
            status = written_status(work.folder)
            if work.done:
                self._report(work, result_line(work))
            elif status is not None and status.state == RUNNING:
                self._move(work, status.step or 0, status.steps)
            elif status is not None and status.state in ends:
                self._report(work, f"{status.state}: {status.reason}")

    def _report(self, work: Work, how: str) -> None:
        self._waiting.remove(work)
        self._reported[work.what] += 1
        if work.folder in self._tasks:
            self._bars.remove_task(self._tasks.pop(work.folder))
        number, of = self._reported[work.what], self._num_of[work.what]
        place = f"{work.what} {number:>{len(str(of))}} of {of}"
        self._console.print(Text(f"{place}  {work.label}  → {how}"), soft_wrap=True)

    def _move(self, work: Work, step: int, steps: int | None) -> None:
        if work.folder not in self._tasks:
            self._tasks[work.folder] = self._bars.add_task(work.label)
        self._bars.update(self._tasks[work.folder], completed=step, total=steps)


def result_line(work: Work) -> str:
    """A result in one line: of a model its training, of a cell its main measures."""
    try:
        result = read_json(work.result)
    except RunError as error:
        return str(error)
    values = result.get("values")
    if values is None:
        return f"trained, {result['steps']} steps in {result['seconds']:.0f} s"
    main = [m for m in read_measures(result) if m.name in values and (m.headline or m.name == SECONDS)]
    return "  ".join(f"{m.label} {values[m.name]:.{m.decimals}f}" for m in main)
