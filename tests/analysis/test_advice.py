"""What a table advises comes true: its bounds are those of the chains, and no other chain has a lower one."""

from functools import cache
from itertools import combinations

import pytest
import torch

from diffusion_lab.analysis import advise, possible_ends
from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    NoiseStart,
    RectifiedSchedule,
    variational_bound,
)
from diffusion_lab.diffusion.bound import in_bits
from diffusion_lab.sampling import EvenSpacing, LogSNRSpacing

from .test_step_costs import NOISE, Problem


@cache
def problem_of(num_timesteps):
    return Problem(CosineSchedule(num_timesteps))


def advice_of(problem, variance, own):
    ends = possible_ends(problem.process, own)
    chains = [problem.process.respace(end[None]) for end in ends]
    prior = torch.stack([in_bits(NoiseStart().kl(chain, problem.x_0)).mean() for chain in chains])
    costs = problem.costs(variance)
    return advise(problem.process, costs, costs, own, ends, prior), costs


def bound(problem, variance, times):
    chain = problem.process.respace(times)
    return float(
        variational_bound(chain, problem.reverse(variance), problem.x_0, num_levels=17, noise=NOISE).bits_per_dim.mean()
    )


@pytest.mark.parametrize(
    ("variance", "own"), [(FixedSmall(), EvenSpacing(5)), (FixedLarge(), LogSNRSpacing(6, log_snr_min=-4.0))], ids=str
)
def test_the_predicted_gain_comes_true(variance, own):
    problem = problem_of(40)
    times = own(problem.process)
    advice, _ = advice_of(problem, variance, times)
    assert len(advice.times) == len(times)
    assert advice.beyond == sum(not advice.times[0] <= t <= advice.times[-1] for t in times)
    before, after = bound(problem, variance, times), bound(problem, variance, advice.times)
    assert advice.own == pytest.approx(before, abs=1e-6)
    assert advice.bits == pytest.approx(after, abs=1e-6)
    assert advice.gain == pytest.approx(before - after, abs=2e-6)
    assert advice.gain > 0.001
    assert advice.fewest <= len(times)


def test_no_chain_has_a_lower_bound():
    """No chain has a lower bound and fewer steps do not suffice."""
    problem = Problem(CosineSchedule(8))
    own = EvenSpacing(4)(8)
    ends = torch.arange(1, 9)
    prior = torch.tensor([0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0]).double()
    costs = problem.costs(FixedSmall())
    advice = advise(problem.process, costs, costs, own, ends, prior)

    def least(num_steps):
        if num_steps == 1:
            return costs.alone
        chains = (torch.tensor(chosen) for chosen in combinations(range(1, 9), num_steps))
        return min(costs.bits(times) + float(prior[times[-1] - 1]) for times in chains)

    assert advice.bits == pytest.approx(least(4), abs=1e-12)
    assert advice.fewest == next(k for k in (1, 2, 3, 4) if least(k) <= advice.own)
    assert advice.num_steps == [2, 3, 5, 7]
    assert advice.optimal == pytest.approx([least(k) for k in advice.num_steps], abs=1e-12)
    assert all(a <= b for a, b in zip(advice.optimal, advice.even, strict=True))


def test_it_is_about_as_many_steps_as_there_are_real():
    """It is about as many steps as there are real times and at most t."""
    problem = Problem(RectifiedSchedule(40))
    for num_steps, whole in ((30, 30), (40, 40), (50, 40)):
        advice, _ = advice_of(problem, FixedSmall(), LogSNRSpacing(num_steps)(problem.process))
        assert len(advice.times) == whole


def test_the_best_times_leave_nothing_to_advise():
    problem = Problem(CosineSchedule(30))
    first, _ = advice_of(problem, FixedSmall(), EvenSpacing(6)(30))
    again, _ = advice_of(problem, FixedSmall(), first.times)
    assert again.gain == pytest.approx(0, abs=1e-9)
    assert again.fewest == 6
