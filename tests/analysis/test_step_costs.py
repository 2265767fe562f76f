"""The bound of every chain from one table, and the chain whose bound is least."""

from itertools import combinations

import pytest
import torch

from diffusion_lab.analysis import (
    Analytic,
    NetworkStatistics,
    OptimalSpacing,
    last_step_bits,
    network_statistics,
    step_costs,
)
from diffusion_lab.analysis.network_statistics import smoothed
from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDecoder,
    GaussianDiffusion,
    LearnedRange,
    LevelDecoder,
    LinearSchedule,
    LogSNRSchedule,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
    variational_bound,
)
from diffusion_lab.sampling import EvenSpacing, QuadraticSpacing

from ..diffusion.oracles import ExactNetwork, GaussianData, SigmaPoints, steps

DATA = GaussianData(0.2, 0.5)
ROWS = 12
NOISE = SampleNoise(3, torch.arange(ROWS))


class Problem:
    """Gaussian data, rounded to levels, and the network that is best for them unrounded."""

    def __init__(self, schedule, num_levels=17, decoder=GaussianDecoder()):  # noqa: B008 - frozen
        self.process, self.num_levels, self.decoder = GaussianDiffusion(schedule), num_levels, decoder
        self.network = ExactNetwork(DATA, self.process, PredictNoise())
        x_0 = DATA.mean + DATA.std * SampleNoise(1, torch.arange(ROWS)).initial((6,)).double()
        self.x_0 = x_0 if num_levels is None else (x_0 * 8).round().clamp(-8, 8) / 8
        rows = network_statistics(self.process, self.reverse(FixedSmall()), self.x_0, None, NOISE.fork(0))
        self.statistics = NetworkStatistics(**{name: values.mean(dim=0) for name, values in rows.items()})

        self.last_steps = last_step_bits(
            *(self.process, self.reverse(FixedSmall()), self.x_0, None, NOISE.fork(0), self.decoder, self.num_levels)
        ).mean(dim=0)

    def costs(self, variance):
        return step_costs(self.process, self.statistics, self.last_steps, variance)

    def reverse(self, variance):
        return ReverseProcess(self.network, PredictNoise(), variance, clip_x_0=False)

    def bound(self, variance, times):
        bound = variational_bound(
            *(self.process.respace(times), self.reverse(variance), self.x_0, None, self.num_levels),
            noise=NOISE,
            decoder=self.decoder,
        )
        return float((bound.bits_per_dim - bound.prior).mean())

    def variances(self):
        found = [FixedSmall(), Analytic(self.statistics, bounded=self.num_levels is not None)]
        return [*found, FixedLarge()] if self.process.has_unit_variance else found


@pytest.mark.parametrize(
    ("schedule", "num_levels", "decoder"),
    [
        (CosineSchedule(16), 17, GaussianDecoder()),
        (LogSNRSchedule(16), None, GaussianDecoder()),
        (EDMSchedule(16), 17, LevelDecoder()),
    ],
    ids=["levels", "density", "q"],
)
def test_with_the_same_noise_the_table_has_the_bound(schedule, num_levels, decoder):
    """With the same noise the table has the bound of every chain."""
    problem, last = Problem(schedule, num_levels, decoder), schedule.num_timesteps
    chains = [
        torch.tensor([last]),
        EvenSpacing(4)(last),
        QuadraticSpacing(7)(last),
        torch.tensor([last - 6, last - 3, last]),
    ]
    for variance in problem.variances():
        costs = problem.costs(variance)
        for times in chains:
            assert costs.bits(times) == pytest.approx(problem.bound(variance, times), abs=1e-6)


@pytest.mark.parametrize("num_timesteps", [1, 2, 9])
def test_the_best_chain_is_the_best_of_all(num_timesteps):
    problem = Problem(CosineSchedule(num_timesteps))
    for variance in problem.variances():
        costs = problem.costs(variance)
        for num_steps in range(1, num_timesteps + 1):
            inner = combinations(range(1, num_timesteps), num_steps - 1)
            everyone = [costs.bits(torch.tensor([*chosen, num_timesteps])) for chosen in inner]
            best = OptimalSpacing(num_steps).measured(costs)(problem.process)
            assert costs.bits(best) == pytest.approx(min(everyone), abs=1e-12)
            assert (best.diff() > 0).all()
            assert len(best) == num_steps


