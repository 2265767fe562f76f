"""diffusion-lab status: progress of a sweep and of other trainings: queued, running, done or failed, with reasons."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig
from rich.live import Live

from diffusion_lab.store import RunError, named_sweep
from diffusion_lab.store.places import outcome_file, sweeps_in
from diffusion_lab.sweeps.jobs import queue_states, submitted, ways_to_stop
from diffusion_lab.sweeps.watch import JobProgress, is_over, job_progress, other_trainings, table
from diffusion_lab.terminal import Terminal

_REFRESH_SECONDS = 2.0
_ASK_SECONDS = 15.0  # seconds; a cluster's controller is shared by all users


def run(cfg: DictConfig) -> None:
    """Show the table; on a terminal, update it until everything is done or failed."""
    outputs, jobs, console = Path(cfg.outputs), Path(cfg.jobs), Terminal()
    alone = cfg.sweep is None and not sweeps_in(outputs)
    sweep = None if alone else named_sweep(outputs, None if cfg.sweep is None else str(cfg.sweep))
    if sweep is not None:
        console.print(f"sweep  {sweep.path}")
        own = [
            name
            for name, job in submitted(jobs).items()
            if Path(job.directory).parent.resolve() == sweep.jobs.resolve()
            and not outcome_file(jobs, name, 0).is_file()
        ]
        for line in ways_to_stop(jobs, own):
            console.print(f"to stop its jobs, which save first: {line}")

    def progress() -> list[JobProgress]:
        of_sweep = [] if sweep is None else job_progress(sweep, in_queue)
        others = [] if cfg.sweep is not None else other_trainings(outputs, of_sweep, finished=sweep is None)
        return [*others, *of_sweep]

    in_queue, queried = queue_states(jobs), time.monotonic()
    found = progress()
    if not found:
        raise RunError(f"there is no training in {outputs}; run `diffusion-lab train` first")
    earlier = {standing.folder: standing.status for standing in found if standing.status is not None}
    if not (cfg.watch and console.is_terminal):
        console.print(table(found, {}), soft_wrap=False)
        return
    with Live(table(found, {}), console=console, auto_refresh=False) as live:
        while not is_over(found):
            time.sleep(_REFRESH_SECONDS)
            if time.monotonic() - queried > _ASK_SECONDS:
                in_queue, queried = queue_states(jobs), time.monotonic()
            found = progress()
            live.update(table(found, earlier), refresh=True)
            for standing in found:
                if standing.status is not None and standing.folder not in earlier:
                    earlier[standing.folder] = standing.status
