"""Where along the chain does a guidance act? An interval of t, or of log SNR (Kynkäänniemi et al. 2024); everywhere without one."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from diffusion_lab.diffusion.process import GaussianDiffusion
from diffusion_lab.diffusion.shapes import Times
from diffusion_lab.diffusion.waiting import is_on_host

Interval = Sequence[float | int] | None  # [lo, hi]


class Acts(NamedTuple):
    """Where a guidance acts. anywhere: False where it acts on no sample; True also where only a GPU has the answer."""

    anywhere: bool
    where: Bool[Tensor, " b"]


def check_interval(interval: Interval, log_snr_interval: Interval) -> None:
    """ValueError, naming the option, unless at most one of them is given and it is an interval."""
    if interval is not None and log_snr_interval is not None:
        raise ValueError("guidance.interval and guidance.log_snr_interval both set the interval: give one of them")
    if interval is not None and not (len(interval) == 2 and 1 <= interval[0] <= interval[1]):
        raise ValueError(
            f"guidance.interval={list(interval)} must be [lo, hi] with 1 ≤ lo ≤ hi, steps of the full chain"
        )
    if log_snr_interval is not None and not (len(log_snr_interval) == 2 and log_snr_interval[0] <= log_snr_interval[1]):
        raise ValueError(
            f"guidance.log_snr_interval={list(log_snr_interval)}: give [lo, hi] with lo ≤ hi (noise has a low log SNR)"
        )


def acts(process: GaussianDiffusion, t: Times, interval: Interval, log_snr_interval: Interval) -> Acts:
    """Whether t of `process` lies in the interval, both ends included. `interval` counts t of the original chain."""
    place, between = (process.time, interval) if log_snr_interval is None else (process.log_snr, log_snr_interval)
    if between is None:
        return Acts(True, torch.ones_like(t, dtype=torch.bool))
    lo, hi = between
    if process.shared_t is not None:
        anywhere = lo <= float(place(torch.tensor([process.shared_t]))) <= hi
        return Acts(anywhere, torch.full_like(t, anywhere, dtype=torch.bool))
    here = place(t)
    where = (here >= lo) & (here <= hi)
    return Acts(bool(where.any()) if is_on_host(where) else True, where)
