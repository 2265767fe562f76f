"""Step rules of first order: ancestral sampling, DDIM, DDIM with the noise that follows from Σ_θ (analytic DDIM); flow maps.

Each takes x_t to x_s, s the step before t in the chain, with one evaluation of the reverse process.
"""

from dataclasses import dataclass

import torch

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.shapes import Conditions, Images

from .sampler import Evaluation, Sampler, Walk


@dataclass(frozen=True)
class AncestralSampler(Sampler):
    """x_s = μ_θ(x_t, t) + √Σ_θ·z, z = 0 in the last step (Ho et al. 2020, algorithm 2).

    With fewer steps than T this is strided sampling (Nichol & Dhariwal 2021, section 4). The last step returns μ̃_1 = x̂_0.
    """

    draws_from_reverse_process = True

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        return walk.predict(x_t, t).distribution.sample(walk.noise(t, x_t))


@dataclass(frozen=True)
class DDIMSampler(Sampler):
    """x_s = α_s·x̂_0 + √(σ_s² − η²·β̃_t)·ε̂ + η·√β̃_t·z (Song et al. 2020, DDIM, eq. 12 and 16).

    η = 0 is deterministic; η = 1 is ancestral sampling with β̃ at any stride. The last step returns x̂_0. Σ_θ is not used.
    """

    reads_variance = False
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta = {self.eta} must lie between 0 (deterministic) and 1 (the noise of ancestral sampling)"
            )

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        predicted, at, to = walk.predict(x_t, t), walk.at(t), walk.at(t - 1)
        # The variance of the noise that is added; the rest of σ_s² keeps the direction of ε̂.
        new = self.eta**2 * at.beta_tilde
        x_s = to.signal * predicted.x_0 + max(to.sigma**2 - new, 0) ** 0.5 * predicted.eps
        return x_s + new**0.5 * walk.noise(t, x_t) if self.eta > 0 else x_s

    def encode(self, process: GaussianDiffusion, reverse: Evaluation, x_0: Images, y: Conditions = None) -> Images:
        """x_0 -> x_T, the deterministic map reversed (Song et al. 2020, DDIM, section 4.3 and eq. 14).

            x_t = α_ts·x_s + (σ_t − α_ts·σ_s)·ε̂(x_s, t)

        ε̂ is taken at x_s but with the numbers of t, because the network has no input for s = 0. So decoding recovers x_0 up to an
        error of first order in the stride. Use a reverse process without clipping; η must be 0.
        """
        if self.eta != 0:
            raise ValueError(f"eta = {self.eta}: only the deterministic sampler, eta = 0, can encode")
        chain = process.respace(self.spacing(process))
        x = x_0
        for t in range(1, chain.num_timesteps + 1):
            here, before = chain.numbers(t), chain.numbers(t - 1)
            eps = reverse(chain, x, chain.full(t, x), y).eps
            x = here.alpha_ts * x + (here.sigma - here.alpha_ts * before.sigma) * eps
        return x / chain.prior_std


@dataclass(frozen=True)
class AnalyticDDIMSampler(DDIMSampler):
    """x_s of DDIM with additional noise from the uncertainty of x_0 under Σ_θ (Bao et al. 2022, "Analytic-DPM", theorem 1).

        λ² = η²·β̃_t,  Var = (Σ_θ − β̃_t)/(α_s·σ²_ts/σ_t²)²,  σ² = λ² + (α_s − √(σ_s² − λ²)·α_t/σ_t)²·Var

    Any Σ_θ is possible: with β̃_t this is DDIM, and with η = 1 ancestral sampling. The last step returns x̂_0.
    """

    reads_variance = True

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        predicted, at, to = walk.predict(x_t, t), walk.at(t), walk.at(t - 1)
        new = self.eta**2 * at.beta_tilde  # λ²
        towards_eps = max(to.sigma**2 - new, 0) ** 0.5
        x_s = to.signal * predicted.x_0 + towards_eps * predicted.eps
        if t == 1:
            return x_s
        log_beta_tilde = torch.full_like(predicted.distribution.log_variance, at.log_beta_tilde)
        excess = at.beta_tilde * torch.expm1(predicted.distribution.log_variance - log_beta_tilde).clamp(min=0)
        of_x_0 = to.signal - towards_eps * at.signal / at.sigma
        return x_s + (new + (of_x_0 / at.of_x_0) ** 2 * excess).sqrt() * walk.noise(t, x_t)

    def encode(self, process: GaussianDiffusion, reverse: Evaluation, x_0: Images, y: Conditions = None) -> Images:
        """Raises ValueError, because this map is not deterministic for any η."""
        raise ValueError("only the deterministic sampler, sampler=ddim with eta = 0, can encode")


@dataclass(frozen=True)
class FlowMapSampler(Sampler):
    """x_s = X(x_t, t, s) by a network of two times: α_s·x̂_0 + σ_s·ε̂ of the chord (`flow_maps`, eq. 5), one evaluation a step.

    The last step goes to the clean end and returns x̂_0.

    restarts: x_s = α_s·X(x_t, t, clean end) + σ_s·z, with new noise (Song et al. 2023, consistency models, algorithm 1): each step
    removes errors of the ones before it, and adds its own.
    """

    reads_variance = False
    two_times = True
    restarts: bool = False

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        to = walk.at(t - 1)
        predicted = walk.predict_chord(x_t, t, 0 if self.restarts else t - 1)
        return to.signal * predicted.x_0 + to.sigma * (walk.noise(t, x_t) if self.restarts else predicted.eps)
