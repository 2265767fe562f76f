"""How fast should the signal decay? A schedule that is trained with the network, by the bound of infinitely many steps.

That bound depends on the ends of log SNR, and between them not on the path (Kingma et al. 2021, VDM, section 5.1). So its gradient
trains the ends; the path is free, and is trained for what does depend on it, the variance of the bound's estimate at random t.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from .real_schedules import LogSNRSchedule, of_log_snr
from .shapes import PerSample, Times


class _Trained(nn.Module):
    """stretch: the logarithm by which each end has moved away from the middle. share: logits of the time spent in each bin."""

    def __init__(self, num_bins: int) -> None:
        super().__init__()
        self.stretch = nn.Parameter(torch.zeros(2))
        self.share = nn.Parameter(torch.zeros(num_bins))


@dataclass(frozen=True)
class LearnedSchedule(LogSNRSchedule):
    """log SNR falls from a learned clean end to a learned noisy end, α_t² + σ_t² = 1 (Kingma et al. 2021, VDM).

    Between the ends lie `num_bins` bins of equal width in log SNR, and log SNR is a straight line in each. Bin k is crossed in a
    share p_k of the time. With t uniform, L_∞ at a t in bin k is f/p_k, f the network's error there, so E[L²] = Σ_k E_k[f²]/p_k
    is least where p_k ∝ √E_k[f²]: more time where more is lost. (VDM has a monotone network in place of the bins.)

    Every pair is that of the parameters as they are now: make the process anew once they have moved.

    Parameters
    ----------
    log_snr_max, log_snr_min: the ends before training. num_bins: as fine as the path can be.
    """

    num_bins: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_bins < 1:
            raise ValueError(f"schedule.num_bins={self.num_bins}: a path has at least one bin")
        object.__setattr__(self, "_trained", _Trained(self.num_bins))

    @property
    def trained(self) -> nn.Module:
        return self._trained

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The log SNR at t = 1 and at t = T, float64, with their gradients."""
        middle, half = (self.log_snr_max + self.log_snr_min) / 2, (self.log_snr_max - self.log_snr_min) / 2
        up, down = self._trained.stretch.double().exp().unbind()
        return middle + half * up, middle - half * down

    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        first, last = (end.to(t.device) for end in self.ends)
        share, edges = self._shares(t)
        elapsed = (t.double() - 1) / max(self.num_timesteps - 1, 1)
        k = _bin(edges, elapsed)
        crossed = (k + (elapsed - edges[k]) / share[k]) / self.num_bins
        return of_log_snr(torch.lerp(first, last, crossed))

    def time_at(self, log_snr: PerSample) -> PerSample:
        first, last = (end.to(log_snr.device) for end in self.ends)
        share, edges = self._shares(log_snr)
        crossed = ((log_snr - first) / (last - first) * self.num_bins).clamp(0, self.num_bins)
        k = crossed.long().clamp(max=self.num_bins - 1)
        return 1 + (self.num_timesteps - 1) * (edges[k] + (crossed - k) * share[k])

    def own_loss(self, t: Times, loss: PerSample) -> PerSample:
        """½·L², as far as it depends on p_k, minus itself: the gradient −½·L²·∇log p_k of E[L²]/2 at fixed log SNR."""
        _, edges = self._shares(t)
        log_share = self._trained.share.double().log_softmax(dim=0).to(t.device)
        wanted = -0.5 * loss.detach().square() * log_share[_bin(edges, (t - 1) / max(self.num_timesteps - 1, 1))]
        return wanted - wanted.detach()

    def _shares(self, like: Tensor) -> tuple[Float64[Tensor, " bins"], Float64[Tensor, " bins_plus_1"]]:
        """p_k, without a gradient, and the share of the time that has passed at the edges of the bins."""
        share = self._trained.share.detach().double().softmax(dim=0).to(like.device)
        return share, torch.cat([torch.zeros_like(share[:1]), share.cumsum(dim=0)])


def _bin(edges: Float64[Tensor, " bins_plus_1"], elapsed: PerSample) -> Tensor:
    return (torch.searchsorted(edges, elapsed.detach().contiguous(), right=True) - 1).clamp(0, len(edges) - 2)