def test_with_the_optimal_variance_all_chains_cost():
    """With the optimal variance all chains cost the same and with the narrow one the best gains much.

    On Gaussian data the best variance leaves nothing to gain by the choice of steps.
    """
    process = GaussianDiffusion(CosineSchedule(50))
    x_0, noise = SigmaPoints.x_0(DATA), SigmaPoints()
    reverse = ReverseProcess(ExactNetwork(DATA, process, PredictNoise()), PredictNoise(), FixedSmall(), clip_x_0=False)
    rows = network_statistics(process, reverse, x_0, None, noise)
    statistics = NetworkStatistics(**{name: values.mean(dim=0) for name, values in rows.items()})
    bits = last_step_bits(process, reverse, x_0, None, noise, GaussianDecoder(), None).mean(dim=0)
    costs = step_costs(process, statistics, bits, Analytic(statistics))
    for times in ([50], [1, 50], [20, 30, 50], range(1, 51)):
        assert costs.bits(torch.tensor([*times])) == pytest.approx(DATA.entropy_bits, abs=1e-6)
    narrow = step_costs(process, statistics, bits, FixedSmall())
    assert narrow.bits(narrow.best(5)) < narrow.bits(EvenSpacing(5)(50)) - 0.5


def test_a_chain_of_two_steps_is_the_respaced_one():
    process = GaussianDiffusion(LinearSchedule(30))
    s, t = torch.tensor([1, 4, 20]), torch.tensor([2, 30, 21])
    chains = GaussianDiffusion(process.schedule, torch.stack([s, t], dim=1))
    for b in range(3):
        alone = process.respace(torch.stack([s[b], t[b]]))
        for name in ("signal", "sigma", "beta", "log_beta", "beta_tilde", "log_beta_tilde", "time", "snr"):
            for step in (1, 2):
                found = getattr(chains, name)(steps(step, 3))[b]
                torch.testing.assert_close(found, getattr(alone, name)(steps(step, 1))[0].double())
        x_0, x_t = torch.randn(3, 2).double(), torch.randn(3, 2).double()
        found, expected = (
            which.q_posterior(x, x_t[rows], steps(2, len(x)))
            for which, x, rows in ((chains, x_0, slice(None)), (alone, x_0[b : b + 1], slice(b, b + 1)))
        )
        torch.testing.assert_close(found.mean[b], expected.mean[0])
    torch.testing.assert_close(chains.signal(steps(0, 3)), torch.ones(3).double())


def test_a_variance_that_the_network_says_is_refused():
    """A variance that the network says is refused in one sentence."""
    problem = Problem(CosineSchedule(5))
    with pytest.raises(ValueError, match=r"^LearnedRange differs between images .*; use variance=analytic$"):
        problem.costs(LearnedRange())


def test_smoothing_leaves_lines_alone_and_takes_noise_away():
    line = torch.linspace(-3, 5, 200, dtype=torch.float64)
    torch.testing.assert_close(smoothed(line, 8), line)
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    assert float(smoothed(noise, 8)[64:-20].std()) < 0.4 * float(noise.std())
    torch.testing.assert_close(smoothed(noise, 0), noise)
    found = NetworkStatistics(noise, (line + 0.1 * noise).exp()).smoothed()
    assert float((found.x_0_mse.log() - line)[40:-20].abs().max()) < 0.15
    assert torch.equal(found.eps_square, noise)


@pytest.mark.parametrize("schedule", [CosineSchedule, LinearSchedule, LogSNRSchedule])
def test_smoothing_changes_no_error_that_has_no_noise(schedule):
    """Near the data the error changes by half from one t to the next: an average over both would move the best steps there."""
    process, t = GaussianDiffusion(schedule(1000)), torch.arange(1, 1001)
    error = 1 / (process.log_snr(t).exp() + 1 / DATA.std**2)
    found = NetworkStatistics(torch.ones_like(error), error).smoothed().x_0_mse
    torch.testing.assert_close(found, error, rtol=0.01, atol=0)
