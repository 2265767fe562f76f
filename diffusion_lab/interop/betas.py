"""β_1 … β_T of somebody else's chain as a schedule of ours: by its formula where one gives them, else as a table."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.diffusion import CosineSchedule, LinearSchedule, Schedule, SigmoidSchedule
from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.imported import MOST_STEPS, written

LEAST_SIGNAL = 2.0**-24  # ᾱ_T in place of 0, where there is no log SNR: diffusers' DPM-Solver puts it there too
_SAME = 1e-3  # of a log SNR; a β that was rounded to float32 moves it by less


def schedule_options(betas: Tensor, prediction: str, where: Path) -> list[str]:
    """Overrides for a schedule with these β, float64 (T,). CheckpointError, in one sentence, where there is none.

    prediction: our name of what the network predicts. An ᾱ_T of 0 becomes 2⁻²⁴, which a prediction of ε cannot be used at.
    """
    if not 2 <= len(betas) <= MOST_STEPS:
        raise CheckpointError(f"checkpoint={where}: a chain of {len(betas)} steps; 2 to {MOST_STEPS} are supported")
    betas = _without_zero(betas, prediction, where)
    if not bool(((betas > 0) & (betas < 1)).all()):
        t = int(((betas > 0) & (betas < 1)).logical_not().nonzero()[0]) + 1
        raise CheckpointError(f"checkpoint={where}: β_{t} = {float(betas[t - 1]):.4g} must lie above 0 and below 1")
    own = torch.cumprod(1 - betas, dim=0)
    if not bool(own[-1] > 0):
        raise CheckpointError(f"checkpoint={where}: no signal at all is left at the end of this chain")
    num_timesteps = f"schedule.num_timesteps={len(betas)}"
    for name, schedule, options in _named(betas):
        if bool((_log_snr(schedule.alpha_bar()[1:]) - _log_snr(own)).abs().max() < _SAME):
            return [f"schedule={name}", num_timesteps, "schedule.log_snr_max=null", *options]
    return ["schedule=table", num_timesteps, f"schedule.betas={written(betas.tolist())}"]


def _without_zero(betas: Tensor, prediction: str, where: Path) -> Tensor:
    before = torch.cumprod(1 - betas, dim=0)[-2]
    if betas[-1] != 1 or not before > LEAST_SIGNAL:
        return betas
    if prediction == "noise":
        raise CheckpointError(
            f"checkpoint={where}: its chain ends without any signal (zero terminal SNR), where a network that predicts ε says "
            "nothing about the image; only v_prediction and sample can be imported with it"
        )
    return torch.cat([betas[:-1], 1 - LEAST_SIGNAL / before[None]])


def _named(betas: Tensor) -> list[tuple[str, Schedule, list[str]]]:
    """Schedules with a formula that might have these β: name, schedule, options beside the number of steps."""
    steps = len(betas)
    start, end = (float(f"{float(beta) * steps / 1000:.7g}") for beta in (betas[0], betas[-1]))
    found: list[tuple[str, Schedule, list[str]]] = [
        ("cosine", CosineSchedule(steps), []),
        ("sigmoid", SigmoidSchedule(steps), []),
    ]
    if start <= end and end * 1000 / steps < 1:
        options = [f"schedule.beta_start={start!r}", f"schedule.beta_end={end!r}"]
        found.insert(0, ("linear", LinearSchedule(steps, beta_start=start, beta_end=end), options))
    return found


def _log_snr(alpha_bar: Tensor) -> Tensor:
    return alpha_bar.log() - (-alpha_bar).log1p()
