"""A trained diffusion model: samples, latents of images, statistics of the network, and the bound."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lab.analysis import (
    Analytic,
    NetworkStatistics,
    ScheduleAdvice,
    StepCosts,
    WithHead,
    advise,
    chain_bounds,
    dimension_statistics,
    last_step_bits,
    network_statistics,
    possible_ends,
    step_costs,
)
from diffusion_lab.diffusion import (
    Bound,
    DataMoments,
    Decoder,
    GaussianDiffusion,
    ReverseProcess,
    SampleNoise,
    Start,
    Variance,
    derive_seed,
)
from diffusion_lab.diffusion.bound import in_bits
from diffusion_lab.diffusion.parts import classes_in, parts
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import BOUND, START, STATISTICS
from diffusion_lab.models.base import GenerativeModel, Likelihood
from diffusion_lab.networks.flops import count_flops
from diffusion_lab.sampling import DDIMSampler, EvenSpacing, GuidedReverse, Rounding, Sampler, Spacing
from diffusion_lab.sampling.sampler import last
from diffusion_lab.sampling.spacings import whole_times

_MOST_LATENT_STEPS = 50  # between an image and its latent
_MOST_NUMBERS = 2**25  # T·D of statistics by dimension: 256 MiB
_NOISIEST, _CLEANEST = -8.0, 8.0  # log SNRs beyond which steps have no visible effect
_RECONSTRUCTED = 0.0  # log SNR of a reconstruction: equal noise and signal


class Denoised(NamedTuple):
    """x_t = signal·x_0 + noise·ε, and x̂_0, both shaped like x_0. y: the conditions given to the network, or None."""

    x_t: Tensor
    signal: float
    noise: float
    x_0: Tensor
    y: Conditions


class DrawnDiffusion(GenerativeModel):
    """A diffusion model: process, reverse process (also guided), sampler, start, rounding and decoder."""

    reverse: ReverseProcess
    guided: GuidedReverse
    sampler: Sampler
    start: Start
    rounding: Rounding
    decoder: Decoder
    _measured: tuple[NetworkStatistics, Tensor]  # with its last steps, once these were measured

    @property
    @abstractmethod
    def process(self) -> GaussianDiffusion:
        """q(x_t|x_0)."""

    @property
    def denoiser(self) -> DrawnDiffusion:
        return self

    def sample(self, indices: Tensor, seed: int, y: Conditions = None, x_T: Tensor | None = None) -> Tensor:
        """x_T: (B, *shape), starts of the samples in place of noise."""
        return self._finished(last(self._walk(indices, seed, y, x_T)))

    def _finished(self, x_0: Tensor) -> Tensor:
        return self.rounding(self.reverse.clipping.in_range(x_0))  # a classifier may push the last mean out of range

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

    def own_conditions(self, y: Conditions) -> Conditions:
        """y, if the network uses it; the classes of a guiding classifier are not the network's."""
        return None if self.reverse.null is None else y

    @property
    def _deterministic(self) -> DDIMSampler:
        """A sampler for pictures of latents, which are not scored: with few steps, even if the model's sampler has many."""
        own = self.sampler.spacing
        few = len(own(self.process)) <= _MOST_LATENT_STEPS
        return DDIMSampler(own if few else EvenSpacing(_MOST_LATENT_STEPS))

    def trajectory(
        self, indices: Tensor, seed: int, y: Conditions = None, x_T: Tensor | None = None
    ) -> Iterator[Tensor]:
        """x_T, …, x_0 of the samples of `sample`."""
        for _, x_t in self._walk(indices, seed, y, x_T):
            yield x_t

    def _walk(self, indices: Tensor, seed: int, y: Conditions, x_T: Tensor | None) -> Iterator[tuple[float, Tensor]]:
        noise, chain = SampleNoise(seed, indices), self._chain
        x_T = self.start.draw(chain, noise.initial(self.shape), y) if x_T is None else x_T
        return self.sampler.walk(chain, self.guided, x_T, y, noise)

    @property
    def nfe(self) -> int:
        """Network evaluations of the sampler, with both branches of guidance, without gradients of a guiding classifier."""
        return sum(self.guided.guidance.evaluations(chain, t) for chain, t in self.sampler.evaluated_at(self._chain))

    def sampling_flops(self) -> int:
        """Operations of all networks that the sampler evaluates, including guiding ones and a variance head.

        Counted at one t with guidance and at one without.
        """
        by_guidance = dict[bool, list[tuple[GaussianDiffusion, int]]]()
        for chain, t in self.sampler.evaluated_at(self._chain):
            by_guidance.setdefault(self.guided.guidance.acts_at(chain, t), []).append((chain, t))
        x_t = torch.zeros(1, *self.shape, device=self.device)
        y = self.conditions_in_turn(torch.zeros(1, dtype=torch.int64, device=self.device))
        return sum(
            len(alike) * count_flops(partial(self.guided.at_step(chain, t), chain, x_t, chain.full(t, x_t), y))
            for alike in by_guidance.values()
            for chain, t in alike[:1]
        )

    @property
    def _chain(self) -> GaussianDiffusion:
        """The chain of the sampler."""
        return self.process.respace(self.sampler.spacing(self.process))

    def log_snrs(self, count: int) -> list[float]:
        """`count` log SNRs of the chain, evenly spaced from its clean end to its noisy one."""
        clean, noisy = self.process.log_snr(torch.tensor([1, self.process.num_timesteps])).tolist()
        return torch.linspace(min(clean, _CLEANEST), max(noisy, _NOISIEST), count, dtype=torch.float64).tolist()

    def redraw(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, log_snr: float) -> Tensor:
        """Images noised to a log SNR, and sampled from there."""
        noise, time = SampleNoise(seed, indices), self._time(log_snr)
        visited = self.sampler.spacing(self.process)
        chain = self.process.respace(torch.cat([visited[visited < time], time]))
        t = chain.num_timesteps
        x_t = chain.q_sample(x_0, chain.full(t, x_0), noise.fork(START)(t, x_0))
        return self._finished(last(self.sampler.walk(chain, self.guided, x_t, y, noise)))

    def denoise(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, log_snr: float) -> Denoised:
        """Images noised to a log SNR, and their estimates from one unguided network evaluation."""
        chain = self.process.respace(self._time(log_snr))
        row, noise = chain.numbers(1), SampleNoise(derive_seed(seed, STATISTICS), indices)
        x_t = row.signal * x_0 + row.sigma * noise.initial(self.shape).to(x_0)
        known = self.own_conditions(y)
        return Denoised(x_t, row.signal, row.sigma, self.reverse(chain, x_t, chain.full(1, x_t), known).x_0, known)

    def _time(self, log_snr: float) -> Tensor:
        """The time, (1,), with this log SNR, or the nearest."""
        return self.process.times_at(torch.tensor([log_snr], dtype=torch.float64))

    def measure(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """Statistics of the network for choices of scoring: name -> (B, T) float64, to be averaged over images.

        For the full chain, unguided; given the class, with y. Row i depends only on (weights, seed, indices[i], x_0[i], y[i]).
        """
        noise = _first_draw(seed, indices)
        return network_statistics(self.process, self.reverse, x_0, self.own_conditions(y), noise)

    def measure_dimensions(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """Like `measure`, by dimension: name -> (1, T, *shape) float64, sums over the images. ValueError if they are too
        many."""
        size = self.process.num_timesteps * x_0[0].numel()
        if size > _MOST_NUMBERS:
            raise ValueError(
                f"variance=analytic_diagonal would store {size:,} numbers for this model; use variance=analytic"
            )
        return dimension_statistics(self.process, self.reverse, x_0, self.own_conditions(y), _first_draw(seed, indices))

    def use_data_moments(self, moments: DataMoments) -> None:
        """Use these moments for sampling and scoring from now on."""
        self.start = self.start.measured(moments)

    def measure_last_steps(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """Like `measure`, for the decoder: "bits" (B, F, G), see `last_step_bits`."""
        noise, known = _first_draw(seed, indices), self.own_conditions(y)
        return {"bits": last_step_bits(self.process, self.reverse, x_0, known, noise, self.decoder, self.num_levels)}

    def use_measured(
        self, statistics: NetworkStatistics, last_steps: Tensor | None, variance: Callable[..., Variance] | None
    ) -> None:
        """Use measurements of the current weights for sampling and scoring from now on.

        statistics, last_steps: means of the results of `measure` and, if needed, `measure_last_steps`. variance: a function of the
        statistics and of outputs_per_channel, the network's; None: the variance is unchanged.
        """
        if variance is not None:
            chosen = variance(statistics, outputs_per_channel=self.reverse.variance.outputs_per_channel)
            self.reverse = replace(self.reverse, variance=chosen)
            self.guided = replace(self.guided, reverse=self.reverse)
        if last_steps is not None:
            self._measured = statistics, last_steps
            self.sampler = replace(self.sampler, spacing=self._measured_spacing(self.sampler.spacing))

    def chain_bits(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, spacings: Sequence[Spacing]) -> Tensor:
        """Bounds of the unguided ancestral chain over the whole steps of each spacing, by image: (B, C), bits per dimension.

        With the noise of `likelihood`. Spacings that need costs require measured last steps.
        """
        process = self.process
        times = [whole_times(process, self._measured_spacing(spacing)(process)) for spacing in spacings]
        noise = SampleNoise(derive_seed(seed, BOUND), indices)
        return chain_bounds(process, self.reverse, x_0, y, times, noise, self.num_levels, self.decoder, self.start)

    def _measured_spacing(self, spacing: Spacing) -> Spacing:
        """For a variance that is not a function of t, the steps that are best for the optimal one that is."""
        if not spacing.needs_costs:
            return spacing
        variance = self.reverse.variance
        return spacing.measured(self._costs(Analytic(self._measured[0]) if variance.varies else variance, steady=True))

    def use_head(self, head: Callable[..., Tensor], variance: Variance) -> None:
        """Use the variance of a head for sampling and scoring from now on: (image and output, timesteps) -> v."""
        self.reverse = replace(self.reverse, network=WithHead(self.network, head), variance=variance)
        self.guided = replace(self.guided, reverse=self.reverse)

    def advise(self, x_0: Tensor, y: Conditions) -> ScheduleAdvice:
        """The steps, their number and their ends with the lowest bound on the images x_0 of the measurement.

        Requires measured last steps. ValueError, in one sentence, for a variance that is not a function of t.
        """
        own = self.sampler.spacing(self.process)
        ends = possible_ends(self.process, own)
        chains = [self.process.respace(end[None]) for end in ends]
        prior = torch.stack([in_bits(self.start.kl(chain, x_0, y)).double().mean().cpu() for chain in chains])
        exact, steady = (self._costs(self.reverse.variance, steady) for steady in (False, True))
        return advise(self.process, exact, steady, own, ends, prior)

    def _costs(self, variance: Variance, steady: bool) -> StepCosts:
        """steady: average errors over neighbouring t, except L_0, which near the data changes from one t to the next."""
        statistics, last_steps = self._measured
        return step_costs(self.process, statistics.smoothed() if steady else statistics, last_steps, variance)


def _first_draw(seed: int, indices: Tensor) -> SampleNoise:
    """The first draw of the variational bound with the seed of statistics, so that tables of them are bounds."""
    return SampleNoise(derive_seed(seed, STATISTICS), indices).fork(0)


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
    """The chain of a bound, in words. own: it is the sampler's."""
    alone = classes_in(y) is not None and len(parts(y)) == 1
    given = "" if y is None else " given the class" if alone else " given the conditions"
    num_steps = chain.num_timesteps
    if not own:
        return f"bound of {num_steps} ancestral steps even in log SNR{given}; this sampler has no bound of its own"
    kind = "bound of the full chain" if num_steps == chain.schedule.num_timesteps else "bound of a strided chain"
    return kind + given + (", guided" if guided else "")
