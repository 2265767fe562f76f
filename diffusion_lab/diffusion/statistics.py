"""How large is what the network says, and how wrong, at each t of the chain it was trained on? One pass over images tells.

    E‖ε̂(x_t, t)‖²/D        and        E‖x_0 − x̂_0(x_t, t)‖²/D,        x_t ~ q(x_t|x_0)

The best variances of a step from t to any s < t follow from these alone (`analytic`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from .noise import Noise
from .process import GaussianDiffusion
from .reverse import ReverseStep
from .samplers import full
from .shapes import Images, Labels, PerSample


@dataclass(frozen=True, eq=False)
class NetworkStatistics:
    """Means over images and noise; entry i of a table is at t = i + 1 of the original chain.

    Attributes
    ----------
    eps_square: E‖ε̂‖²/D, float64 (T,).
    x_0_mse: E‖x_0 − x̂_0‖²/D, float64 (T,).
    of: which images they are means over, for the record.
    """

    eps_square: Float64[Tensor, " T"]
    x_0_mse: Float64[Tensor, " T"]
    of: str = ""

    def __repr__(self) -> str:
        return self.of

    def smoothed(self) -> "NetworkStatistics":
        """x_0_mse with its noise averaged out over neighbouring t: for who chooses among t, and would choose the luckiest.

        log x_0_mse, over 2 % of the chain to each side.
        """
        log_mse = smoothed(self.x_0_mse.clamp(min=1e-30).log(), len(self.x_0_mse) // 50)
        return replace(self, x_0_mse=log_mse.exp())


def smoothed(values: Float64[Tensor, "n *rest"], half_width: int) -> Float64[Tensor, "n *rest"]:
    """Averages over neighbours, which weigh less with their distance; as many on each side, so that a line stays a line."""
    i = torch.arange(len(values), dtype=torch.float64)
    width = torch.minimum(i, i.flip(0)).clamp(max=half_width) + 1
    weights = (1 - (i[:, None] - i[None, :]).abs() / width[:, None]).clamp(min=0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights @ values.flatten(1) if values.ndim > 1 else weights @ values).reshape(values.shape)


def network_statistics(
    process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Labels, noise: Noise
) -> dict[str, Float64[Tensor, "b T"]]:
    """`eps_square` and `x_0_mse` of each image at each whole t of a full chain, each t with the noise of its key.

    Their means over images are the tables of `NetworkStatistics`. What ‖ε‖²/D exceeds its expectation by, which is 1, is taken off
    ‖ε̂‖²/D: the mean stays, and varies far less where the network knows the noise well.
    """
    rows = [_at(process, reverse, x_0, y, t, noise(t, x_0)) for t in range(1, process.num_timesteps + 1)]
    eps_square, x_0_mse = (torch.stack(column, dim=1) for column in zip(*rows, strict=True))
    return {"eps_square": eps_square, "x_0_mse": x_0_mse}


@torch.no_grad()
def _at(
    process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Labels, t: int, eps: Images
) -> tuple[PerSample, PerSample]:
    steps = full(t, x_0)
    here = process.at(steps, everywhere=t)
    look = reverse(here, here.q_sample(x_0, steps, eps), steps, y)
    return _mean_square(look.eps) - _mean_square(eps) + 1, _mean_square(x_0 - look.x_0)


def _mean_square(x: Images) -> PerSample:
    return x.double().square().flatten(1).mean(dim=1)
