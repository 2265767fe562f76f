"""A trained diffusion model that draws: samples, latents of images, and the bound.

Samples come from the chain of the *sampler*, process.respace(sampler.spacing(process)), and so does the likelihood if the sampler
draws from p_θ(x_s|x_t). Measurements of its network are in `measured`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion_lab.analysis import NetworkStatistics
from diffusion_lab.diffusion import (
    Bound,
    Decoder,
    GaussianDecoder,
    GaussianDiffusion,
    NoiseStart,
    ReverseProcess,
    SampleNoise,
    Start,
    derive_seed,
    variational_bound,
)
from diffusion_lab.diffusion.condition_parts import classes_in, parts
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import BOUND, START, STATISTICS
from diffusion_lab.models.generator import Generator, Likelihood
from diffusion_lab.networks.flops import NetworkCost, count_flops, network_cost
from diffusion_lab.sampling import (
    DDIMSampler,
    EvenSpacing,
    Guidance,
    GuidedReverse,
    LogSNRSpacing,
    NearestLevel,
    Rounding,
    Sampler,
    Unguided,
)
from diffusion_lab.sampling.sampler import last

_MOST_LATENT_STEPS = 50  # between an image and its latent
_NOISIEST, _CLEANEST = -8.0, 8.0  # log SNRs beyond which steps have no visible effect
_RECONSTRUCTED = 0.0  # log SNR of a reconstruction: equal noise and signal


class Denoised(NamedTuple):
    """x_t = signal·x_0 + sigma·ε, and x̂_0, both shaped like x_0. y: the conditions given to the network, or None."""

    x_t: Tensor
    signal: float
    sigma: float
    x_0: Tensor
    y: Conditions


class MeasuredSteps(NamedTuple):
    """Means of statistics of the network and of the bits of its last step, from which the costs of all steps follow."""

    statistics: NetworkStatistics
    last_steps: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionGenerator(Generator):
    """q(x_t|x_0), p_θ(x_s|x_t), and the choices of sampling and of the bound.

    process: q, the full chain. reverse: p_θ; its network has the chosen weights. sampler: spacing and step rule. guidance: around
    `reverse`, for samples and for their bound. start: the distribution of x_T. rounding: of the last x̂_0.
    decoder: p(x_0|x_1) of the bound. bound_steps: steps of the bound for a sampler without its own, or T if that is fewer.
    steps: measurements for metrics and spacings that need the costs of steps; None if not measured.
    """

    process: GaussianDiffusion
    reverse: ReverseProcess
    sampler: Sampler
    guidance: Guidance = Unguided()  # noqa: RUF009 - frozen
    start: Start = NoiseStart()  # noqa: RUF009 - frozen
    rounding: Rounding = NearestLevel()  # noqa: RUF009 - frozen
    decoder: Decoder = GaussianDecoder()  # noqa: RUF009 - frozen
    bound_steps: int = 50
    steps: MeasuredSteps | None = None

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        trained, network = self.process.schedule.trained, self.reverse.network
        assert isinstance(network, nn.Module)
        return {"network": network} | ({} if trained is None else {"trained_schedule": trained})

    def guiding_weights(self) -> dict[str, Tensor]:
        worse = self.guidance.worse
        network = None if worse is None or worse.reverse is None else worse.reverse.network
        return dict(network.state_dict()) if isinstance(network, nn.Module) else {}

    @cached_property
    def guided(self) -> GuidedReverse:
        """The guided reverse process."""
        return self.guidance.around(self.reverse)

    @cached_property
    def chain(self) -> GaussianDiffusion:
        """The chain of the sampler."""
        return self.process.respace(self.sampler.spacing(self.process))

    # ---- samples -----------------------------------------------------------------------------------------------------

    def sample(self, indices: Tensor, seed: int, y: Conditions = None, x_T: Tensor | None = None) -> Tensor:
        """x_T: (B, *shape), starts of the samples in place of noise."""
        return self._finished(last(self._walk(indices, seed, y, x_T)))

    def trajectory(
        self, indices: Tensor, seed: int, y: Conditions = None, x_T: Tensor | None = None
    ) -> Iterator[Tensor]:
        """x_T, …, x_0 of the samples of `sample`."""
        for _, x_t in self._walk(indices, seed, y, x_T):
            yield x_t

    def _walk(self, indices: Tensor, seed: int, y: Conditions, x_T: Tensor | None) -> Iterator[tuple[float, Tensor]]:
        noise = SampleNoise(seed, indices)
        x_T = self.start.draw(self.chain, noise.initial(self.shape), y) if x_T is None else x_T
        return self.sampler.walk(self.chain, self.guided, x_T, y, noise)

    def _finished(self, x_0: Tensor) -> Tensor:
        return self.rounding(self.reverse.clipping.in_range(x_0))  # a classifier may push the last mean out of range

    def redraw(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, log_snr: float) -> Tensor:
        """Images x_0 (B, *shape) noised to a log SNR, and sampled from there, given y.

        seed, indices: key the noise of row i by (seed, indices[i]), indices int64 (B,). log_snr: the nearest of the chain is used.
        """
        noise, time = SampleNoise(seed, indices), self._time(log_snr)
        visited = self.sampler.spacing(self.process)
        chain = self.process.respace(torch.cat([visited[visited < time], time]))
        t = chain.num_timesteps
        x_t = chain.q_sample(x_0, chain.full(t, x_0), noise.fork(START)(t, x_0))
        return self._finished(last(self.sampler.walk(chain, self.guided, x_t, y, noise)))

    def denoise(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, log_snr: float) -> Denoised:
        """Images x_0 (B, *shape) noised to a log SNR, and their estimates from one unguided network evaluation, given y.

        seed, indices: key the noise of row i by (seed, indices[i]), indices int64 (B,). log_snr: the nearest of the chain is used.
        """
        chain = self.process.respace(self._time(log_snr))
        row, noise = chain.numbers(1), SampleNoise(derive_seed(seed, STATISTICS), indices)
        x_t = row.signal * x_0 + row.sigma * noise.initial(self.shape).to(x_0)
        known = self.own_conditions(y)
        return Denoised(x_t, row.signal, row.sigma, self.reverse(chain, x_t, chain.full(1, x_t), known).x_0, known)

    def _time(self, log_snr: float) -> Tensor:
        """The time, (1,), with this log SNR, or the nearest."""
        return self.process.times_at(torch.tensor([log_snr], dtype=torch.float64))

    def log_snrs(self, count: int) -> list[float]:
        """`count` log SNRs of the chain, evenly spaced from its clean end to its noisy one."""
        clean, noisy = self.process.log_snr(torch.tensor([1, self.process.num_timesteps])).tolist()
        return torch.linspace(min(clean, _CLEANEST), max(noisy, _NOISIEST), count, dtype=torch.float64).tolist()

    def own_conditions(self, y: Conditions) -> Conditions:
        """y, if the network uses it; the classes of a guiding classifier are not the network's."""
        return None if self.reverse.null is None else y

    # ---- latents -----------------------------------------------------------------------------------------------------

    def latents(self, indices: Tensor, seed: int) -> Tensor:
        return SampleNoise(seed, indices).initial(self.shape)

    def decode(self, z: Tensor, y: Conditions = None) -> Tensor:
        """x_T = z -> x_0 by the deterministic sampler, along the model's own steps if they are few enough.

        The inverse of `encode`, therefore also unguided, and only the image is clipped, not each x̂_0.
        """
        x_0 = self._deterministic(self.process, self.reverse.without_clipping(), z, self.own_conditions(y))
        return self.reverse.clipping.in_range(x_0)

    def encode(self, x_0: Tensor, y: Conditions = None) -> Tensor:
        """Unguided and without clipping, so that `decode` recovers x_0 up to an error of first order in the stride."""
        return self._deterministic.encode(self.process, self.reverse.without_clipping(), x_0, self.own_conditions(y))

    def reconstruct(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor) -> Tensor:
        """Samples that start from the image at log SNR 0. (The latent of an untrained network is the scaled image, from which
        it would reconstruct perfectly.)"""
        return self.redraw(x_0, y, seed, indices, _RECONSTRUCTED)

    @property
    def _deterministic(self) -> DDIMSampler:
        """A sampler for pictures of latents, which are not scored: with few steps, even if the model's sampler has many.

        The steps of a flow map's own sampler are too long for its instantaneous velocity.
        """
        own = self.sampler.spacing
        few = not self.sampler.two_times and len(own(self.process)) <= _MOST_LATENT_STEPS
        return DDIMSampler(own if few else EvenSpacing(min(_MOST_LATENT_STEPS, self.process.num_timesteps)))

    # ---- the bound ---------------------------------------------------------------------------------------------------

    @property
    def no_likelihood(self) -> str:
        return "the steps of a flow map have no likelihood; with sampler=ddim it is the bound of its instantaneous velocity"

    def likelihood(
        self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, max_terms: int | None
    ) -> Likelihood | None:
        """The variational bound of the sampler's own chain, with its variance and its guidance; given the class, with y.

        x_0, y, seed, indices, max_terms: as in `Generator.likelihood`.
        For a sampler that does not draw from p_θ(x_s|x_t) it is the bound of `bound_steps` unguided ancestral steps; None for
        that of a flow map.
        """
        if self.sampler.two_times:
            return None
        own = self.sampler.draws_from_reverse_process
        chain = self.chain if own else self._even_chain
        y = y if own else self.own_conditions(y)
        bound = variational_bound(
            chain,
            self.guided if own else self.reverse,
            x_0,
            y,
            num_levels=self.num_levels,
            noise=SampleNoise(derive_seed(seed, BOUND), indices),
            max_terms=max_terms,
            decoder=self.decoder,
            start=self.start if own else NoiseStart(),
        )
        return as_likelihood(bound, chain, bound_kind(own, chain, y, own and self.guidance.guides))

    @property
    def _even_chain(self) -> GaussianDiffusion:
        """Steps even in log SNR, down to −10: the signal that remains below contributes less than 10⁻⁴ bits/dim to L_T."""
        if self.process.num_timesteps == 1:
            return self.process  # its only step may lie below −10
        num_steps = min(self.bound_steps, self.process.num_timesteps)
        return self.process.respace(LogSNRSpacing(num_steps, log_snr_min=-10)(self.process))

    # ---- costs -------------------------------------------------------------------------------------------------------

    @property
    def nfe(self) -> int:
        """Network evaluations of the sampler, with both branches of guidance, without gradients of a guiding classifier."""
        return sum(self.guidance.evaluations(chain, t) for chain, t in self.sampler.evaluated_at(self.chain))

    def cost(self) -> NetworkCost:
        """The cost of one evaluation, with conditions if there are any."""
        index = torch.zeros(1, dtype=torch.int64, device=self.device)
        return network_cost(self.networks["network"], self.shape, self.own_conditions(self.conditions_in_turn(index)))

    def sampling_flops(self) -> int:
        """Operations of all networks that the sampler evaluates, including guiding ones.

        Counted at one t with guidance and at one without.
        """
        by_guidance = dict[bool, list[tuple[GaussianDiffusion, int]]]()
        for chain, t in self.sampler.evaluated_at(self.chain):
            by_guidance.setdefault(self.guidance.acts_at(chain, t), []).append((chain, t))
        x_t = torch.zeros(1, *self.shape, device=self.device)
        y = self.conditions_in_turn(torch.zeros(1, dtype=torch.int64, device=self.device))
        return sum(
            len(alike) * count_flops(partial(self.guided.at_step(chain, t), chain, x_t, chain.full(t, x_t), y))
            for alike in by_guidance.values()
            for chain, t in alike[:1]
        )

    # ---- for the record ----------------------------------------------------------------------------------------------

    def protocol(self) -> dict[str, Any]:
        return {
            "family": "diffusion",
            "schedule": repr(self.process.schedule),
            "prediction": repr(self.reverse.prediction),
            "variance": repr(self.reverse.variance),
            "decoder": repr(self.decoder),
            "sampler": repr(self.sampler),
            "rounding": repr(self.rounding),
            "start": repr(self.start),
            "bound_steps": self.bound_steps,
            "guidance": repr(self.guidance),
            "conditional": self.reverse.null is not None,
            "clip_x_0": repr(self.reverse.clip_x_0),
        }

    def sampling_protocol(self) -> dict[str, Any]:
        unread = {"decoder", "bound_steps"} | (set() if self.sampler.reads_variance else {"variance"})
        return {name: fact for name, fact in self.protocol().items() if name not in unread}


