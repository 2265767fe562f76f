"""The variance that was measured is the best one, at every stride."""

import math

import pytest
import torch

from diffusion_lab.analysis import (
    Analytic,
    AnalyticDiagonal,
    NetworkStatistics,
    dimension_statistics,
    network_statistics,
    step_costs,
)
from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    GaussianDiffusion,
    LinearSchedule,
    LogSNRSchedule,
    variational_bound,
)
from diffusion_lab.sampling import EvenSpacing, LogSNRSpacing

from ..diffusion.oracles import (
    OFF_CENTRE,
    GaussianData,
    OptimalVariance,
    SigmaPoints,
    exact_reverse,
    exact_statistics,
    steps,
)


def log_variances(variance, process) -> torch.Tensor:
    x_t = torch.zeros(1, 1, dtype=torch.float64)
    return torch.cat(
        [variance.log_variance(process, x_t, steps(t, 1), None) for t in range(1, process.num_timesteps + 1)]
    )


@pytest.mark.parametrize("data", [OFF_CENTRE, GaussianData(0.0, 0.1), GaussianData(-1.0, 2.0)], ids=str)
@pytest.mark.parametrize(
    "schedule", [LinearSchedule(40), CosineSchedule(40), LogSNRSchedule(40), EDMSchedule(40)], ids=str
)
def test_on_gaussian_data_it_is_the_optimal_variance(schedule, data):
    """On gaussian data it is the optimal variance at every stride."""
    process = GaussianDiffusion(schedule)
    analytic = Analytic(exact_statistics(process, data))
    for num_steps in (1, 2, 7, 40):
        chain = process.respace(EvenSpacing(num_steps)(process))
        expected = log_variances(OptimalVariance(data), chain)
        torch.testing.assert_close(log_variances(analytic, chain), expected, rtol=0, atol=1e-6)


def test_the_equation_of_the_paper_in_its_own_symbols():
    process = GaussianDiffusion(LinearSchedule(100))
    chain, statistics = process.respace(EvenSpacing(9)(process)), exact_statistics(process)
    for t in range(2, 10):
        now, before = steps(t, 1), steps(t - 1, 1)
        beta_bar, beta_bar_before = 1 - chain.alpha_bar(now), 1 - chain.alpha_bar(before)
        alpha, lambda_2 = chain.alpha_bar(now) / chain.alpha_bar(before), chain.beta_tilde(now)
        gamma = statistics.eps_square[chain.timesteps[t - 1]] / beta_bar
        bracket = (beta_bar / alpha).sqrt() - (beta_bar_before - lambda_2).sqrt()
        expected = lambda_2 + bracket.square() * (1 - beta_bar * gamma)
        torch.testing.assert_close(log_variances(Analytic(statistics), chain)[t - 1].exp(), expected)


def test_the_bound_is_the_entropy_for_every_number_of_steps():
    process = GaussianDiffusion(CosineSchedule(100))
    variance = Analytic(exact_statistics(process))
    for num_steps in (1, 3, 100):
        chain = process.respace(EvenSpacing(num_steps)(process))
        bound = variational_bound(
            chain, exact_reverse(process, variance), SigmaPoints.x_0(OFF_CENTRE), num_levels=None, noise=SigmaPoints()
        )
        assert float((bound.bits_per_dim - bound.prior).mean()) == pytest.approx(OFF_CENTRE.entropy_bits, abs=1e-6)


def test_between_whole_t_it_is_a_line():
    process = GaussianDiffusion(LogSNRSchedule(200))
    chain = process.respace(LogSNRSpacing(12)(process))
    assert chain.timesteps.is_floating_point()
    expected = log_variances(OptimalVariance(OFF_CENTRE), chain)
    torch.testing.assert_close(log_variances(Analytic(exact_statistics(process)), chain), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("eps_square", "bound"), [(-0.5, "upper"), (1.5, "lower")])
