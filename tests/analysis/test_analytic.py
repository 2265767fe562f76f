"""The variance that was measured is the best one, at every stride."""

import dataclasses
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
    FixedSmall,
    GaussianDiffusion,
    LinearSchedule,
    LogSNRSchedule,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
    variational_bound,
)
from diffusion_lab.sampling import AnalyticDDIMSampler, AncestralSampler, DDIMSampler, EvenSpacing, LogSNRSpacing, Walk

from ..diffusion.oracles import ExactNetwork, GaussianData, OptimalVariance, SigmaPoints, steps

DATA = GaussianData(0.2, 0.5)


def reverse_of(process, variance=FixedSmall(), data=DATA):  # noqa: B008 - frozen
    return ReverseProcess(ExactNetwork(data, process, PredictNoise()), PredictNoise(), variance, clip_x_0=False)


def measured(process, data=DATA) -> NetworkStatistics:
    """Exact: every statistic is quadratic in (x_0, ε)."""
    rows = network_statistics(process, reverse_of(process, data=data), SigmaPoints.x_0(data), None, SigmaPoints())
    return NetworkStatistics(**{name: values.mean(dim=0) for name, values in rows.items()})


def log_variances(variance, process) -> torch.Tensor:
    x_t = torch.zeros(1, 1, dtype=torch.float64)
    return torch.cat(
        [variance.log_variance(process, x_t, steps(t, 1), None) for t in range(1, process.num_timesteps + 1)]
    )


@pytest.mark.parametrize("data", [DATA, GaussianData(0.0, 0.1), GaussianData(-1.0, 2.0)], ids=str)
@pytest.mark.parametrize(
    "schedule", [LinearSchedule(40), CosineSchedule(40), LogSNRSchedule(40), EDMSchedule(40)], ids=str
)
def test_on_gaussian_data_it_is_the_optimal_variance(schedule, data):
    """On gaussian data it is the optimal variance at every stride."""
    process = GaussianDiffusion(schedule)
    analytic = Analytic(measured(process, data))
    for num_steps in (1, 2, 7, 40):
        chain = process.respace(EvenSpacing(num_steps)(process))
        expected = log_variances(OptimalVariance(data), chain)
        torch.testing.assert_close(log_variances(analytic, chain), expected, rtol=0, atol=1e-6)


def test_the_equation_of_the_paper_in_its_own_symbols():
    process = GaussianDiffusion(LinearSchedule(100))
    chain, statistics = process.respace(EvenSpacing(9)(process)), measured(process)
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
    variance = Analytic(measured(process))
    for num_steps in (1, 3, 100):
        chain = process.respace(EvenSpacing(num_steps)(process))
        bound = variational_bound(
            chain, reverse_of(process, variance), SigmaPoints.x_0(DATA), num_levels=None, noise=SigmaPoints()
        )
        assert float((bound.bits_per_dim - bound.prior).mean()) == pytest.approx(DATA.entropy_bits, abs=1e-6)


def test_between_whole_t_it_is_a_line():
    process = GaussianDiffusion(LogSNRSchedule(200))
    chain = process.respace(LogSNRSpacing(12)(process))
    assert chain.timesteps.is_floating_point()
    expected = log_variances(OptimalVariance(DATA), chain)
    torch.testing.assert_close(log_variances(Analytic(measured(process)), chain), expected, rtol=0, atol=1e-3)


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


def test_each_t_has_the_noise_of_its_key():
    """Each t has the noise of its key whatever else is in the batch."""
    process = GaussianDiffusion(CosineSchedule(12))
    x_0 = DATA.std * SampleNoise(1, torch.arange(6)).initial((3,)).double()
    at_once = network_statistics(process, reverse_of(process), x_0, None, SampleNoise(0, torch.arange(6)))
    for i in (0, 5):
        alone = network_statistics(
            process, reverse_of(process), x_0[i : i + 1], None, SampleNoise(0, torch.tensor([i]))
        )
        for name, values in alone.items():
            torch.testing.assert_close(values[0], at_once[name][i], rtol=1e-12, atol=1e-15)
    eps = SampleNoise(0, torch.arange(6))(7, x_0)
    look = reverse_of(process)(process, process.q_sample(x_0, steps(7, 6), eps), steps(7, 6))
    torch.testing.assert_close(at_once["x_0_mse"][:, 6], (x_0 - look.x_0).square().mean(1))