def as_likelihood(bound: Bound, chain: GaussianDiffusion, kind: str) -> Likelihood:
    """−log p ≤ L_T + L_0 + Σ L_{t−1} as a `Likelihood`, for the chain of the bound; kind: its name."""
    ends = bound.weights.cumsum(0)
    return Likelihood(
        bits_per_dim=bound.bits_per_dim,
        kind=kind,
        parts={"prior": bound.prior, "decoder": bound.terms[:, 0], "steps": bound.terms[:, 1:] @ bound.weights[1:]},
        curve={
            # The middle of the run of steps that a term represents, counted in the original chain.
            "t": (chain.timesteps.to(ends.device)[((2 * ends - bound.weights) / 2).long()] + 1).double(),
            "steps": bound.weights,
            "bits_per_dim": bound.terms,
            "x_0_mse": bound.x_0_mse,
            "eps_mse": bound.eps_mse,
        },
    )


def bound_kind(own: bool, chain: GaussianDiffusion, y: Conditions, guided: bool) -> str:
    """A description of the chain of a bound. own: whether it is the sampler's chain."""
    alone = classes_in(y) is not None and len(parts(y)) == 1
    given = "" if y is None else " given the class" if alone else " given the conditions"
    num_steps = chain.num_timesteps
    if not own:
        return f"bound of {num_steps} ancestral steps{given}"
    kind = "bound of the full chain" if num_steps == chain.schedule.num_timesteps else "bound of a strided chain"
    return kind + given + (", guided" if guided else "")
