"""The cost of every stride in bits: a table from which the bound of every chain follows.

    L(t, s) = KL(q(x_s|x_t, x_0) ‖ p_θ(x_s|x_t)) = ½·(β̃/Σ − 1 − log β̃/Σ + (α_s·σ²_ts/σ_t²)²·E‖x_0 − x̂_0‖²/D / Σ)
    L_0(t)  = −log p(x_0|x_t)

(Ho et al. 2020, eq. 5, for a Σ that is the same in all dimensions and for all images; L(t, s) then depends on the network only by
the error of x̂_0.) Sums of these are bounds, and dynamic programming finds the best chain with a given number of steps (Watson et
al. 2021, "Learning to Efficiently Sample from Diffusion Probabilistic Models").
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffusion_lab.diffusion.bound import in_bits, last_term
from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.decoders import Decoder
from diffusion_lab.diffusion.gaussian import Gaussian
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.reverse import ReverseStep
from diffusion_lab.diffusion.shapes import Conditions, Images, PerSample, Steps
from diffusion_lab.diffusion.variances import Variance
from diffusion_lab.sampling.spacings import Costs

from .network_statistics import NetworkStatistics

_NODES = 24  # values of log Σ at which L_0 is measured; a polynomial interpolates them, to about 1e-6 bits
_RANGE = 8.0  # of log Σ, at least
_EVERY, _RATIO = 32, 1.05  # first steps of chains: every t up to the first number, then a ladder with this ratio


@dataclass(frozen=True, eq=False)
class StepCosts(Costs):
    """Bits/dim of every step of every chain over whole t, without L_T, which chains ending at T share.

    Attributes
    ----------
    steps: L(t, s) at [t, s], float64 (T + 1, T + 1); ∞ for impossible steps.
    last_steps: L_0 at [t, i] of a chain with first step first[i] and second step t, (T + 1, F): fixed variances take the
        width of the last step from the one before. first: int64 (F,), the possible first steps of a chain.
    alone: L_0 of the chain whose only step is T.
    of: the images of the table, for the record.
    """

    steps: Float64[Tensor, "t s"]
    last_steps: Float64[Tensor, "t f"]
    first: Int64[Tensor, " f"]
    alone: float
    of: str = ""
    _least: list[Tensor] = field(default_factory=list, init=False)  # by number of steps, from 2
    _before: list[Tensor] = field(default_factory=list, init=False)  # the previous step of the best chain to each t

    def __repr__(self) -> str:
        return self.of

    def bits(self, times: Int64[Tensor, " K"]) -> float:
        """L_0 + Σ L(t_k, t_{k−1}) of the chain over `times`; if the first t is not in `first`, L_0 is that of the nearest."""
        if len(times) == 1:
            return self.alone
        where = int((self.first - times[0]).abs().argmin())
        return float(self.last_steps[times[1], where] + self.steps[times[1:], times[:-1]].sum())

    def least(self, num_steps: int) -> Float64[Tensor, " t"]:
        """Bits of the cheapest chain with this many steps to each t, (T + 1,); ∞ if there is none, and for one step before T."""
        if num_steps == 1:
            return torch.full((len(self.steps),), math.inf, dtype=torch.float64).index_fill(
                0, torch.tensor([len(self.steps) - 1]), self.alone
            )
        while len(self._least) < num_steps - 1:
            if self._least:
                least, before = (self._least[-1][None, :] + self.steps).min(dim=1)
            else:
                least, choice = (self.last_steps + self.steps[:, self.first]).min(dim=1)
                before = self.first[choice]
            self._least.append(least)
            self._before.append(before)
        return self._least[num_steps - 2]

    def best(self, num_steps: int, last: int | None = None) -> Int64[Tensor, " K"]:
        """The `num_steps` times with the least sum, ending at T or at `last`."""
        times = [len(self.steps) - 1 if last is None else last]
        if num_steps > 1:
            self.least(num_steps)
            for before in reversed(self._before[: num_steps - 1]):
                times.append(int(before[times[-1]]))
        return torch.tensor(times[::-1])


def first_steps(num_timesteps: int) -> Int64[Tensor, " f"]:
    """The t at which L_0 is measured, including T: all near the data, and fewer where L_0 changes slowly."""
    found = [*range(1, min(_EVERY, num_timesteps) + 1)]
    while found[-1] < num_timesteps:
        found.append(min(math.ceil(found[-1] * _RATIO), num_timesteps))
    return torch.tensor(found)


@torch.no_grad()
def last_step_bits(
    process: GaussianDiffusion,
    reverse: Callable[..., ReverseStep],
    x_0: Images,
    y: Conditions,
    noise: Noise,
    decoder: Decoder,
    num_levels: int | None,
) -> Float64[Tensor, "b f g"]:
    """L_0 of each image, in bits/dim, at each t of `first_steps` and each log Σ of its nodes, with the noise keyed by t.

    process: a full chain. reverse: the unguided reverse process. x_0: (B, *shape). y: conditions, or None.
    decoder: p(x_0|x_t). num_levels: of the data; None: a density.
    """
    first, ones = first_steps(process.num_timesteps), process.full(1, x_0)

    def bits(chain: GaussianDiffusion, x_t: Images, mean: Images, node: float) -> PerSample:
        last = Gaussian(mean, torch.full_like(mean[(slice(None), *[slice(1)] * (mean.ndim - 1))], node))
        return last_term(chain, last, x_0, x_t, num_levels, decoder)

    columns = []
    for t, nodes in zip(first.tolist(), _nodes(process, first).tolist(), strict=True):
        chain = process.respace(torch.tensor([t]))
        x_t = chain.q_sample(x_0, ones, noise(t, x_0))
        mean = reverse(chain, x_t, ones, y).distribution.mean
        row = [bits(chain, x_t, mean, node) for node in (nodes if decoder.reads_reverse else nodes[:1])]
        columns.append(torch.stack(row, dim=1).expand(-1, len(nodes)))
    return torch.stack(columns, dim=1)


def step_costs(
    process: GaussianDiffusion, statistics: NetworkStatistics, last_steps: Float64[Tensor, "f g"], variance: Variance
) -> StepCosts:
    """The table of a full chain with this variance. last_steps: the mean of `last_step_bits` over images.

    ValueError for a variance that differs between images or dimensions.
    """
    if variance.varies:
        raise ValueError(
            f"{type(variance).__name__} differs between images or dimensions, but a table of all strides holds one variance for "
            "all; use variance=analytic"
        )
    last = process.num_timesteps
    first = first_steps(last)
    nodes = _nodes(process, first)
    steps = torch.full((last + 1, last + 1), math.inf, dtype=torch.float64)
    first_two = torch.full((last + 1, len(first)), math.inf, dtype=torch.float64)
    for t in range(2, last + 1):
        s = torch.arange(1, t)
        chains = _two_steps(process, s, torch.full_like(s, t))
        steps[t, 1:t] = _kl(chains, _log_variance(variance, chains, 2, t - 1), float(statistics.x_0_mse[t - 1]))
        some = int((first < t).sum())
        at_last = _log_variance(variance, chains, 1, t - 1)[first[:some] - 1]
        first_two[t, :some] = _interpolated(last_steps[:some], nodes[:some], at_last)
    only = process.respace(torch.tensor([last]))
    alone = _interpolated(last_steps[-1:], nodes[-1:], _log_variance(variance, only, 1, 1))
    return StepCosts(steps, first_two, first, float(alone), f"bits of {variance} on {statistics}")


def _two_steps(process: GaussianDiffusion, s: Steps, t: Steps) -> GaussianDiffusion:
    """B chains, one per sample: step 2 of chain b goes from t_b to s_b ≥ 1, and step 1 from s_b to clean data."""
    return GaussianDiffusion(process.schedule, process.times[torch.stack([s, t], dim=1) - 1])


def _kl(chains: GaussianDiffusion, log_variance: PerSample, x_0_mse: float) -> PerSample:
    """L(t, s) of step 2 of each chain."""
    two = torch.full((len(log_variance),), 2)
    of_x_0 = chains.signal(two - 1) * chains.beta(two) / chains.sigma(two).square()
    log_ratio = chains.log_beta_tilde(two) - log_variance
    distance = of_x_0.square() * x_0_mse * torch.exp(-log_variance)
    return in_bits(0.5 * (torch.expm1(log_ratio) - log_ratio + distance))


def _log_variance(variance: Variance, process: GaussianDiffusion, step: int, size: int) -> PerSample:
    """log Σ of one step of each of these chains."""
    x_t = torch.zeros(size, 1, dtype=torch.float64)
    return variance.log_variance(process, x_t, process.full(step, x_t), None).expand_as(x_t)[:, 0]


def _nodes(process: GaussianDiffusion, t: Int64[Tensor, " f"]) -> Float64[Tensor, "f g"]:
    """Chebyshev extrema over the possible log Σ of a last step from t, (F, G), decreasing."""
    variance = process.sigma(t).square()
    high = torch.minimum(variance / process.signal(t).square(), variance.clamp(min=1)).log()
    low = high - _RANGE
    inner = t < process.num_timesteps
    narrowest = _two_steps(process, t[inner], t[inner] + 1).log_beta_tilde(torch.full_like(t[inner], 2))
    low[inner] = torch.minimum(low[inner], narrowest)
    angle = torch.arange(_NODES, dtype=torch.float64) * math.pi / (_NODES - 1)
    return low[:, None] + (high - low)[:, None] * (1 + angle.cos()) / 2


def _interpolated(
    values: Float64[Tensor, "f g"], nodes: Float64[Tensor, "f g"], at: Float64[Tensor, " f"]
) -> Float64[Tensor, " f"]:
    """Barycentric interpolation between Chebyshev extrema; below them the nearest value.

    Above the nodes, where measured variances of unbounded data may lie, the values are extrapolated by a + b·log Σ + c/Σ, the
    form of a Gaussian's log density, through three nodes.
    """
    inside = at.clamp(nodes[:, -1], nodes[:, 0])
    weights = (-1.0) ** torch.arange(nodes.shape[1])
    weights[[0, -1]] /= 2
    distance = inside[:, None] - nodes
    hit = distance == 0
    terms = torch.where(hit.any(dim=1, keepdim=True), hit.double(), weights / torch.where(hit, 1.0, distance))
    found = (terms * values).sum(dim=1) / terms.sum(dim=1)
    above = at > nodes[:, 0]
    if not above.any():
        return found
    few = slice(0, nodes.shape[1], nodes.shape[1] // 3)
    log_width = nodes[:, few] - nodes[:, :1]  # 0 at the widest node
    shape = torch.stack([torch.ones_like(log_width), log_width, torch.exp(-log_width)], dim=2)
    a, b, c = torch.linalg.solve(shape, values[:, few]).unbind(dim=1)
    beyond = at - nodes[:, 0]
    return torch.where(above, a + b * beyond + c * torch.exp(-beyond), found)
