"""How many bits does a model need for an image? The variational bound, term by term (Ho et al. 2020, eq. 5):

    −log p_θ(x_0) ≤ L_T + Σ_{t=2}^{T} L_{t−1} + L_0
        L_T     = KL(q(x_T|x_0) ‖ p(x_T))                          no parameters
        L_{t−1} = E_q KL(q(x_{t−1}|x_t, x_0) ‖ p_θ(x_{t−1}|x_t))    two Gaussians: closed form
        L_0     = E_q[−log p(x_0|x_1)]                             a decoder: a mass over levels, or a density

All in bits per dimension; p(x_T) is that of a start, N(0, prior_std²·I) by default. Of a respaced process it is the bound of the
strided chain, whose L_0 is that chain's first step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .bits import in_bits
from .decoders import GAUSSIAN, Decoder
from .gaussian import Gaussian
from .noise import SampleNoise, fresh_noise
from .process import GaussianDiffusion
from .reverse import ReverseStep
from .shapes import Images, Labels, PerSample, Steps
from .starts import NoiseStart, Start
from .waiting import is_on_host

NOISE = NoiseStart()


@dataclass(frozen=True)
class Bound:
    """An unbiased estimate of the bound of each image of a batch, float64, bits per dimension.

    Attributes
    ----------
    prior: L_T, (B,).
    terms: (B, M), L_0 first; column j is L_{t−1} at `t[:, j]`, averaged over noise draws. M = K when every step is visited.
    t: int64 (B, M), the steps visited; 1, 2, …, K when every step is.
    weights: float64 (M,), how many steps each column stands for: all 1 when every step is visited.
    standard_error: (B,), of `bits_per_dim` over noise draws; NaN for a single draw.
    x_0_mse, eps_mse: (B, M), mean square error of x̂_0 and ε̂ a dimension.
    """

    prior: PerSample
    terms: Float64[Tensor, "b m"]
    t: Int64[Tensor, "b m"]
    weights: Float64[Tensor, " m"]
    standard_error: PerSample
    x_0_mse: Float64[Tensor, "b m"]
    eps_mse: Float64[Tensor, "b m"]

    @property
    def bits_per_dim(self) -> PerSample:
        """L_T + Σ_j weights_j·terms_j, (B,)."""
        return self.prior + self.terms @ self.weights


@torch.no_grad()
def variational_bound(
    process: GaussianDiffusion,
    reverse: Callable[..., ReverseStep],
    x_0: Images,
    y: Labels = None,
    num_levels: int | None = 256,
    num_draws: int = 1,
    noise: SampleNoise | None = None,
    max_terms: int | None = None,
    decoder: Decoder = GAUSSIAN,
    start: Start = NOISE,
) -> Bound:
    """−log₂ p_θ(x_0) ≤ E[bits_per_dim]·D, D the number of dimensions (Ho et al. 2020, eq. 5).

    The expectation is over the noise (and the choice of terms): a single draw estimates the bound and may lie below −log₂ p_θ(x_0).
    One step at a time: memory does not grow with T.

    Parameters
    ----------
    num_levels: grey levels of the data, for a mass in L_0; None for a density (continuous data), which may be negative.
    num_draws: noise draws a term; with 2 or more, `standard_error` is known.
    noise: row i of every draw depends on its (seed, indices[i]); by default a fresh seed. Each term has the noise of its original
        t, so that chains over some of the steps share it.
    max_terms: visit at most so many steps. L_0 always; the others fall into max_terms − 1 runs of neighbours, one step is drawn
        from each, a sample, and represents its run: unbiased, and the terms' smoothness in t makes it precise.
    decoder: p(x_0|x_1) of L_0. start: p(x_T) of L_T.
    """
    noise = fresh_noise(len(x_0), x_0.device) if noise is None else noise
    columns = [
        _draw_terms(process, reverse, x_0, y, num_levels, noise.fork(draw), max_terms, decoder)
        for draw in range(num_draws)
    ]
    t, weights, terms, x_0_mse, eps_mse = (torch.stack(part) for part in zip(*columns, strict=True))
    totals = (terms * weights[:, None, :]).sum(dim=-1)
    return Bound(
        prior=in_bits(start.kl(process, x_0, y)),
        terms=terms.mean(dim=0),
        t=t[0],
        weights=weights[0],
        standard_error=totals.std(dim=0) / math.sqrt(num_draws)
        if num_draws > 1
        else torch.full_like(totals[0], math.nan),
        x_0_mse=x_0_mse.mean(dim=0),
        eps_mse=eps_mse.mean(dim=0),
    )


def bound_term(
    process: GaussianDiffusion,
    distribution: Gaussian,
    x_0: Images,
    x_t: Images,
    t: Steps,
    num_levels: int | None,
    decoder: Decoder = GAUSSIAN,
) -> PerSample:
    """L_{t−1} at one x_t, (B,) bits per dimension: L_0 where t = 1, a KL divergence elsewhere (Ho et al. 2020, eq. 5).

    `distribution` is p_θ(x_{t−1}|x_t).
    """
    term = bits_per_dim(process.q_posterior(x_0, x_t, t).kl(distribution))
    first = t == 1
    log_variance = distribution.log_variance.expand(len(t), *distribution.log_variance.shape[1:])
    # On a device the host does not know which rows are last steps: every row takes one, most of them an idle one.
    if not is_on_host(t):
        here = first.reshape(-1, *[1] * (x_0.ndim - 1))
        last_step = Gaussian(torch.where(here, distribution.mean, x_0), torch.where(here, log_variance, 0.0))
        x_1, ones = torch.where(here, x_t, x_0), torch.ones_like(t)
        log_prob = decoder.log_prob(process, ones, lambda: last_step, x_0, x_1, num_levels)
        return torch.where(first, -bits_per_dim(log_prob), term)
    (rows,) = torch.nonzero(first, as_tuple=True)
    if len(rows):
        last_step = Gaussian(distribution.mean[rows], log_variance[rows])
        log_prob = decoder.log_prob(process, t[rows], lambda: last_step, x_0[rows], x_t[rows], num_levels)
        term = term.index_put((rows,), -bits_per_dim(log_prob))
    return term


def bits_per_dim(nats: Images) -> PerSample:
    """Nats of every dimension -> mean over dimensions, in bits, float64 (B,)."""
    return in_bits(nats.double().flatten(1).mean(dim=1))


def _draw_terms(
    process: GaussianDiffusion,
    reverse: Callable[..., ReverseStep],
    x_0: Images,
    y: Labels,
    num_levels: int | None,
    noise: SampleNoise,
    max_terms: int | None,
    decoder: Decoder,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(t, weights, terms, x_0_mse, eps_mse) of one noise draw, every step from its own x_t ~ q(x_t|x_0)."""
    t, weights = _visits(process.num_timesteps, max_terms, noise)
    terms, x_0_mse, eps_mse = [], [], []
    keys: Sequence[int | Tensor] = _keys(process, t, every_step=len(weights) == process.num_timesteps)
    for key, t_j in zip(keys, t.unbind(dim=1), strict=True):
        eps, here = noise(key, x_0), process.at(t_j)
        x_t = here.q_sample(x_0, t_j, eps)
        step = reverse(here, x_t, t_j, y)
        terms.append(bound_term(here, step.distribution, x_0, x_t, t_j, num_levels, decoder))
        x_0_mse.append((step.x_0 - x_0).square().double().flatten(1).mean(dim=1))
        eps_mse.append((step.eps - eps).square().double().flatten(1).mean(dim=1))
    return t, weights, torch.stack(terms, 1), torch.stack(x_0_mse, 1), torch.stack(eps_mse, 1)


