"""What can be measured of a trained diffusion model, at each log SNR, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffusion_lab.diffusion import (
    Analytic,
    DataMoments,
    Decoder,
    NetworkStatistics,
    SampleNoise,
    ScheduleAdvice,
    Spacing,
    StepCosts,
    Variance,
    WithHead,
    advise,
    chain_bounds,
    derive_seed,
    dimension_statistics,
    last_step_bits,
    network_statistics,
    possible_ends,
    step_costs,
)
from diffusion_lab.diffusion.bits import in_bits
from diffusion_lab.diffusion.samplers import full, last
from diffusion_lab.diffusion.spacings import whole_times
from diffusion_lab.diffusion.streams import BOUND, START, STATISTICS
from diffusion_lab.models.base import Denoised
from diffusion_lab.models.drawn import DrawnDiffusion

_MOST_NUMBERS = 2**25  # T·D of statistics by dimension: 256 MiB
_NOISIEST, _CLEANEST = -8.0, 8.0  # log SNRs beyond which a chain neither gains nor loses anything that is seen


class MeasuredDiffusion(DrawnDiffusion):
    """A diffusion model that draws, and has a decoder."""

    decoder: Decoder
    _measured: tuple[NetworkStatistics, Tensor]  # with its last steps, once these were measured

    def log_snrs(self, count: int) -> list[float]:
        clean, noisy = self.process.log_snr(torch.tensor([1, self.process.num_timesteps])).tolist()
        return torch.linspace(min(clean, _CLEANEST), max(noisy, _NOISIEST), count, dtype=torch.float64).tolist()

    def redraw(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, log_snr: float) -> Tensor:
        noise, time = SampleNoise(seed, indices), self._time(log_snr)
        visited = self.sampler.spacing(self.process)
        chain = self.process.respace(torch.cat([visited[visited < time], time]))
        t = chain.num_timesteps
        x_t = chain.q_sample(x_0, chain.step(t, x_0), noise.fork(START)(t, x_0))
        return self._finished(last(self.sampler.walk(chain, self.guided, x_t, y, noise)))

    def denoise(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, log_snr: float) -> Denoised:
        chain = self.process.respace(self._time(log_snr))
        row, noise = chain.numbers(1), SampleNoise(derive_seed(seed, STATISTICS), indices)
        x_t = row.signal * x_0 + row.noise * noise.initial(self.shape).to(x_0)
        known = self._network_labels(y)
        return Denoised(x_t, row.signal, row.noise, self.reverse(chain, x_t, full(1, x_t), known).x_0, known)

    def _time(self, log_snr: float) -> Tensor:
        """(1,), of the step with this log SNR, or nearest to it."""
        return self.process.times_at(torch.tensor([log_snr], dtype=torch.float64))

    def measure(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """Of the full chain, unguided; given the class, with y."""
        noise = _first_draw(seed, indices)
        return network_statistics(self.process, self.reverse, x_0, self._network_labels(y), noise)

    def measure_dimensions(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor) -> dict[str, Tensor]:
        size = self.process.num_timesteps * x_0[0].numel()
        if size > _MOST_NUMBERS:
            raise ValueError(
                f"variance=analytic_diagonal would store {size:,} numbers for this model; use variance=analytic"
            )
        return dimension_statistics(
            self.process, self.reverse, x_0, self._network_labels(y), _first_draw(seed, indices)
        )

    @property
    def needs_last_steps(self) -> bool:
        return self.sampler.spacing.needs_costs

    @property
    def needs_data_moments(self) -> bool:
        return self.start.needs_data_moments

    def use_data_moments(self, moments: DataMoments) -> None:
        self.start = self.start.measured(moments)

    def measure_last_steps(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor) -> dict[str, Tensor]:
        noise, known = _first_draw(seed, indices), self._network_labels(y)
        return {"bits": last_step_bits(self.process, self.reverse, x_0, known, noise, self.decoder, self.num_levels)}

    def use_measured(
        self, statistics: NetworkStatistics, last_steps: Tensor | None, variance: Callable[..., Variance] | None
    ) -> None:
        if variance is not None:
            chosen = variance(statistics, outputs_per_channel=self.reverse.variance.outputs_per_channel)
            self.reverse = replace(self.reverse, variance=chosen)
            self.guided = replace(self.guided, reverse=self.reverse)
        if last_steps is not None:
            self._measured = statistics, last_steps
            self.sampler = replace(self.sampler, spacing=self._measured_spacing(self.sampler.spacing))

    def chain_bits(
        self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, spacings: Sequence[Spacing]
    ) -> Tensor:
        process = self.process
        times = [whole_times(process, self._measured_spacing(spacing)(process)) for spacing in spacings]
        noise = SampleNoise(derive_seed(seed, BOUND), indices)
        return chain_bounds(process, self.reverse, x_0, y, times, noise, self.num_levels, self.decoder, self.start)

    def _measured_spacing(self, spacing: Spacing) -> Spacing:
        """For a variance that no table holds, the steps that are best with the optimal one of a table."""
        if not spacing.needs_costs:
            return spacing
        variance = self.reverse.variance
        varies = variance.by_image or variance.needs_dimensions
        return spacing.measured(self._costs(Analytic(self._measured[0]) if varies else variance, steady=True))

    def use_head(self, head: Callable[..., Tensor], variance: Variance) -> None:
        self.reverse = replace(self.reverse, network=WithHead(self.network, head), variance=variance)
        self.guided = replace(self.guided, reverse=self.reverse)

    def advise(self, x_0: Tensor, y: Tensor | None) -> ScheduleAdvice:
        own = self.sampler.spacing(self.process)
        ends = possible_ends(self.process, own)
        chains = [self.process.respace(end[None]) for end in ends]
        prior = torch.stack([in_bits(self.start.kl(chain, x_0, y)).double().mean().cpu() for chain in chains])
        exact, steady = (self._costs(self.reverse.variance, steady) for steady in (False, True))
        return advise(self.process, exact, steady, own, ends, prior)

    def _costs(self, variance: Variance, steady: bool) -> StepCosts:
        """steady: with errors averaged over neighbouring t. L_0 never is: near the data it changes from one t to the next."""
        statistics, last_steps = self._measured
        return step_costs(self.process, statistics.smoothed() if steady else statistics, last_steps, variance)


def _first_draw(seed: int, indices: Tensor) -> SampleNoise:
    """What the variational bound draws first under the seed of statistics, so that tables of them are bounds."""
    return SampleNoise(derive_seed(seed, STATISTICS), indices).fork(0)
