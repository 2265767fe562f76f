"""The variational bound on the bits of an image, term by term (Ho et al. 2020, eq. 5):

    −log p_θ(x_0) ≤ L_T + Σ_{t=2}^{T} L_{t−1} + L_0
        L_T     = KL(q(x_T|x_0) ‖ p(x_T))                          no parameters
        L_{t−1} = E_q KL(q(x_{t−1}|x_t, x_0) ‖ p_θ(x_{t−1}|x_t))    two Gaussians: closed form
        L_0     = E_q[−log p(x_0|x_1)]                             a decoder: a mass over levels, or a density

All in bits per dimension; p(x_T) is a start, N(0, prior_std²·I) by default. For a respaced process this is the bound of the
strided chain, whose L_0 belongs to that chain's first step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .chain import GaussianDiffusion
from .decoders import GAUSSIAN, Decoder
from .forward import Value
from .gaussian import Gaussian
from .noise import SampleNoise, fresh_noise
from .reverse import ReverseStep
from .shapes import Conditions, Images, PerSample, Steps
from .starts import NoiseStart, Start

NOISE = NoiseStart()


def in_bits(nats: Value, num_dims: int = 1) -> Value:
    """Nats of all of num_dims dimensions -> bits per dimension: 1 bit = log 2 nats."""
    return nats / (num_dims * math.log(2))


def in_nats(bits: Value, num_dims: int = 1) -> Value:
    """Bits per dimension -> nats of all of them."""
    return bits * (num_dims * math.log(2))


@dataclass(frozen=True)
class Bound:
    """An unbiased estimate of the bound of each image of a batch, float64, bits per dimension.

    Attributes
    ----------
    prior: L_T, (B,).
    terms: (B, M), L_0 first; column j is L_{t−1} at `t[:, j]`, averaged over noise draws. M = K if every step is visited.
    t: int64 (B, M), the steps visited; 1, 2, …, K if all are.
    weights: float64 (M,), the number of steps that each column represents: 1 if every step is visited.
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
    y: Conditions = None,
    num_levels: int | None = 256,
    num_draws: int = 1,
    noise: SampleNoise | None = None,
    max_terms: int | None = None,
    decoder: Decoder = GAUSSIAN,
    start: Start = NOISE,
) -> Bound:
    """−log₂ p_θ(x_0) ≤ E[bits_per_dim]·D, D the number of dimensions (Ho et al. 2020, eq. 5).

    The expectation is over the noise (and the choice of terms): a single draw estimates the bound and may lie below −log₂ p_θ(x_0).
    Steps are evaluated one at a time, so memory does not grow with T.

    Parameters
    ----------
    num_levels: grey levels of the data, for a mass in L_0; None for a density (continuous data), which may be negative.
    num_draws: noise draws per term; with 2 or more, `standard_error` is known.
    noise: row i of every draw depends on its (seed, indices[i]); by default a fresh seed. Noise is keyed by the original
        t, so chains over subsets of the steps share it.
    max_terms: visit at most this many steps. L_0 is always visited; the others form max_terms − 1 runs of neighbours, and one step
        per run and sample, drawn at random, represents its run: unbiased, and precise because terms vary smoothly with t.
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
    known: Images | None = None,
) -> PerSample:
    """L_{t−1} at one x_t, (B,) bits per dimension: L_0 where t = 1, a KL divergence elsewhere (Ho et al. 2020, eq. 5).

    `distribution` is p_θ(x_{t−1}|x_t). Dimensions where `known` is 0 add nothing.
    """
    first, terms = t == 1, step_term(process, distribution, x_0, x_t, t, known)
    if x_0.is_cpu and not torch.compiler.is_compiling():  # a GPU's host would wait for the number of rows
        rows = first.nonzero().flatten()
        own = Gaussian(distribution.mean[rows], distribution.log_variance.expand_as(x_0)[rows])
        masked = known if known is None else known[rows]
        return terms.index_put((rows,), last_term(process, own, x_0[rows], x_t[rows], num_levels, decoder, masked))
    here = first.reshape(-1, *[1] * (x_0.ndim - 1))
    # Each row has an L_0. Where t > 1 it is computed for a harmless Gaussian and not used.
    mean, log_variance = torch.where(here, distribution.mean, x_0), torch.where(here, distribution.log_variance, 0.0)
    l_0 = last_term(process, Gaussian(mean, log_variance), x_0, torch.where(here, x_t, x_0), num_levels, decoder, known)
    return torch.where(first, l_0, terms)


def step_term(
    process: GaussianDiffusion, distribution: Gaussian, x_0: Images, x_t: Images, t: Steps, known: Images | None = None
) -> PerSample:
    """L_{t−1} = KL(q(x_{t−1}|x_t, x_0) ‖ p_θ(x_{t−1}|x_t)), t ≥ 2."""
    return bits_per_dim(process.q_posterior(x_0, x_t, t).kl(distribution), known)


def last_term(
    process: GaussianDiffusion,
    distribution: Gaussian,
    x_0: Images,
    x_1: Images,
    num_levels: int | None,
    decoder: Decoder = GAUSSIAN,
    known: Images | None = None,
) -> PerSample:
    """L_0 = −log p(x_0|x_1)."""
    return -bits_per_dim(decoder.log_prob(process, distribution, x_0, x_1, num_levels), known)


def bits_per_dim(nats: Images, known: Images | None = None) -> PerSample:
    """Nats of every dimension -> mean over dimensions, in bits, float64 (B,); where `known` is 0 they count as 0."""
    return in_bits((nats if known is None else nats * known).double().flatten(1).mean(dim=1))


def _draw_terms(
    process: GaussianDiffusion,
    reverse: Callable[..., ReverseStep],
    x_0: Images,
    y: Conditions,
    num_levels: int | None,
    noise: SampleNoise,
    max_terms: int | None,
    decoder: Decoder,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(t, weights, terms, x_0_mse, eps_mse) of one noise draw, every step from its own x_t ~ q(x_t|x_0)."""
    t, weights = _visits(process.num_timesteps, max_terms, noise)
    if len(weights) == process.num_timesteps:
        keys: Sequence[int | Tensor] = process.keys
    else:
        keys = torch.tensor(process.keys, device=t.device)[t - 1].unbind(dim=1)
    terms, x_0_mse, eps_mse = [], [], []
    for column, (key, t_j) in enumerate(zip(keys, t.unbind(dim=1), strict=True)):
        eps = noise(key, x_0)
        x_t = process.q_sample(x_0, t_j, eps)
        step = reverse(process, x_t, t_j, y)
        if column == 0:
            terms.append(last_term(process, step.distribution, x_0, x_t, num_levels, decoder))
        else:
            terms.append(step_term(process, step.distribution, x_0, x_t, t_j))
        x_0_mse.append((step.x_0 - x_0).square().double().flatten(1).mean(dim=1))
        eps_mse.append((step.eps - eps).square().double().flatten(1).mean(dim=1))
    return t, weights, torch.stack(terms, 1), torch.stack(x_0_mse, 1), torch.stack(eps_mse, 1)


def _visits(num_timesteps: int, max_terms: int | None, noise: SampleNoise) -> tuple[Tensor, Tensor]:
    """Steps to visit, int64 (B, M), 1 in the first column, and the number of steps that each represents, float64 (M,)."""
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
