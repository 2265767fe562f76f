"""diffusion-lab status [sweep]: which models and cells are queued, running, done, failed, and why."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live

from diffusion_lab.commands.mistakes import MistakeError
from diffusion_lab.runs import SweepDirectory, newest_sweep, sweep_directory
from diffusion_lab.sweeps.progress import is_over, standings, table

_REFRESH_SECONDS = 2.0


def completed(options: list[str]) -> list[str]:
    """`status NAME` is `status sweep=NAME`."""
    if options and "=" not in options[0] and not options[0].startswith("-"):
        return [f"sweep={options[0]}", *options[1:]]
    return options


def run(cfg: DictConfig) -> None:
    """Show the table, on a terminal until everything is done or failed."""
    sweep = _sweep(cfg.sweep, Path(cfg.outputs))
    console = Console()
    console.print(f"sweep  {sweep.path}", highlight=False, soft_wrap=True)
    found = standings(sweep)
    earlier = {standing.folder: standing.status for standing in found if standing.status is not None}
    if not (cfg.watch and console.is_terminal):
        console.print(table(found, {}))
        return
    with Live(table(found, {}), console=console, auto_refresh=False) as live:
        while not is_over(found):
            time.sleep(_REFRESH_SECONDS)
            found = standings(sweep)
            live.update(table(found, earlier), refresh=True)
            for standing in found:
                if standing.status is not None and standing.folder not in earlier:
                    earlier[standing.folder] = standing.status


def _sweep(named: str | None, outputs: Path) -> SweepDirectory:
    """A folder, the name of one under outputs/sweeps, or the newest."""
    if named is None:
        return newest_sweep(outputs)
    for sweep in (SweepDirectory(Path(named)), sweep_directory(outputs, named)):
        if sweep.sweep.is_file():
            return sweep
    known = sorted(path.parent.name for path in sweep.path.parent.glob("*/sweep.json"))
    there = f"there are {', '.join(known)}" if known else f"there is none in {sweep.path.parent}"
    raise MistakeError(f"sweep={named}: there is no such sweep; {there}")