def test_the_known_size_of_the_noise_steadies():
    """The known size of the noise steadies the second moment and leaves its mean."""
    process = GaussianDiffusion(CosineSchedule(50))
    x_0 = DATA.mean + DATA.std * SampleNoise(1, torch.arange(4000)).initial((1,)).double()
    found = network_statistics(process, reverse_of(process), x_0, None, SampleNoise(0, torch.arange(4000)))
    spread = found["eps_square"].std(dim=0) / 4000**0.5
    exact = measured(process).eps_square
    assert ((found["eps_square"].mean(dim=0) - exact).abs() < 4 * spread).all()
    assert float(spread[-5:].max()) < 0.1 * (2 / 4000) ** 0.5  # that of ‖ε‖² alone


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_analytic_ddim_draws_what_the_paper_says(eta):
    """One step, against the theorem at λ² = η²·β̃."""
    process = GaussianDiffusion(CosineSchedule(100))
    statistics = measured(process)
    reverse = reverse_of(process, Analytic(statistics))
    chain = process.respace(torch.tensor([1, 30, 80]))
    x_t = torch.full((4, 1), 0.3, dtype=torch.float64)
    eps = torch.tensor([[1.0], [-1.0], [2.0], [0.0]], dtype=torch.float64)
    x_s = AnalyticDDIMSampler(eta=eta).step(Walk(chain, reverse, lambda key, like: eps), x_t, 3)
    now, before = chain.numbers(3), chain.numbers(2)
    lambda_2 = eta**2 * now.beta_tilde
    bracket = now.sigma * before.signal / now.signal - (before.sigma**2 - lambda_2) ** 0.5
    variance = lambda_2 + bracket**2 * (1 - float(statistics.eps_square[79]))
    torch.testing.assert_close(x_s - x_s[3], variance**0.5 * eps)
    look = reverse(chain, x_t, steps(3, 4))
    mean = before.signal * look.x_0 + (before.sigma**2 - lambda_2) ** 0.5 * look.eps
    torch.testing.assert_close(x_s[3], mean[3])


def test_analytic_ddim_with_the_lower_bound_is_ddim():
    """Analytic ddim with the lower bound is ddim and with eta 1 ancestral."""
    process = GaussianDiffusion(CosineSchedule(100))
    x_T, noise = SampleNoise(0, torch.arange(5)).initial((2,)), SampleNoise(1, torch.arange(5))
    small, analytic = reverse_of(process), reverse_of(process, Analytic(measured(process)))
    for eta in (0.0, 0.5):
        ddim = DDIMSampler(EvenSpacing(6), eta)
        wider = AnalyticDDIMSampler(EvenSpacing(6), eta)
        torch.testing.assert_close(wider(process, small, x_T, noise=noise), ddim(process, small, x_T, noise=noise))
        assert not torch.allclose(wider(process, analytic, x_T, noise=noise), ddim(process, small, x_T, noise=noise))
    ancestral = AncestralSampler(EvenSpacing(6))(process, analytic, x_T, noise=noise)
    eta_1 = AnalyticDDIMSampler(EvenSpacing(6), 1.0)(process, analytic, x_T, noise=noise)
    torch.testing.assert_close(eta_1, ancestral, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="only the deterministic sampler"):
        AnalyticDDIMSampler().encode(process, small, x_T)


@pytest.mark.parametrize("sampler", [AncestralSampler, AnalyticDDIMSampler])
def test_few_steps_give_gaussian_data_their_width_back(sampler):
    """Fixed small and DDIM lose variance when steps are few; with the optimal one, four steps give the data's."""
    process = GaussianDiffusion(CosineSchedule(200))
    indices = torch.arange(20_000)
    noise = SampleNoise(0, indices)
    chain = sampler(EvenSpacing(4))
    reverse = reverse_of(process, Analytic(measured(process)))
    x_0 = chain(process, reverse, noise.initial((1,)).double(), noise=noise)
    last = DATA.variance_of_x_0_given_x_t(
        *process.pair(steps(1, 1))
    )  # what the last step, which shows the mean, leaves out
    assert float(x_0.var() + last) == pytest.approx(DATA.std**2, rel=0.03)
    small = dataclasses.replace(reverse, variance=FixedSmall())
    assert float(AncestralSampler(EvenSpacing(4))(process, small, noise.initial((1,)).double(), noise=noise).var()) < (
        0.8 * DATA.std**2
    )


@pytest.mark.parametrize("schedule", [CosineSchedule(40), LogSNRSchedule(40), EDMSchedule(40)], ids=str)
def test_of_axis_aligned_data_the_diagonal_variance(schedule):
    """Of axis aligned data the diagonal variance is the optimal one and its bound the entropy."""
    data = GaussianData(torch.tensor([0.2, -0.1, 0.0]).double(), torch.tensor([0.5, 0.05, 1.3]).double())
    process, x_0 = GaussianDiffusion(schedule), SigmaPoints.x_0(data)
    asked = (process, reverse_of(process, data=data), x_0, None, SigmaPoints())
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
        reverse = reverse_of(process, diagonal, data)
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
