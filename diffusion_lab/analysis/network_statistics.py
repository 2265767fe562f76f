"""Moments of the network's prediction and of its error at each t of its training chain, from one pass over images.

    E‖ε̂(x_t, t)‖²/D        and        E‖x_0 − x̂_0(x_t, t)‖²/D,        x_t ~ q(x_t|x_0)

These determine the best variances of a step from t to any s < t (`analytic`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.reverse import ReverseStep
from diffusion_lab.diffusion.shapes import Conditions, Images, PerSample

_NEAREST = 8  # averages over neighbours extend to this share of t, one over the number


@dataclass(frozen=True, eq=False)
class NetworkStatistics:
    """Means over images and noise; entry i of a table is at t = i + 1 of the original chain.

    Attributes
    ----------
    eps_square: E‖ε̂‖²/D, float64 (T,).
    x_0_mse: E‖x_0 − x̂_0‖²/D, float64 (T,).
    eps_square_by_dimension: E ε̂², float64 (T, *shape), where it was measured.
    of: the images averaged over, for the record.
    """

    eps_square: Float64[Tensor, " T"]
    x_0_mse: Float64[Tensor, " T"]
    of: str = ""
    eps_square_by_dimension: Float64[Tensor, "T *shape"] | None = None

    def __repr__(self) -> str:
        return self.of

    def smoothed(self) -> "NetworkStatistics":
        """x_0_mse smoothed over neighbouring t, for choices among t, which would otherwise favour favourable noise.

        log x_0_mse is averaged over 2 % of the chain on each side, at most an eighth of t, because it falls steeply near the data.
        """
        log_mse = smoothed(self.x_0_mse.clamp(min=1e-30).log(), len(self.x_0_mse) // 50)
        return replace(self, x_0_mse=log_mse.exp())


def smoothed(values: Float64[Tensor, " n"], half_width: int) -> Float64[Tensor, " n"]:
    """Averages over neighbours with weights falling with distance, symmetric, so that a line is preserved."""
    i = torch.arange(len(values), dtype=torch.float64)
    width = torch.minimum((i / _NEAREST).floor(), i.flip(0)).clamp(max=half_width) + 1
    weights = (1 - (i[:, None] - i[None, :]).abs() / width[:, None]).clamp(min=0)
    return weights @ values / weights.sum(dim=1)


def network_statistics(
    process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Conditions, noise: Noise
) -> dict[str, Float64[Tensor, "b T"]]:
    """`eps_square` and `x_0_mse` of each image at each whole t of a full chain, with the noise keyed by t.

    process: a full chain. reverse: the unguided reverse process. x_0: (B, *shape). y: conditions, or None.
    Their means over images are the tables of `NetworkStatistics`. The excess of ‖ε‖²/D over its expectation 1 is subtracted
    from ‖ε̂‖²/D: this preserves the mean, and reduces the variance where the network predicts the noise well.
    """
    eps_square, x_0_mse = [], []
    for eps, predicted in _predictions(process, reverse, x_0, y, noise):
        eps_square.append(_mean_square(predicted.eps) - _mean_square(eps) + 1)
        x_0_mse.append(_mean_square(x_0 - predicted.x_0))
    return {"eps_square": torch.stack(eps_square, dim=1), "x_0_mse": torch.stack(x_0_mse, dim=1)}


def dimension_statistics(
    process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Conditions, noise: Noise
) -> dict[str, Float64[Tensor, "1 T *shape"]]:
    """`eps_square_by_dimension` as a sum over images, with the noise and the variance reduction of `network_statistics`.

    process: a full chain. reverse: the unguided reverse process. x_0: (B, *shape). y: conditions, or None.
    """
    predictions = _predictions(process, reverse, x_0, y, noise)
    sums = [(predicted.eps.double().square() - eps.double().square() + 1).sum(dim=0) for eps, predicted in predictions]
    return {"eps_square_by_dimension": torch.stack(sums)[None]}


@torch.no_grad()
def _predictions(
    process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Conditions, noise: Noise
) -> Iterator[tuple[Images, ReverseStep]]:
    """(ε, the reverse step at x_t) for t = 1, 2, …, T."""
    for t in range(1, process.num_timesteps + 1):
        steps, eps = process.full(t, x_0), noise(t, x_0)
        yield eps, reverse(process, process.q_sample(x_0, steps, eps), steps, y)


def _mean_square(x: Images) -> PerSample:
    return x.double().square().flatten(1).mean(dim=1)
