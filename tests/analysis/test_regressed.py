"""A head that knows the residual makes the best variance at every stride, also of a network that errs, and a head can learn it."""

import dataclasses

import pytest
import torch

from diffusion_lab.analysis import (
    Analytic,
    NetworkStatistics,
    Regressed,
    WithHead,
    network_statistics,
    residual_terms,
    step_costs,
)
from diffusion_lab.analysis.regressed import log_residual
from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    LinearSchedule,
    LogSNRSchedule,
    PredictNoise,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
    StratifiedTimesteps,
    variational_bound,
)
from diffusion_lab.networks import MLP
from diffusion_lab.sampling import AnalyticDDIMSampler, EvenSpacing, LogSNRSpacing, Walk

from ..diffusion.oracles import ExactNetwork, GaussianData, MixtureData, OptimalVariance, SigmaPoints, steps
from .test_analytic import DATA, log_variances

LEAST = 1e-3
AXES = GaussianData(torch.tensor([0.2, -0.1, 0.0]).double(), torch.tensor([0.5, 0.1, 1.3]).double())
SCHEDULES = [LinearSchedule(40), CosineSchedule(40), LogSNRSchedule(40), EDMSchedule(40)]


class Erring:
    """A network that says E[v|x_t], v the velocity, and an error that depends on x_t: the mean is imperfect."""

    def __init__(self, exact: ExactNetwork, error: float) -> None:
        self.exact, self.error = exact, error

    def __call__(self, x_t, timesteps, y=None):
        return self.exact(x_t, timesteps, y) + self.error * x_t.cos()


class KnowingHead:
    """The v of E[(x_0 − x̂_0)²|x_t] = Var(x_0|x_t) + (E[x_0|x_t] − x̂_0)², in closed form."""

    def __init__(self, data, process, error: float = 0.0) -> None:
        self.data, self.schedule, self.error = data, process.schedule, error

    def residual(self, x_t, t):
        signal, noise = (
            part.reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype) for part in self.schedule.pair(t.double())
        )
        variance = (
            self.data.variance_of_x_0_given_x_t(signal, noise, x_t)
            if isinstance(self.data, MixtureData)
            else self.data.variance_of_x_0_given_x_t(signal, noise)
        )
        return variance + (noise / (signal.square() + noise.square()) * self.error * x_t.cos()).square()

    def __call__(self, x, timesteps):
        x_t, t = x[:, : x.shape[1] // 2], timesteps + 1
        snr = self.schedule.snr(t.double()).reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype)
        return (self.residual(x_t, t) * (1 + snr) - LEAST).log()


def reverse_of(process, data, error=0.0, head=None) -> ReverseProcess:
    network = Erring(ExactNetwork(data, process, PredictVelocity()), error)
    return ReverseProcess(
        WithHead(network, head or KnowingHead(data, process, error)), PredictVelocity(), Regressed(), clip_x_0=False
    )


def numbers(reverse, x_t, t, process):
    look = reverse(process, x_t, t)
    return look.distribution.log_variance.expand_as(x_t)