def test_what_no_network_could_have_said_is_brought(eps_square, bound):
    """What no network could have said is brought within the bounds."""
    process = GaussianDiffusion(CosineSchedule(50))
    chain = process.respace(torch.tensor([10, 40]))
    table = torch.full((50,), eps_square, dtype=torch.float64)
    found = log_variances(Analytic(NetworkStatistics(table, table)), chain).flatten()
    t = torch.tensor([1, 2])
    of_x_0 = chain.signal(t - 1) * chain.beta(t) / chain.sigma(t).square()
    upper = (chain.beta_tilde(t) + of_x_0.square() / chain.snr(t)).log()
    torch.testing.assert_close(found, upper if bound == "upper" else chain.log_beta_tilde(t))
    # Data within [−1, 1] have at most the variance 1.
    bounded = log_variances(Analytic(NetworkStatistics(table, table), bounded=True), chain).flatten()
    assert float(chain.snr(steps(2, 1))) < 1
    widest = (chain.beta_tilde(t) + of_x_0.square() * torch.tensor([1 / float(chain.snr(t)[0]), 1.0])).log()
    torch.testing.assert_close(bounded, widest if bound == "upper" else chain.log_beta_tilde(t))


@pytest.mark.parametrize("schedule", [CosineSchedule(40), LogSNRSchedule(40), EDMSchedule(40)], ids=str)
def test_of_axis_aligned_data_the_diagonal_variance(schedule):
    """Of axis aligned data the diagonal variance is the optimal one and its bound the entropy."""
    data = GaussianData(torch.tensor([0.2, -0.1, 0.0]).double(), torch.tensor([0.5, 0.05, 1.3]).double())
    process, x_0 = GaussianDiffusion(schedule), SigmaPoints.x_0(data)
    asked = (process, exact_reverse(process, data=data), x_0, None, SigmaPoints())
    rows, sums = network_statistics(*asked), dimension_statistics(*asked)
    statistics = NetworkStatistics(
        **{name: values.mean(dim=0) for name, values in rows.items()},
        **{name: values.sum(dim=0) / len(x_0) for name, values in sums.items()},
    )
    torch.testing.assert_close(statistics.eps_square_by_dimension.mean(dim=1), statistics.eps_square)
    diagonal, snr = AnalyticDiagonal(statistics), float(process.snr(steps(40, 1)))
    entropy = (2 * math.pi * math.e * data.std.square()).log2().mean() / 2
    known_at_the_end = (1 + snr * data.std.square()).log2().mean() / 2  # I(x_0; x_T)
    for num_steps in (1, 2, 7, 40):
        chain = process.respace(EvenSpacing(num_steps)(process))
        for t in range(1, num_steps + 1):
            signal, noise = chain.pair(steps(t, 1))
            of_x_0 = chain.signal(steps(t - 1, 1)) * chain.beta(steps(t, 1)) / noise.square()
            expected = chain.beta_tilde(steps(t, 1)) + of_x_0.square() * data.variance_of_x_0_given_x_t(signal, noise)
            found = diagonal.log_variance(chain, x_0[:1], steps(t, 1), None)
            torch.testing.assert_close(found, expected.log()[None], rtol=0, atol=1e-6)
        reverse = exact_reverse(process, diagonal, data)
        bound = variational_bound(chain, reverse, x_0, num_levels=None, noise=SigmaPoints())
        left = float(entropy - known_at_the_end)
        assert float((bound.bits_per_dim - bound.prior).mean()) == pytest.approx(left, abs=1e-6)


def test_a_table_of_all_strides_refuses_a_variance():
    """A table of all strides refuses a variance by dimension."""
    process = GaussianDiffusion(CosineSchedule(4))
    table = torch.ones(4, dtype=torch.float64)
    diagonal = AnalyticDiagonal(NetworkStatistics(table, table, eps_square_by_dimension=table[:, None]))
    with pytest.raises(
        ValueError, match=r"^AnalyticDiagonal differs between images or dimensions, .*; use variance=analytic$"
    ):
        step_costs(process, diagonal.statistics, torch.ones(4, 24).double(), diagonal)
