"""A schedule trained with the network by the bound of infinitely many steps.

The bound depends on the ends of log SNR but, for a network whose input is log SNR, not on the path between them (Kingma et al.
2021, VDM, section 5.1). So its gradient trains the ends; the path is free, and is trained to reduce the variance of
the bound's estimate at random t.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from .continuous_schedules import LogSNRSchedule, of_log_snr
from .shapes import PerSample, Times

_UNIFORM = 0.01  # this share of the time is divided evenly, so that every bin has some


class _Trained(nn.Module):
    """stretch: the log of the factor by which each end has moved away from the middle. share: logits of each bin's share of time.

    first_std: a stored σ_1/α_1 that avoids reading the parameters, for uses that need no exact value; else None.
    """

    first_std: float | None = None

    def __init__(self, num_bins: int) -> None:
        super().__init__()
        self.stretch = nn.Parameter(torch.zeros(2))
        self.share = nn.Parameter(torch.zeros(num_bins))


@dataclass(frozen=True)
class LearnedSchedule(LogSNRSchedule):
    """log SNR falls from a learned clean end to a learned noisy end, α_t² + σ_t² = 1 (Kingma et al. 2021, VDM).

    Between the ends lie `num_bins` bins of equal width in log SNR, and log SNR is a straight line in each. Bin k is crossed in a
    share p_k of the time. With t uniform, L_∞ at a t in bin k is f/p_k, f the network's error there, so E[L²] = Σ_k E_k[f²]/p_k
    is least for p_k ∝ √E_k[f²]: more time where the loss is large. (VDM has a monotone network instead of the bins.)

    The network's input is log SNR, on a clock that equals t − 1 before training.

    Pairs always follow the current parameters: build the process again after they change. `repr` and equality are
    those of the schedule before training.

    Parameters
    ----------
    log_snr_max, log_snr_min: the ends before training. num_bins: the resolution of the path.
    """

    num_bins: int = 32
    _trained: _Trained = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.num_bins, int) or self.num_bins < 1:
            raise ValueError(f"schedule.num_bins={self.num_bins} must be a whole number of at least 1")
        object.__setattr__(self, "_trained", _Trained(self.num_bins))

    @property
    def trained(self) -> _Trained:
        return self._trained

    @property
    def first_std(self) -> float:
        known = self._trained.first_std
        return super().first_std if known is None else known

    def keep_first_std(self) -> None:
        self._trained.first_std = super().first_std

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The log SNR at t = 1 and at t = T, float64, with gradients."""
        middle, half = (self.log_snr_max + self.log_snr_min) / 2, (self.log_snr_max - self.log_snr_min) / 2
        up, down = self._trained.stretch.double().exp().unbind()
        return middle + half * up, middle - half * down

    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        return of_log_snr(self._log_snr(t))

    def time_at(self, log_snr: PerSample) -> PerSample:
        first, last = (end.to(log_snr.device) for end in self.ends)
        share, edges = self._shares(log_snr)
        crossed = ((log_snr - first) / (last - first) * self.num_bins).clamp(0, self.num_bins)
        k = crossed.detach().long().clamp(max=self.num_bins - 1)
        return 1 + (self.num_timesteps - 1) * (edges[k] + (crossed - k) * share[k])

    def network_time(self, t: Times) -> PerSample:
        """The t − 1 at which the line before training has this log SNR; outside [0, T − 1] if an end has moved outwards."""
        return self._where(self._log_snr(t), self.log_snr_max, self.log_snr_min) - 1

    def own_loss(self, t: Times, loss: PerSample) -> PerSample:
        """The part of ½·L² that depends on p_k, minus itself: the gradient −½·L²·∇log p_k of E[L²]/2 at fixed log SNR."""
        _, edges = self._shares(t)
        wanted = -0.5 * loss.detach().square() * self._share().log().to(t.device)[_bin(edges, self._elapsed(t))]
        return wanted - wanted.detach()

    def _log_snr(self, t: Times) -> PerSample:
        first, last = (end.to(t.device) for end in self.ends)
        share, edges = self._shares(t)
        elapsed = self._elapsed(t)
        k = _bin(edges, elapsed)
        crossed = (k + (elapsed - edges[k]) / share[k]) / self.num_bins
        return torch.lerp(first, last, crossed.clamp(0, 1))

    def _elapsed(self, t: Times) -> PerSample:
        """The share of the time that has passed at t; 1 if T = 1."""
        return self._between(t, 0, 1)

    def _share(self) -> Float64[Tensor, " bins"]:
        """p_k."""
        return (1 - _UNIFORM) * self._trained.share.double().softmax(dim=0) + _UNIFORM / self.num_bins

    def _shares(self, like: Tensor) -> tuple[Float64[Tensor, " bins"], Float64[Tensor, " bins_plus_1"]]:
        """p_k without a gradient, and the share of the time that has passed at the edges of the bins."""
        share = self._share().detach().to(like.device)
        return share, torch.cat([torch.zeros_like(share[:1]), share.cumsum(dim=0)])


def _bin(edges: Float64[Tensor, " bins_plus_1"], elapsed: PerSample) -> Tensor:
    return (torch.searchsorted(edges, elapsed.detach().contiguous(), right=True) - 1).clamp(0, len(edges) - 2)
