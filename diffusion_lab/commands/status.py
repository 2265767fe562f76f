"""diffusion-lab status: progress of a sweep and of other trainings: queued, running, done or failed, with reasons."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Group
from rich.live import Live

from diffusion_lab.store import RunError, named_sweep
from diffusion_lab.store.places import sweeps_in
from diffusion_lab.sweeps.decide import said_of_sweep
from diffusion_lab.sweeps.slurm import jobs_of
from diffusion_lab.sweeps.watch import JobProgress, is_alive, is_over, job_progress, other_trainings, table
from diffusion_lab.terminal import MOST_LINES, Terminal, and_more

_REFRESH_SECONDS = 2.0
_QUIET_SECONDS = 60.0  # without a process at work, as between two jobs: a sweep that was stopped is not watched longer
_ASK_SECONDS = 15.0  # a cluster's controller is shared by all users


def run(cfg: DictConfig) -> None:
    """Show the table; on a terminal, update it until everything is done or failed, or nothing has been at work for a while."""
    outputs, console = Path(cfg.outputs), Terminal()
    alone = cfg.sweep is None and not sweeps_in(outputs)
    sweep = None if alone else named_sweep(outputs, None if cfg.sweep is None else str(cfg.sweep))
    jobs, asked = {} if sweep is None else jobs_of(sweep), time.monotonic()
    if sweep is not None:
        console.print(f"sweep  {sweep.path}")
        if names := sorted({job.name.partition("_")[0] for job in jobs.values() if job.state}):  # of arrays
            console.print(f"to stop its jobs, which save first: scancel {' '.join(names)}")

    def shown(found: tuple[list[JobProgress], list[JobProgress]]) -> Group:
        decided = [] if sweep is None else said_of_sweep(sweep)
        return Group(table(*found), *([""] if decided else []), *decided[:MOST_LINES], *and_more(len(decided)))

    def progress() -> tuple[list[JobProgress], list[JobProgress]]:
        of_sweep = [] if sweep is None else job_progress(sweep, jobs)
        others = [] if cfg.sweep is not None else other_trainings(outputs, of_sweep, finished=sweep is None)
        return of_sweep, others

    found = progress()
    if not any(found):
        raise RunError(f"there is no training in {outputs}; run `diffusion-lab train` first")
    if not (cfg.watch and console.is_terminal):
        console.print(shown(found), soft_wrap=False)
        return
    alive = time.monotonic()
    with Live(shown(found), console=console, auto_refresh=False) as live:
        while not is_over([*found[0], *found[1]]) and time.monotonic() - alive < _QUIET_SECONDS:
            time.sleep(_REFRESH_SECONDS)
            if sweep is not None and time.monotonic() - asked > _ASK_SECONDS:
                jobs, asked = jobs_of(sweep), time.monotonic()
            found = progress()
            alive = time.monotonic() if is_alive([*found[0], *found[1]], jobs) else alive
            live.update(shown(found), refresh=True)
