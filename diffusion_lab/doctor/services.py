"""Slurm and Weights & Biases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from diffusion_lab.doctor.finding import LACKS, OK, Finding
from diffusion_lab.sweeps.submitted import ask

_CONTROLLER_SECONDS = 10


def slurm() -> Iterator[Finding]:
    """sbatch, and a controller that answers."""
    if shutil.which("sbatch") is None:
        to_do = "log in to a node of your cluster that has sbatch; without a cluster use hydra/launcher=local"
        yield Finding("Slurm", LACKS, "sbatch is not installed here", to_do)
        return
    partitions = ask("sinfo", "--noheader", "--format=%R", seconds=_CONTROLLER_SECONDS)
    if partitions is None:
        yield Finding(
            "Slurm",
            LACKS,
            "sbatch is installed, but Slurm's controller does not respond",
            "run `scontrol ping`, and show its output to your administrator",
        )
    else:
        yield Finding("Slurm", OK, f"partitions: {', '.join(dict.fromkeys(partitions.split())) or 'none'}")


def weights_and_biases() -> Iterator[Finding]:
    """The package, and a key for an account. The key is not sent anywhere, so it may be an old one."""
    from diffusion_lab.callbacks.tracking import WeightsAndBiases

    before = os.environ.get("WANDB_SILENT")
    os.environ["WANDB_SILENT"] = "true"
    try:
        WeightsAndBiases("diffusion-lab", None)
    except ValueError as error:
        yield Finding("W&B", LACKS, "installed, but you are not logged in", str(error).partition(": ")[2] or str(error))
    else:
        mode = os.environ.get("WANDB_MODE", "online")
        yield Finding("W&B", OK, "installed, with an API key" if mode == "online" else f"installed; WANDB_MODE={mode}")
    finally:
        if before is None:
            del os.environ["WANDB_SILENT"]
        else:
            os.environ["WANDB_SILENT"] = before
