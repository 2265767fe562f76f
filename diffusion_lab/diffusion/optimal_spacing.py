"""Which steps is the bound least for?"""

from dataclasses import dataclass, field, replace

from .process import GaussianDiffusion
from .spacings import EvenSpacing, Spacing, Visited
from .step_costs import StepCosts


@dataclass(frozen=True)
class OptimalSpacing(Spacing):
    """Of all chains of K of the T steps the one with the least bound (Watson et al. 2021, by dynamic programming).

    Bits/dim get better, with few steps by much; distances need not, and often get worse (Watson et al. 2021; Bao et al. 2022): the
    bound wants its steps where the bits are, near the data, and the eye not only there. The table is that of an unguided chain of
    ancestral steps with the variance that is scored; another sampler may visit its steps all the same. A real t is never one of
    them.

    costs: measured of the trained network. Until then, while the network trains, steps are even.
    """

    num_steps: int
    costs: StepCosts | None = field(default=None)

    needs_costs = True

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        even = EvenSpacing(self.num_steps)(process)
        return even if self.costs is None else self.costs.best(self.num_steps)

    def measured(self, costs: StepCosts) -> "OptimalSpacing":
        return replace(self, costs=costs)