@pytest.mark.parametrize("data", [DATA, GaussianData(-1.0, 2.0)], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_on_gaussian_data_it_is_the_optimal_variance(schedule, data):
    """On gaussian data it is the optimal variance at every stride."""
    process = GaussianDiffusion(schedule)
    x_t = torch.tensor([[0.3]], dtype=torch.float64)
    for num_steps in (1, 2, 7, 40):
        chain = process.respace(EvenSpacing(num_steps)(process))
        for t, expected in enumerate(log_variances(OptimalVariance(data), chain), start=1):
            found = numbers(reverse_of(process, data), x_t, steps(t, 1), chain)
            torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("error", [0.0, 0.3])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_what_is_regressed_has_the_residual(schedule, error):
    """What is regressed has the residual for its expectation in each dimension.

    Exact: at each x_t a Gaussian posterior has the two sigma points x̂_0 ± its width.
    """
    process, head = GaussianDiffusion(schedule), KnowingHead(AXES, GaussianDiffusion(schedule), error)
    x_t = torch.tensor([[0.3, -1.0, 0.7]], dtype=torch.float64)
    for t in (1, 5, 20, 40):
        signal, noise = process.pair(steps(t, 1))
        mean, width = AXES.x_0_given_x_t(signal, noise, x_t), AXES.variance_of_x_0_given_x_t(signal, noise).sqrt()
        x_0_hat = reverse_of(process, AXES, error)(process, x_t, steps(t, 1)).x_0
        expected = sum((mean + sign * width - x_0_hat).square() for sign in (1, -1)) / 2
        torch.testing.assert_close(expected, head.residual(x_t, steps(t, 1)))
        # The same in units of noise, NPR-DPM's target; SN-DPM's is off by 2·ε̂·(ε̂ − E[ε|x_t]).
        eps, eps_hat = ((x_t - signal * x) / noise for x in (mean, x_0_hat))
        of_square = eps.square() + (signal / noise * width).square()
        npr, sn = of_square - 2 * eps_hat * eps + eps_hat.square(), of_square - eps_hat.square()
        torch.testing.assert_close(npr, expected * process.snr(steps(t, 1)))
        torch.testing.assert_close(npr - sn, 2 * eps_hat * (eps_hat - eps))


def test_the_loss_is_least_and_the_fit_is_1():
    """The loss is least and the fit is 1 where the head says the residual."""
    process = GaussianDiffusion(CosineSchedule(40))
    x_0, eps = SigmaPoints.x_0(DATA), SigmaPoints()(1, SigmaPoints.x_0(DATA))
    for t in (1, 20, 40):
        asked = (process, reverse_of(process, DATA), x_0, steps(t, 4), eps)
        right = {name: float(term.mean()) for name, term in residual_terms(*asked).items()}
        assert right["fit"] == pytest.approx(1)
        for factor in (0.5, 0.9, 1.1, 2.0):
            other = factor_of(KnowingHead(DATA, process), factor)
            wrong = residual_terms(process, reverse_of(process, DATA, head=other), *asked[2:])
            assert float(wrong["loss"].mean()) > right["loss"]


def factor_of(head, factor):
    return lambda x, timesteps: ((head(x, timesteps).exp() + LEAST) * factor - LEAST).log()


def test_v_0_is_the_upper_bound_and_no_v_is_narrower():
    """V 0 is the upper bound and no v is narrower than the lower."""
    process, x_t = GaussianDiffusion(CosineSchedule(40)), torch.zeros(1, 1, dtype=torch.float64)
    for num_steps in (3, 40):
        chain = process.respace(EvenSpacing(num_steps)(process))
        for t in range(2, num_steps + 1):
            at = steps(t, 1)
            found = [Regressed().log_variance(chain, x_t, at, torch.full_like(x_t, v)) for v in (-1e9, 0.0)]
            assert float(found[0]) > float(chain.log_beta_tilde(at))
            wide = float(FixedLarge().log_variance(chain, x_t, at, None))
            assert float(found[1]) == pytest.approx(wide, abs=2e-3)


@pytest.mark.parametrize("num_steps", [2, 5, 20])
def test_of_all_scales_its_own_has_the_least_bound(num_steps):
    """Of all scales its own has the least bound of a network that errs.

    Also where the analytic variance, which trusts the mean, is not the best one.
    """
    process = GaussianDiffusion(CosineSchedule(40))
    x_0 = DATA.mean + DATA.std * SampleNoise(1, torch.arange(4000)).initial((1,)).double()
    chain, error = process.respace(EvenSpacing(num_steps)(process)), 0.3

    def bits(reverse):
        return variational_bound(chain, reverse, x_0, num_levels=None, noise=SampleNoise(0, torch.arange(4000)))

    own = bits(reverse_of(process, DATA, error)).bits_per_dim
    for factor in (0.7, 1.4):
        head = factor_of(KnowingHead(DATA, process, error), factor)
        more = bits(reverse_of(process, DATA, error, head)).bits_per_dim - own
        assert float(more.mean()) > 4 * float(more.std()) / 4000**0.5
    plain = ReverseProcess(
        Erring(ExactNetwork(DATA, process, PredictVelocity()), error), PredictVelocity(), FixedSmall(), False
    )
    rows = network_statistics(process, plain, x_0, None, SampleNoise(2, torch.arange(4000)))
    analytic = Analytic(NetworkStatistics(**{name: values.mean(dim=0) for name, values in rows.items()}))
    more = bits(dataclasses.replace(plain, variance=analytic)).bits_per_dim - own
    assert float(more.mean()) > 4 * float(more.std()) / 4000**0.5


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_analytic_ddim_draws_what_the_paper_says(eta):
    """σ² = λ² + (√ᾱ_s − √(β̄_s − λ²)·√(ᾱ_t/β̄_t))²·E[(x_0 − x̂_0)²|x_t], λ² = η²·β̃_t, at a stride and an x_t each."""
    process = GaussianDiffusion(CosineSchedule(100))
    data, head = MixtureData(), KnowingHead(MixtureData(), process, 0.2)
    chain = process.respace(torch.tensor([1, 30, 80]))
    x_t = torch.tensor([[0.3], [-0.9], [0.0]], dtype=torch.float64)
    reverse = reverse_of(process, data, 0.2)
    drawn, plain = (
        AnalyticDDIMSampler(eta=eta).step(Walk(chain, reverse, lambda _, like, k=k: torch.full_like(like, k)), x_t, 3)
        for k in (1.0, 0.0)
    )
    alpha_bar_t, alpha_bar_s = process.alpha_bar(steps(80, 1)), process.alpha_bar(steps(30, 1))
    lambda_2 = eta**2 * chain.beta_tilde(steps(3, 1))
    bracket = alpha_bar_s.sqrt() - ((1 - alpha_bar_s - lambda_2) * alpha_bar_t / (1 - alpha_bar_t)).sqrt()
    expected = lambda_2 + bracket.square() * head.residual(x_t, steps(80, 3))
    torch.testing.assert_close((drawn - plain).square(), expected)


def trained_head(process, data, num_steps, error):
    torch.manual_seed(0)
    head = MLP(2, 1, hidden=32, num_layers=2)
    reverse, timesteps = reverse_of(process, data, error, head), StratifiedTimesteps(process.num_timesteps)
    optimizer, generator = torch.optim.Adam(head.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        x_0 = samples(data, 512, generator)
        t, w = timesteps(512, generator)
        eps = torch.randn(512, 1, generator=generator)
        loss = (w * residual_terms(process, reverse, x_0, t, eps)["loss"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return head.requires_grad_(False).eval()


def samples(data, size, generator):
    part = torch.multinomial(torch.tensor(data.weights), size, replacement=True, generator=generator)
    return (torch.tensor(data.means)[part] + data.std * torch.randn(size, generator=generator))[:, None]


def test_a_head_comes_nearer_to_the_residual():
    """A head comes nearer to the residual the longer it trains and its bound is below the analytic one.

    Mixture data: how uncertain x_0 is depends on where x_t lies, and the mean is off besides.
    """
    process, data, error = GaussianDiffusion(CosineSchedule(20)), MixtureData(), 0.2
    generator = torch.Generator().manual_seed(9)
    x_0 = samples(data, 2000, generator)
    t = StratifiedTimesteps(20)(2000, generator)[0]
    x_t = process.q_sample(x_0, t, torch.randn(2000, 1, generator=generator))
    right = KnowingHead(data, process, error).residual(x_t, t).log()

    def off(head):
        _, v = reverse_of(process, data, error, head).evaluate(process, x_t, t)
        return float((log_residual(process, x_t, t, v) - right).square().mean().sqrt())

    heads = [trained_head(process, data, num_steps, error) for num_steps in (0, 40, 250)]
    distances = [off(head) for head in heads]
    assert distances[0] > 1.5 * distances[1] > 3 * distances[2]
    assert distances[2] < 0.2  # of log E[(x_0 − x̂_0)²|x_t], which varies by more than 1 at one t

    plain = ReverseProcess(
        Erring(ExactNetwork(data, process, PredictVelocity()), error), PredictVelocity(), FixedSmall(), False
    )
    rows = network_statistics(process, plain, x_0, None, SampleNoise(2, torch.arange(2000)))
    statistics = NetworkStatistics(**{name: values.mean(dim=0) for name, values in rows.items()})
    variants = {
        "analytic": dataclasses.replace(plain, variance=Analytic(statistics)),
        "regressed": reverse_of(process, data, error, heads[-1]),
        "right": reverse_of(process, data, error),
    }
    for num_steps in (3, 20):
        chain = process.respace(EvenSpacing(num_steps)(process))
        bits = {
            name: variational_bound(chain, reverse, x_0, num_levels=None, noise=SampleNoise(3, torch.arange(2000)))
            for name, reverse in variants.items()
        }
        gain = bits["analytic"].bits_per_dim - bits["regressed"].bits_per_dim
        assert float(gain.mean()) > 4 * float(gain.std()) / 2000**0.5  # standard errors: beyond its 99.99 % interval
        left = bits["regressed"].bits_per_dim - bits["right"].bits_per_dim
        assert float(left.mean()) < 0.3 * float(gain.mean())


def test_it_serves_real_times_and_any_prediction():
    process = GaussianDiffusion(LogSNRSchedule(200))
    chain = process.respace(LogSNRSpacing(6)(process))
    network = ExactNetwork(DATA, process, PredictNoise())
    reverse = ReverseProcess(WithHead(network, KnowingHead(DATA, process)), PredictNoise(), Regressed(), False)
    x_t = torch.tensor([[0.3]], dtype=torch.float64)
    for t, expected in enumerate(log_variances(OptimalVariance(DATA), chain), start=1):
        torch.testing.assert_close(numbers(reverse, x_t, steps(t, 1), chain).flatten(), expected, rtol=0, atol=1e-9)


def test_a_table_of_all_strides_refuses_it():
    process = GaussianDiffusion(CosineSchedule(4))
    table = torch.ones(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"Regressed .*; use variance=analytic$"):
        step_costs(process, NetworkStatistics(table, table), torch.ones(4, 24).double(), Regressed())
