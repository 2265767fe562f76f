"""Measurements of a diffusion generator, and generators that use them.

network_means, dimension_means, last_step_means     (generator, x_0, y, seed, indices) -> statistics, to be averaged over images
with_variance, with_step_costs, with_data_moments   (generator, averages) -> a generator that uses them

x_0 (B, *shape); y: conditions of each, or None. Row i of a statistic depends on (weights, seed, indices[i], x_0[i], y[i]) only,
with indices int64 (B,). Networks are evaluated without guidance; given the class, with y.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffusion_lab.analysis import (
    Analytic,
    NetworkStatistics,
    ScheduleAdvice,
    StepCosts,
    advise,
    chain_bounds,
    dimension_statistics,
    last_step_bits,
    network_statistics,
    possible_ends,
    step_costs,
)
from diffusion_lab.diffusion import DataMoments, SampleNoise, Variance, derive_seed
from diffusion_lab.diffusion.bound import in_bits
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import BOUND, STATISTICS
from diffusion_lab.models.diffusion_generator import DiffusionGenerator, MeasuredSteps
from diffusion_lab.sampling import Spacing
from diffusion_lab.sampling.spacings import whole_times

_MOST_NUMBERS = 2**25  # T·D of statistics by dimension: 256 MiB


# ---- statistics ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def network_means(
    generator: DiffusionGenerator, x_0: Tensor, y: Conditions, seed: int, indices: Tensor
) -> dict[str, Tensor]:
    """Statistics of the network's output and of its error at each t of the full chain: name -> (B, T) float64.

    Of the generator on images x_0 (B, *shape) with conditions y. seed, indices: key the noise of row i by (seed, indices[i]),
    indices int64 (B,).
    """
    known, noise = generator.own_conditions(y), _first_draw(seed, indices)
    return network_statistics(generator.process, generator.reverse, x_0, known, noise)


@torch.no_grad()
def dimension_means(
    generator: DiffusionGenerator, x_0: Tensor, y: Conditions, seed: int, indices: Tensor
) -> dict[str, Tensor]:
    """Statistics of the network's output by dimension: name -> (1, T, *shape) float64, sums over the images.

    Of the generator on images x_0 (B, *shape) with conditions y. seed, indices: key the noise of row i by (seed, indices[i]),
    indices int64 (B,). ValueError if there are too many.
    """
    size = generator.process.num_timesteps * x_0[0].numel()
    if size > _MOST_NUMBERS:
        raise ValueError(
            f"variance=analytic_diagonal would store {size:,} numbers for this model; use variance=analytic"
        )
    known, noise = generator.own_conditions(y), _first_draw(seed, indices)
    return dimension_statistics(generator.process, generator.reverse, x_0, known, noise)


@torch.no_grad()
def last_step_means(
    generator: DiffusionGenerator, x_0: Tensor, y: Conditions, seed: int, indices: Tensor
) -> dict[str, Tensor]:
    """L_0 with the generator's decoder: "bits" (B, F, G), see `last_step_bits`.

    Of images x_0 (B, *shape) with conditions y. seed, indices: key the noise of row i by (seed, indices[i]), indices int64 (B,).
    """
    known, noise = generator.own_conditions(y), _first_draw(seed, indices)
    process, reverse, decoder = generator.process, generator.reverse, generator.decoder
    return {"bits": last_step_bits(process, reverse, x_0, known, noise, decoder, generator.num_levels)}


@torch.no_grad()
def chain_bits(
    generator: DiffusionGenerator,
    x_0: Tensor,
    y: Conditions,
    seed: int,
    indices: Tensor,
    spacings: Sequence[Spacing],
) -> Tensor:
    """Bounds of the generator's unguided ancestral chain over the whole steps of each of `spacings`: (B, C), bits per dimension.

    Of images x_0 (B, *shape) with conditions y. seed, indices: key the noise of row i by (seed, indices[i]), indices int64 (B,).
    The noise is that of `likelihood`. Spacings that need costs require measured steps.
    """
    process = generator.process
    times = [whole_times(process, _with_costs(generator, spacing)(process)) for spacing in spacings]
    noise = SampleNoise(derive_seed(seed, BOUND), indices)
    levels, decoder, start = generator.num_levels, generator.decoder, generator.start
    return chain_bounds(process, generator.reverse, x_0, y, times, noise, levels, decoder, start)


@torch.no_grad()
def schedule_advice(generator: DiffusionGenerator, x_0: Tensor, y: Conditions) -> ScheduleAdvice:
    """The steps, their number and their ends with the lowest bound on the images x_0 of the measurement.

    Requires measured steps. ValueError, in one sentence, for a variance that is not a function of t.
    """
    process = generator.process
    own = generator.sampler.spacing(process)
    ends = possible_ends(process, own)
    chains = [process.respace(end[None]) for end in ends]
    prior = torch.stack([in_bits(generator.start.kl(chain, x_0, y)).double().mean().cpu() for chain in chains])
    exact, steady = (_costs(generator, generator.reverse.variance, steady) for steady in (False, True))
    return advise(process, exact, steady, own, ends, prior)


# ---- generators with them --------------------------------------------------------------------------------------------


def with_data_moments(generator: DiffusionGenerator, moments: DataMoments) -> DiffusionGenerator:
    """The generator whose start has the mean and covariance of the data."""
    return replace(generator, start=generator.start.measured(moments))


def with_variance(
    generator: DiffusionGenerator, statistics: NetworkStatistics, variance: Callable[..., Variance]
) -> DiffusionGenerator:
    """The generator with a variance that is a function of these statistics and of outputs_per_channel, the network's."""
    outputs = generator.reverse.variance.outputs_per_channel
    chosen = variance(statistics, outputs_per_channel=outputs)
    return replace(generator, reverse=replace(generator.reverse, variance=chosen))


def with_step_costs(
    generator: DiffusionGenerator, statistics: NetworkStatistics, last_steps: Tensor
) -> DiffusionGenerator:
    """The generator with measured steps, and with the spacing that these costs determine, if its spacing needs them."""
    measured = replace(generator, steps=MeasuredSteps(statistics, last_steps))
    spacing = _with_costs(measured, measured.sampler.spacing)
    return replace(measured, sampler=replace(measured.sampler, spacing=spacing))


def _with_costs(generator: DiffusionGenerator, spacing: Spacing) -> Spacing:
    """The spacing with its costs. For a variance that is not a function of t, the costs are those of the optimal one that is."""
    if not spacing.needs_costs:
        return spacing
    assert generator.steps is not None
    variance = generator.reverse.variance
    of_t = Analytic(generator.steps.statistics) if variance.varies else variance
    return spacing.measured(_costs(generator, of_t, steady=True))


def _costs(generator: DiffusionGenerator, variance: Variance, steady: bool) -> StepCosts:
    """The costs of the steps.

    steady: average errors over neighbouring t, except L_0, which near the data changes from one t to the next.
    """
    assert generator.steps is not None
    statistics, last_steps = generator.steps
    return step_costs(generator.process, statistics.smoothed() if steady else statistics, last_steps, variance)


def _first_draw(seed: int, indices: Tensor) -> SampleNoise:
    """The first draw of the variational bound with the seed of statistics, so that tables of them are bounds."""
    return SampleNoise(derive_seed(seed, STATISTICS), indices).fork(0)
