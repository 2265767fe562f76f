"""What a sampler declares is what it does: order of convergence, evaluations, and one limit for all of them."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    LogSNRSchedule,
    PredictFlow,
    PredictNoise,
    PredictVelocity,
    RectifiedSchedule,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.sampling import (
    AncestralSampler,
    ChurnSampler,
    ClassifierFree,
    DDIMSampler,
    DPMSolverSampler,
    EvenSpacing,
    HeunSampler,
    IPNDMSampler,
    KarrasSpacing,
    LogSNRSpacing,
)
from diffusion_lab.sampling.sampler import last

from ..diffusion.oracles import ExactNetwork, GaussianData, MixtureData

DATA = GaussianData(0.3, 0.4)
Z = torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)[:, None]
LINE = GaussianDiffusion(LogSNRSchedule(1000, log_snr_max=9.0, log_snr_min=-4.0))
DETERMINISTIC = [
    DDIMSampler(),
    HeunSampler(),
    ChurnSampler(s_churn=0),
    *[DPMSolverSampler(order=order) for order in (1, 2, 3)],
    IPNDMSampler(),
]


def exact(process, data=DATA, prediction=None):
    prediction = prediction or PredictVelocity()
    return ReverseProcess(ExactNetwork(data, process, prediction), prediction, FixedSmall(), clip_x_0=False)


def on_the_path(process, t, data=DATA):
    """x_t of the probability flow: for Gaussian data it keeps z = (x_t − α·m)/√(α²·s² + σ²)."""
    row = process.numbers(t)
    return row.signal * data.mean + math.sqrt((row.signal * data.std) ** 2 + row.sigma**2) * Z


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("order", [2, 3])
def test_a_step_after_a_very_short_one_is_of_first_order(order, stochastic):
    """As where an image is denoised from a t that lies just above one of the sampler's."""
    looks = {}
    for first in (610.0, 800.0):
        chain = LINE.respace(torch.tensor([200.0, 400.0, 600.0, first]).double())
        x_t, noise = on_the_path(chain, 3), SampleNoise(0, torch.arange(len(Z)))
        for rule in (
            DPMSolverSampler(order=order, stochastic=stochastic),
            DPMSolverSampler(order=1, stochastic=stochastic),
        ):
            walk = rule.begin(chain, exact(LINE), None, noise)
            walk.remember(4, replace(walk.predict(on_the_path(chain, 4), 4), x_0=x_t))
            looks[first, rule.order] = rule.step(walk, x_t, 3)
    torch.testing.assert_close(looks[610.0, order], looks[610.0, 1])
    assert float((looks[800.0, order] - looks[800.0, 1]).abs().max()) > 0.01


def on_the_flow(chain, t):
    """x_t of the probability flow of a mixture, by dy/dρ = ε̂(y, ρ) for y = x/α and ρ = σ/α: Runge and Kutta's rule of order 4.

    Not of Gaussian data, for which the error of some rules vanishes in the order that they have elsewhere.
    """
    one = torch.tensor(1.0, dtype=torch.float64)

    def slope(y, rho):
        return (y - MixtureData().x_0_given_x_t(one, rho, y)) / rho

    row = chain.numbers(t)
    grid = torch.linspace(2.0, math.log(row.sigma / row.signal), 121, dtype=torch.float64).exp()
    y = grid[0] * Z
    for rho, to in pairwise(grid):
        h = to - rho
        k_1 = slope(y, rho)
        k_2 = slope(y + h / 2 * k_1, rho + h / 2)
        k_3 = slope(y + h / 2 * k_2, rho + h / 2)
        y = y + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + slope(y + h * k_3, to))
    return row.signal * y


