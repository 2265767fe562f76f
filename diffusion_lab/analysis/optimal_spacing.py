"""The spacing with the least variational bound."""

from dataclasses import dataclass, replace

import torch

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.shapes import Number
from diffusion_lab.sampling.spacings import Costs, EvenSpacing, Spacing, Visited


@dataclass(frozen=True)
class OptimalSpacing(Spacing):
    """The K of the T steps with the least bound (Watson et al. 2021, by dynamic programming).

    Bits/dim improve, with few steps by much; distances often get worse (Watson et al. 2021; Bao et al. 2022), because the
    bound needs steps near the data, where the bits are, while pictures also need others. The table is that of an unguided chain
    of ancestral steps with the scored variance; other samplers may use its steps as well. Times are always whole.

    costs: measured on the trained network. Without them, as during training, steps are even.
    log_snr_min: end at the step nearest to it; None: at T. `advise` reports whether it pays.
    """

    num_steps: int
    costs: Costs | None = None
    log_snr_min: Number | None = None

    needs_costs = True

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        last = self._last(process)
        even = EvenSpacing(self.num_steps)(last)
        return even if self.costs is None else self.costs.best(self.num_steps, last)

    def _last(self, process: GaussianDiffusion | int) -> int:
        if isinstance(process, int):
            if self.log_snr_min is not None:
                raise ValueError("sampler.spacing.log_snr_min needs the process: call spacing(process), not spacing(T)")
            return process
        if self.log_snr_min is None:
            return process.num_timesteps
        log_snr = process.log_snr(torch.arange(1, process.num_timesteps + 1))
        return int((log_snr - self.log_snr_min).abs().argmin()) + 1

    def measured(self, costs: Costs) -> "OptimalSpacing":
        return replace(self, costs=costs)
