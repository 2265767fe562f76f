"""The variance of a reverse step that minimises the bound, from measurements of the trained network.

Among Gaussians with the mean of q(x_s|x_t, x̂_0), the one closest to q(x_s|x_t, x_0) on average has the variance

    σ*² = β̃_t + (α_s·σ²_ts/σ_t²)²·Var,        Var = E‖x_0 − x̂_0‖²/D

(the first summand is the width of q given x_0, the second that of its mean, because x_0 is unknown).
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor, where

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.shapes import Broadcast, Images, Steps
from diffusion_lab.diffusion.variances import Variance

from .network_statistics import NetworkStatistics


@dataclass(frozen=True)
class Analytic(Variance):
    """Σ = σ*² with Var = (σ_t/α_t)²·(1 − E‖ε̂‖²/D), the same in all dimensions and for all images.

    Var has this value if ε̂ is optimal, ε̂ = E[ε|x_t] (Bao et al. 2022, "Analytic-DPM", theorem 1). Their equation is
    σ*² = λ² + (√(β̄_n/α_n) − √(β̄_{n−1} − λ²))²·(1 − β̄_n·Γ_n) with λ² = β̃_n and β̄_n·Γ_n = E‖ε̂‖²/D; theorem 2 gives the bounds
    0 ≤ Var ≤ (σ_t/α_t)², and Var ≤ 1 for data in [−1, 1]. Between whole t, E‖ε̂‖² is interpolated linearly. At the last step,
    s = 0, σ*² is Var itself; if that is 0, it is replaced by the substitute for β̃_1.

    Parameters
    ----------
    statistics: of the model's weights.
    bounded: the data lie in [−1, 1].
    outputs_per_channel: of the network, whose variance part is ignored.
    """

    statistics: NetworkStatistics
    bounded: bool = False
    outputs_per_channel: int = field(default=0, repr=False, kw_only=True)  # after the fields without a default

    def log_variance(self, process: GaussianDiffusion, x_t: Images, t: Steps, v: Images | None) -> Broadcast:
        shape = (-1, *[1] * (x_t.ndim - 1))
        of_x_0 = (process.signal(t - 1) * process.beta(t) / process.sigma(t).square()).reshape(shape)
        unexplained = (1 - self._eps_square(process, x_t, t)).clamp(0, 1)
        spread = (unexplained / process.snr(t).reshape(shape)).clamp(max=1 if self.bounded else None, min=0)
        variance = process.beta_tilde(t).reshape(shape) + of_x_0.square() * spread
        return where(variance > 0, variance.log(), process.log_beta_tilde(t).reshape(shape)).to(x_t.dtype)

    def _eps_square(self, process: GaussianDiffusion, x_t: Images, t: Steps) -> Broadcast:
        """E ε̂² at the time of step t, float64."""
        place = process.time(t).double() - 1
        table = self._table(x_t.ndim).to(place.device)
        low = place.floor().long().clamp(max=len(table) - 1)
        high = (low + 1).clamp(max=len(table) - 1)
        return torch.lerp(table[low], table[high], (place - low).reshape(-1, *[1] * (x_t.ndim - 1)))

    def _table(self, ndim: int) -> Float64[Tensor, "T *shape"]:
        """E ε̂² at each t, broadcasting against x_t with `ndim` axes."""
        return self.statistics.eps_square.reshape(-1, *[1] * (ndim - 1))


@dataclass(frozen=True)
class AnalyticDiagonal(Analytic):
    """Σ = diag(σ*²), in each dimension with Var = (σ_t/α_t)²·(1 − E ε̂²) of that dimension, the same for all images.

    The mean over dimensions of Var is that of `Analytic`, so the bound is lower if dimensions differ. Its statistics are noisier,
    because each dimension is estimated from its own values.
    """

    varies = True

    def _table(self, ndim: int) -> Float64[Tensor, "T *shape"]:
        table = self.statistics.eps_square_by_dimension
        if table is None:
            raise ValueError("AnalyticDiagonal needs statistics by dimension, which were not measured; use Analytic")
        return table
