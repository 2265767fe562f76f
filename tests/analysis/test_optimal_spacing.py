from itertools import combinations

import pytest
import torch

from diffusion_lab.analysis import OptimalSpacing
from diffusion_lab.diffusion import CosineSchedule, FixedSmall
from diffusion_lab.sampling import EvenSpacing

from .test_step_costs import Problem


def test_optimal_spacing_may_end_early():
    problem = Problem(CosineSchedule(40))
    costs = problem.costs(FixedSmall())
    end = 14
    spacing = OptimalSpacing(5, log_snr_min=float(problem.process.log_snr(torch.tensor([end])))).measured(costs)
    times = spacing(problem.process)
    assert times[-1] == end
    assert len(times) == 5
    others = [costs.bits(torch.tensor([*inner, end])) for inner in combinations(range(1, end), 4)]
    assert costs.bits(times) <= min(others) + 1e-12
    assert OptimalSpacing(5, log_snr_min=-100)(problem.process)[-1] == 40
    with pytest.raises(ValueError, match="log_snr_min"):
        spacing(40)


def test_steps_are_even_until_something_was_measured():
    """Steps are even until something was measured and are as many as there are."""
    assert torch.equal(OptimalSpacing(7)(50), EvenSpacing(7)(50))
    with pytest.raises(ValueError, match="num_steps=51"):
        OptimalSpacing(51)(50)
    assert "bits/dim" in " ".join(OptimalSpacing.__doc__.lower().split())
