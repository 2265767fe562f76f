"""diffusion-lab cancel: end the jobs of a sweep.

The jobs save first; the same `train -m` command resumes them.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from diffusion_lab.commands.status import completed
from diffusion_lab.store import named_sweep
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.places import outcome_file
from diffusion_lab.sweeps.jobs import cancel, submitted
from diffusion_lab.terminal import Terminal

__all__ = ["completed", "run"]


def run(cfg: DictConfig) -> None:
    """Cancel the jobs of this sweep and print them; a command waiting for the sweep submits no more."""
    sweep = named_sweep(Path(cfg.outputs), None if cfg.sweep is None else str(cfg.sweep))
    folder, logs = Path(cfg.jobs), sweep.jobs.resolve()
    own = {
        name: job
        for name, job in submitted(folder).items()
        if Path(job.directory).parent.resolve() == logs and not outcome_file(folder, name, rank=0).is_file()
    }
    console = Terminal()
    console.print(f"sweep  {sweep.path}")
    write_whole(sweep.cancelled, b"")
    ended = cancel(folder, own)
    for name in ended:
        console.print(f"cancelled  {name}  {Path(own[name].directory).name}")
    if not ended:
        console.print("this sweep has no jobs in a queue")