def global_error(sampler, num_steps):
    """At a finite log SNR, after num_steps steps: three exact looks come before, so orders are full, and three steps follow, so
    that none is lowered. Also the evaluations that a step takes."""
    fine = torch.linspace(400, 800, num_steps + 1, dtype=torch.float64)
    before = 800 + (fine[1] - fine[0]) * torch.arange(1, 3)
    chain, look = (
        LINE.respace(torch.cat([torch.tensor([200.0, 250.0, 300.0]).double(), fine, before])),
        exact(LINE, MixtureData()),
    )
    walk, start = sampler.begin(chain, look, None, lambda key, like: torch.zeros_like(like)), num_steps + 4
    for t in (start + 2, start + 1):
        walk.remember(t, walk.predict(on_the_flow(chain, t), t))
    x, earlier = on_the_flow(chain, start), len(look.network.seen)
    for t in range(start, 4, -1):
        x = sampler.step(walk, x, t)
    return float((x - on_the_flow(chain, 4)).abs().max()), (len(look.network.seen) - earlier) / num_steps


def check_order(sampler):
    """It converges at the order, and takes the evaluations a step, that it declares."""
    (coarse, _), (fine, evaluations) = (global_error(sampler, num_steps) for num_steps in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(sampler.order, abs=0.35)
    assert evaluations == sampler.evaluations_per_step


@pytest.mark.parametrize(
    "sampler",
    [*DETERMINISTIC[:2], *(pytest.param(sampler, marks=pytest.mark.thorough) for sampler in DETERMINISTIC[2:])],
    ids=repr,
)
def test_the_order_of_convergence_is_the_declared_one(sampler):
    check_order(sampler)


@pytest.mark.parametrize(
    "sampler", [DPMSolverSampler(order=3), DPMSolverSampler(order=2), IPNDMSampler(), HeunSampler()], ids=repr
)
def test_with_the_starts_and_ends_that_users_get(sampler):
    """With the starts and ends that users get it is still at least 2."""
    errors = []
    for num_steps in (10, 40):
        spaced = replace(sampler, spacing=LogSNRSpacing(num_steps))
        states = list(spaced.walk(LINE.respace(spaced.spacing(LINE)), exact(LINE), on_the_path(LINE, 1000)))
        errors.append(float((states[-2][1] - on_the_path(LINE, 1)).abs().max()))  # at t = 1, a finite log SNR
    assert math.log2(errors[0] / errors[1]) / 2 > 1.9


ENDS = {"log_snr_max": 8.0, "log_snr_min": -9.0}
LONG = {
    "line": LogSNRSchedule(1000, **ENDS),
    "straight": RectifiedSchedule(1000, **ENDS),
    "edm": EDMSchedule(1000, sigma_min=math.exp(-4.0), sigma_max=math.exp(4.5)),
}


def walked(name, sampler, data, x, noise=None):
    """x_0 from x at the noisy end of a path."""
    process = GaussianDiffusion(LONG[name])
    prediction = {"line": PredictVelocity(), "straight": PredictFlow(), "edm": PredictNoise()}[name]
    return last(
        sampler.walk(process.respace(sampler.spacing(process)), exact(process, data, prediction), x, noise=noise)
    )


def drawn(name, sampler):
    """From the same x_T/α_T, whatever the path: at the noisy end all three have the same σ/α."""
    scale = GaussianDiffusion(LONG[name]).numbers(1000).sigma
    return walked(name, sampler, MixtureData(), scale * SampleNoise(1, torch.arange(16)).initial((1,)).double())


@cache
def limit():
    return drawn("line", DPMSolverSampler(LogSNRSpacing(120), order=3))


AGREE = [
    *[("line", s(LogSNRSpacing(40)), 0.003) for s in (HeunSampler, DPMSolverSampler, IPNDMSampler)],
    *[(name, DPMSolverSampler(LogSNRSpacing(40)), 0.003) for name in ("straight", "edm")],
    *[(name, DDIMSampler(LogSNRSpacing(100)), 0.02) for name in LONG],
]


@pytest.mark.parametrize(("name", "sampler", "within"), AGREE, ids=repr)
def test_deterministic_samplers_agree_sample_by_sample(name, sampler, within):
    """Deterministic samplers agree sample by sample on every path."""
    difference = (drawn(name, sampler) - limit()).abs()
    assert float(difference.median()) < within
    assert float(difference.max()) < 30 * within  # next to where two components part


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize(
    "sampler",
    [DPMSolverSampler(stochastic=True), AncestralSampler(), DDIMSampler(eta=1.0), ChurnSampler(s_churn=3, s_min=0.01)],
    ids=repr,
)
def test_random_samplers_have_the_moments_of_the_data(sampler, name):
    """Random samplers have the moments of the data in the limit.

    Gaussian data: the sampler is affine in (x_T, z_1 … z_K), so rows of a basis give the moments without sampling.
    """
    data, end, errors = GaussianData(0.0, 0.4), GaussianDiffusion(LONG[name]).numbers(1000), []
    for num_steps in (16, 32):
        basis = torch.eye(num_steps + 1, dtype=torch.float64)
        start = math.sqrt((end.signal * data.std) ** 2 + end.sigma**2) * basis[:, :1]
        noise = lambda t, like, basis=basis: basis[:, t][:, None]  # noqa: E731 - on real times the key is the place in the chain
        x_0 = walked(name, replace(sampler, spacing=LogSNRSpacing(num_steps)), data, start, noise)
        errors.append(abs(float(x_0.square().sum().sqrt()) / data.std - 1))
    assert errors[1] < 0.15
    assert errors[1] < 0.65 * errors[0]


def test_order_1_is_ddim_and_a_look_a_step():
    """Order 1 is ddim and a look a step is what is declared."""
    x_T = SampleNoise(0, torch.arange(4)).initial((2,)).double()
    for process in (GaussianDiffusion(CosineSchedule(60)), LINE):
        ddim = DDIMSampler(LogSNRSpacing(7))(process, exact(process), x_T)
        torch.testing.assert_close(DPMSolverSampler(LogSNRSpacing(7), order=1)(process, exact(process), x_T), ddim)
        for sampler in (
            HeunSampler(KarrasSpacing(7)),
            DPMSolverSampler(EvenSpacing(7)),
            IPNDMSampler(LogSNRSpacing(7)),
        ):
            look = exact(process)
            sampler(process, look, x_T)
            kept = process.respace(sampler.spacing(process)).timesteps
            assert look.network.seen == [int(kept[t - 1]) for t in sampler.evaluation_times(7)]
            assert len(look.network.seen) == 7 * sampler.evaluations_per_step - (sampler.evaluations_per_step - 1)


@pytest.mark.parametrize(
    "sampler",
    [
        HeunSampler(),
        ChurnSampler(s_churn=2),
        DPMSolverSampler(order=3),
        DPMSolverSampler(stochastic=True),
        IPNDMSampler(),
    ],
    ids=repr,
)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    sampler, reverse = replace(sampler, spacing=LogSNRSpacing(6)), exact(LINE)

    def draw(batch_size):
        noises = [SampleNoise(3, indices) for indices in torch.arange(8).split(batch_size)]
        return torch.cat([sampler(LINE, reverse, noise.initial((2, 4, 4)), noise=noise) for noise in noises])

    assert torch.equal(draw(3), draw(8))


def test_no_solver_reads_the_variance():
    """So models that differ in it alone draw the same images, and are drawn from once."""
    assert [sampler.reads_variance for sampler in (AncestralSampler(), *DETERMINISTIC)] == [True] + [False] * 7
    x_T = SampleNoise(0, torch.arange(4)).initial((2,)).double()
    for sampler in (HeunSampler(LogSNRSpacing(4)), DPMSolverSampler(LogSNRSpacing(4)), IPNDMSampler(LogSNRSpacing(4))):
        small, large = (sampler(LINE, replace(exact(LINE), variance=v), x_T) for v in (FixedSmall(), FixedLarge()))
        assert torch.equal(small, large)


def test_impossible_orders_are_named():
    with pytest.raises(ValueError, match=r"sampler.order=4: .* 1, 2 or 3"):
        DPMSolverSampler(order=4)


# ---- churn ---------------------------------------------------------------------------------------------------------------

CHAINS = {
    **{name: GaussianDiffusion(schedule) for name, schedule in LONG.items()},
    "table": GaussianDiffusion(CosineSchedule(1000)),
}
STEPS = LogSNRSpacing(40, log_snr_max=8.0, log_snr_min=-8.0)


class Watched:
    """A network whose times are recorded as they are given to it."""

    def __init__(self, network):
        self.network, self.times = network, []

    def __call__(self, x_t, timesteps, y):
        self.times.append(float(timesteps[0]) + 1)
        assert timesteps.unique().numel() == 1
        return self.network(x_t, timesteps, y)


def watched(process, **more):
    reverse = exact(process, MixtureData())
    return replace(reverse, network=Watched(reverse.network), **more)


@pytest.mark.parametrize("name", CHAINS)
def test_without_churn_it_is_heun_to_the_bit(name):
    """Also where the interval of σ/α is empty."""
    process, noise = CHAINS[name], SampleNoise(0, torch.arange(8))
    x_T = noise.initial((2,)).double()
    heun = HeunSampler(STEPS)(process, exact(process, MixtureData()), x_T, noise=noise)
    for none in (ChurnSampler(STEPS, s_churn=0), ChurnSampler(STEPS, s_churn=40, s_min=1e6, s_max=1e7)):
        assert torch.equal(none(process, exact(process, MixtureData()), x_T, noise=noise), heun)
    churned = ChurnSampler(STEPS, s_churn=8)(process, exact(process, MixtureData()), x_T, noise=noise)
    assert not torch.equal(churned, heun)


@pytest.mark.parametrize("name", CHAINS)
def test_churn_keeps_the_mean_and_the_variance(name):
    """Of a mixture with its exact score, within four standard errors."""
    data, n, process = MixtureData(), 10_000, CHAINS[name]
    noise = SampleNoise(7, torch.arange(n))
    sampler = ChurnSampler(replace(STEPS, num_steps=80), s_churn=20, s_min=0.02, s_max=50)
    x_0 = sampler(process, exact(process, data), noise.initial((1,)).double(), noise=noise)[:, 0]
    means, weights = torch.tensor(data.means), torch.tensor(data.weights)
    mean = float(weights @ means)
    variance = float(weights @ (means - mean).square()) + data.std**2
    squares = (x_0 - mean).square()
    assert float(x_0.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    assert float(squares.mean()) == pytest.approx(variance, abs=4 * float(squares.std()) / math.sqrt(n))


def test_churn_forgets_a_wrong_start():
    """Heun's rule keeps a wrong spread of x_T/σ_T; new noise replaces some of it. The range of σ/α is that of a data's spread."""
    noise, chain = SampleNoise(3, torch.arange(4000)), LINE.respace(LogSNRSpacing(60, log_snr_min=-2.0)(LINE))
    row = chain.numbers(60)
    right = math.sqrt((row.signal * DATA.std) ** 2 + row.sigma**2) * noise.initial((1,)).double()
    errors = []
    for sampler in (HeunSampler(), ChurnSampler(s_churn=20)):
        x_0 = last(sampler.walk(chain, exact(LINE), row.signal * DATA.mean + 0.5 * right, noise=noise))
        errors.append(abs(float(x_0.std()) / DATA.std - 1))
    assert errors[0] == pytest.approx(0.5, abs=0.05)
    assert errors[1] < 0.1


def test_churn_pays_where_the_network_errs():
    """With the exact score it costs accuracy: by the Wasserstein distance from draws of the mixture (docs/theory/churn.md)."""
    data, n, process = MixtureData(), 10_000, CHAINS["table"]
    noise, generator = SampleNoise(0, torch.arange(n)), torch.Generator().manual_seed(0)
    x_T, parts = (
        noise.initial((1,)).double(),
        torch.multinomial(torch.tensor(data.weights), n, True, generator=generator),
    )
    truth = torch.tensor(data.means)[parts] + data.std * torch.randn(n, generator=generator)

    def distance(error, s_churn):
        reverse = exact(process, data)
        network = reverse.network
        wrong = replace(reverse, network=lambda x_t, *more: network(x_t, *more) + error * torch.sin(3 * x_t))
        sampler = ChurnSampler(replace(STEPS, num_steps=25), s_churn=s_churn, s_min=0.05, s_max=50.0)
        x_0 = sampler(process, wrong, x_T, noise=noise)[:, 0]
        return float((x_0.sort().values - truth.double().sort().values).abs().mean())

    assert distance(0.0, s_churn=0) < distance(0.0, s_churn=10) < 0.02
    assert distance(0.1, s_churn=5) < 0.75 * distance(0.1, s_churn=0)


@pytest.mark.parametrize("name", CHAINS)
def test_the_network_sees_the_raised_noise(name):
    """At t̂ with σ/α = (1 + γ)·σ_t/α_t; of a table the nearest whole t. γ = min(S_churn/K, √2 − 1) in the interval."""
    process = CHAINS[name]
    chain = process.respace(STEPS(process))
    for s_churn, gamma in ((8.0, 0.2), (1000.0, math.sqrt(2) - 1)):
        reverse, noise = watched(process), SampleNoise(0, torch.arange(2))
        sampler = ChurnSampler(STEPS, s_churn=s_churn, s_min=0.1, s_max=10.0)
        sampler(process, reverse, torch.ones(2, 1, dtype=torch.float64), noise=noise)
        asked = iter(reverse.network.times)
        for t in range(40, 0, -1):
            row = chain.numbers(t)
            ratio = row.sigma / row.signal
            wanted = ratio * (1 + gamma) if 0.1 <= ratio <= 10 else ratio
            time = next(asked)
            if name == "table":
                log_snr = process.log_snr(torch.arange(1, 1001))
                assert time == 1 + int((log_snr + 2 * math.log(wanted)).abs().argmin())
            else:
                found = float(process.schedule.log_snr(torch.tensor([time], dtype=torch.float64)))
                assert found == pytest.approx(-2 * math.log(wanted), abs=1e-6)
            if t > 1:
                assert next(asked) == pytest.approx(chain.numbers(t - 1).time, rel=1e-12)
        assert next(asked, None) is None


def test_the_first_step_is_not_raised_beyond_t():
    reverse, noise = watched(LINE), SampleNoise(0, torch.arange(2))
    ChurnSampler(LogSNRSpacing(5), s_churn=5)(LINE, reverse, torch.ones(2, 1, dtype=torch.float64), noise=noise)
    assert reverse.network.times[0] == LINE.num_timesteps


@pytest.mark.parametrize("name", CHAINS)
def test_evaluations_are_counted_where_they_take_place(name):
    """Guidance acts by the raised time."""
    process = CHAINS[name]
    chain, guidance = process.respace(STEPS(process)), ClassifierFree(2.0, log_snr_interval=[-3.0, 1.7])
    sampler, y = ChurnSampler(STEPS, s_churn=1000, s_min=0.1, s_max=10.0), torch.zeros(2, dtype=torch.int64)
    reverse, rows = watched(process, null=1), []
    network = reverse.network
    counted = replace(reverse, network=lambda x_t, *more: rows.append(len(x_t)) or network(x_t, *more))
    noise = SampleNoise(0, torch.arange(2))
    sampler(process, guidance.around(counted), torch.ones(2, 1, dtype=torch.float64), y, noise)
    places = sampler.evaluated_at(chain)
    assert [chain.numbers(t).time for chain, t in places] == network.times
    assert [2 * guidance.evaluations(chain, t) for chain, t in places] == rows
    assert len(places) == len(sampler.evaluation_times(40)) == 79
    assert sum(rows) != sum(2 * guidance.evaluations(chain, t) for t in sampler.evaluation_times(40))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"s_churn": -1}, "sampler.s_churn=-1"),
        ({"s_churn": math.nan}, "sampler.s_churn=nan"),
        ({"s_min": 2, "s_max": 1}, "sampler.s_min=2, sampler.s_max=1"),
        ({"s_noise": -0.5}, "sampler.s_noise=-0.5"),
    ],
    ids=str,
)
def test_impossible_churn_is_refused(options, error):
    with pytest.raises(ValueError, match=error):
        ChurnSampler(**options)