def _keys(process: GaussianDiffusion, t: Int64[Tensor, "b m"], every_step: bool) -> list[int] | tuple[Tensor, ...]:
    """Of the noise of each column: the original t, or the number of the step where times are real. every_step: every step is
    visited, so that a column has one t."""
    real = process.timesteps.is_floating_point()
    if every_step:
        return list(range(1, process.num_timesteps + 1)) if real else (process.timesteps + 1).tolist()
    return (t if real else process.timesteps.to(t.device)[t - 1] + 1).unbind(dim=1)


def _visits(num_timesteps: int, max_terms: int | None, noise: SampleNoise) -> tuple[Tensor, Tensor]:
    """Steps to visit, int64 (B, M), and how many steps each stands for, float64 (M,)."""
    num_terms = num_timesteps if max_terms is None else min(max_terms, num_timesteps)
    if num_terms < min(2, num_timesteps):
        raise ValueError(
            f"max_terms = {max_terms}: the bound needs L_0 and at least one other term, so use max_terms ≥ 2"
        )
    # Edges of num_terms runs that cover 1 … K: {1}, then runs of nearly equal length.
    edges = torch.linspace(1, num_timesteps, num_terms, dtype=torch.float64).round().long()
    edges = torch.cat([torch.zeros(1, dtype=torch.int64), edges]).to(noise.indices.device)
    lengths = edges.diff()
    uniform = torch.stack([noise.uniform(column + 1) for column in range(num_terms)], dim=1)
    return edges[:-1] + 1 + (uniform * lengths).long(), lengths.double()
