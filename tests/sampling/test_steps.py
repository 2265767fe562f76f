"""Step rules of first order: the spread of what they generate, the last step, and DDIM in both directions."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from diffusion_lab.analysis import Analytic
from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    LearnedRange,
    LinearSchedule,
    PredictNoise,
    PredictVelocity,
    RectifiedSchedule,
    ReverseProcess,
    SampleNoise,
    StraightPath,
)
from diffusion_lab.sampling import (
    AllSteps,
    AnalyticDDIMSampler,
    AncestralSampler,
    ClassifierFree,
    DDIMSampler,
    EvenSpacing,
    FlowMapSampler,
    HeunSampler,
    StraightSpacing,
    Walk,
)

from ..diffusion.oracles import (
    OFF_CENTRE,
    ExactNetwork,
    GaussianData,
    GaussianFlow,
    OptimalVariance,
    exact_reverse,
    exact_statistics,
    steps,
)
from ..diffusion.test_flow_maps import exact_maps

DATA = GaussianData(0.0, 0.5)


def exact(schedule, variance, data=DATA, clip=False, prediction=None):
    process = GaussianDiffusion(schedule)
    prediction = prediction or PredictNoise()
    return process, ReverseProcess(ExactNetwork(data, process, prediction), prediction, variance, clip_x_0=clip)


def generated_std(schedule, variance, sampler) -> float:
    """The sampler is affine in (x_T, z_1 … z_K): a row a basis vector, whose squared images add up to the variance."""
    process, reverse = exact(schedule, variance)
    kept = sampler.spacing(process.num_timesteps).tolist()
    basis = torch.eye(len(kept) + 1, dtype=torch.float64)
    row_of = {t: row for row, t in enumerate(kept, start=1)}
    noise = lambda t, like: basis[:, row_of[t]][:, None]  # noqa: E731
    return float(sampler(process, reverse, basis[:, :1], noise=noise).square().sum().sqrt())


@pytest.mark.parametrize(
    ("schedule", "num_steps", "ddim", "small", "large", "optimal"),
    [
        (LinearSchedule(1000), 10, 0.36161, 0.32284, 0.59877, 0.49990),
        (LinearSchedule(1000), 100, 0.48585, 0.46795, 0.50858, 0.49990),
        (CosineSchedule(1000), 10, 0.42105, 0.38062, 0.55318, 0.49996),
    ],
    ids=["linear 10", "linear 100", "cosine 10"],
)
def test_the_spread_of_what_is_generated(schedule, num_steps, ddim, small, large, optimal):
    """Fixed β̃ under-disperses and β over-disperses when steps are few, which is why variance is learned."""
    spacing = EvenSpacing(num_steps)
    assert generated_std(schedule, FixedSmall(), DDIMSampler(spacing)) == pytest.approx(ddim, abs=1e-5)
    assert generated_std(schedule, FixedSmall(), AncestralSampler(spacing)) == pytest.approx(small, abs=1e-5)
    assert generated_std(schedule, FixedLarge(), AncestralSampler(spacing)) == pytest.approx(large, abs=1e-5)
    # The last step returns the mean, so the exact Σ falls short by the spread of p(x_0|x_1) only.
    assert generated_std(schedule, OptimalVariance(DATA), AncestralSampler(spacing)) == pytest.approx(optimal, abs=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_1_is_ancestral_with_beta_tilde(num_steps, clip):
    """Ddim with eta 1 is ancestral with beta tilde at any stride."""
    process, reverse = exact(CosineSchedule(100), FixedSmall(), clip=clip)
    x_T = 2 * SampleNoise(0, torch.arange(5)).initial((3,)).double()
    spacing, noise = EvenSpacing(num_steps), SampleNoise(1, torch.arange(5))
    ancestral = AncestralSampler(spacing)(process, reverse, x_T, noise=noise)
    ddim = DDIMSampler(spacing, eta=1.0)(process, reverse, x_T, noise=noise)
    torch.testing.assert_close(ddim, ancestral, rtol=0, atol=1e-9)


def test_eta_scales_the_noise_between_the_two():
    process, reverse = exact(CosineSchedule(100), FixedSmall())
    stds = [
        generated_std(CosineSchedule(100), FixedSmall(), DDIMSampler(EvenSpacing(10), eta=e)) for e in (0.0, 0.5, 1.0)
    ]
    assert stds[0] > stds[1] > stds[2]

    def step(eta, z):
        walk = Walk(process, reverse, lambda key, like: torch.full_like(like, z))
        return DDIMSampler(AllSteps(), eta=eta).step(walk, torch.zeros(1, 1, dtype=torch.float64), 50)

    beta_tilde = process.beta_tilde(torch.tensor([50]))
    for eta in (0.5, 1.0):
        assert float(step(eta, 1.0) - step(eta, 0.0)) == pytest.approx(eta * float(beta_tilde.sqrt()), rel=1e-9)


@pytest.mark.parametrize("sampler", [AncestralSampler(EvenSpacing(4)), DDIMSampler(EvenSpacing(4))], ids=str)
def test_the_last_step_returns_x_0_without_noise(sampler):
    process, reverse = exact(CosineSchedule(20), FixedLarge())
    states = list(sampler.trajectory(process, reverse, torch.ones(2, 1, dtype=torch.float64)))
    assert [t for t, _ in states] == [20, 14, 7, 1, 0]
    strided = process.respace(EvenSpacing(4)(20))
    look = reverse(strided, states[-2][1], torch.tensor([1, 1]))
    torch.testing.assert_close(states[-1][1], look.x_0)


def test_an_ancestral_step_is_mean_plus_the_learned():
    """An ancestral step is mean plus the learned std times noise."""
    process = GaussianDiffusion(CosineSchedule(20))
    network = lambda x_t, timesteps, y: torch.cat([0.5 * x_t, torch.full_like(x_t, 0.4)], dim=1)  # noqa: E731
    reverse = ReverseProcess(network, PredictVelocity(), LearnedRange(), clip_x_0=False)
    x_T, noise = torch.ones(2, 1, dtype=torch.float64), SampleNoise(0, torch.arange(2))
    states = dict(AncestralSampler().trajectory(process, reverse, x_T, noise=noise))
    distribution = reverse(process, x_T, torch.tensor([20, 20])).distribution
    std = torch.exp(0.5 * distribution.log_variance)
    torch.testing.assert_close(states[19], distribution.mean + std * noise(20, x_T))


def test_encoding_is_inverted_by_decoding():
    """Encoding is inverted by decoding with an error of first order."""
    data = GaussianData(0.2, 0.4)
    process, reverse = exact(CosineSchedule(4000), FixedSmall(), data)
    x_0 = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    errors = []
    for num_steps in (25, 50, 100, 200):
        sampler = DDIMSampler(EvenSpacing(num_steps))
        x_T = sampler.encode(process, reverse, x_0)
        errors.append(float((sampler(process, reverse, x_T) - x_0).abs().max()))
    rates = [coarse / fine for coarse, fine in pairwise(errors)]
    assert errors[-1] < 0.04
    assert all(1.7 < rate < 2.3 for rate in rates), (errors, rates)


def test_encoded_gaussian_data_are_standard_normal():
    data = GaussianData(0.2, 0.4)
    process, reverse = exact(CosineSchedule(4000), FixedSmall(), data)
    x_0 = torch.tensor([[data.mean], [data.mean + data.std]], dtype=torch.float64)
    x_T = DDIMSampler(EvenSpacing(1000)).encode(process, reverse, x_0)
    assert float(x_T[0]) == pytest.approx(0, abs=0.02)
    assert float(x_T[1] - x_T[0]) == pytest.approx(1, abs=0.02)


def test_a_random_sampler_cannot_encode():
    process, reverse = exact(CosineSchedule(10), FixedSmall())
    with pytest.raises(ValueError, match=r"eta = 0.5: only the deterministic sampler"):
        DDIMSampler(eta=0.5).encode(process, reverse, torch.zeros(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("eta", [-0.1, 1.01, 1e9, math.nan])
def test_an_eta_beyond_0_and_1_is_refused(eta):
    """Above 1 the root in DDIM's equation 12 may be of a negative number; below 0 only η² would count."""
    with pytest.raises(ValueError, match="eta = "):
        DDIMSampler(eta=eta)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_analytic_ddim_draws_what_the_paper_says(eta):
    """One step, against the theorem at λ² = η²·β̃."""
    process = GaussianDiffusion(CosineSchedule(100))
    statistics = exact_statistics(process)
    reverse = exact_reverse(process, Analytic(statistics))
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
    small, analytic = exact_reverse(process), exact_reverse(process, Analytic(exact_statistics(process)))
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
    reverse = exact_reverse(process, Analytic(exact_statistics(process)))
    x_0 = chain(process, reverse, noise.initial((1,)).double(), noise=noise)
    last = OFF_CENTRE.variance_of_x_0_given_x_t(
        *process.pair(steps(1, 1))
    )  # what the last step, which shows the mean, leaves out
    assert float(x_0.var() + last) == pytest.approx(OFF_CENTRE.std**2, rel=0.03)
    small = dataclasses.replace(reverse, variance=FixedSmall())
    assert float(AncestralSampler(EvenSpacing(4))(process, small, noise.initial((1,)).double(), noise=noise).var()) < (
        0.8 * OFF_CENTRE.std**2
    )


# ---- flow maps -------------------------------------------------------------------------------------------------------

FLOW = GaussianFlow(2)
COVARIANCE = (FLOW.vectors * FLOW.values) @ FLOW.vectors.T
each_schedule = pytest.mark.parametrize(
    "schedule",
    [RectifiedSchedule(1000), CosineSchedule(1000), EDMSchedule(1000)],
    ids=lambda schedule: type(schedule).__name__,
)


def of_flow_map(schedule):
    """The process, and the exact network of two times of Gaussian data in the plane."""
    reverse = exact_maps(FLOW, schedule).reverse
    return GaussianDiffusion(schedule), dataclasses.replace(reverse, clip_x_0=False)


def mean_and_covariance(sampler, process, reverse):
    """Of the samples, which are affine in (x_T, z_K … z_2): all zero, then a row for each direction of each."""
    kept = sampler.spacing(process)
    rows = 1 + 2 * len(kept)
    drawn = {0: torch.zeros(rows, 2, dtype=torch.float64)}

    def noise(key, like):
        if key not in drawn:
            drawn[key] = torch.zeros(rows, 2, dtype=torch.float64)
            drawn[key][2 * len(drawn) - 3 : 2 * len(drawn) - 1] = torch.eye(2)
        return drawn[key]

    images = sampler(process, reverse, noise(-1, None), noise=noise)
    assert len(drawn) == 1 + (len(kept) if getattr(sampler, "restarts", False) else 1)
    away = images[1:] - images[0]
    return images[0], away.T @ away


@each_schedule
def test_steps_of_the_exact_map_have_any_length(schedule):
    """One, two or four: the same sample, up to the noise that the clean end keeps, and every state on the way on the path."""
    process, reverse = of_flow_map(schedule)
    path, x_T = StraightPath(schedule), SampleNoise(0, torch.arange(50)).initial((2,)).double()
    found = []
    for num_steps in (1, 2, 4):
        sampler = FlowMapSampler(StraightSpacing(num_steps, real=True))
        *states, (_, x_0) = sampler.trajectory(process, reverse, x_T)
        assert len(states) == num_steps
        times = torch.tensor([[t] * 50 for t, _ in states], dtype=torch.float64)
        z = [x / path.scale(t)[:, None] for t, (_, x) in zip(times, states, strict=True)]
        for t, here in zip(times, z, strict=True):
            torch.testing.assert_close(here, FLOW.map(z[0], path.times(times[0]), path.times(t)))
        first = path.times(torch.ones(50, dtype=torch.float64))
        end = path.times(times[-1])
        u = FLOW.u(z[-1], end, first)
        torch.testing.assert_close(x_0, z[-1] - end[:, None] * u)  # the chord to the clean end, and on to no noise
        found.append(x_0)
        mean, covariance = mean_and_covariance(sampler, process, reverse)
        torch.testing.assert_close(mean, FLOW.mean, rtol=0, atol=0.02)
        torch.testing.assert_close(covariance, COVARIANCE, rtol=0.02, atol=0.005)
    for x_0 in found[1:]:
        torch.testing.assert_close(x_0, found[0], rtol=0, atol=4 * float(first[0]) * float(x_T.abs().max()))


@each_schedule
@pytest.mark.parametrize("num_steps", [2, 4])
def test_restarts_have_the_spread_of_the_data(schedule, num_steps):
    process, reverse = of_flow_map(schedule)
    sampler = FlowMapSampler(StraightSpacing(num_steps), restarts=True)
    mean, covariance = mean_and_covariance(sampler, process, reverse)
    torch.testing.assert_close(mean, FLOW.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(covariance, COVARIANCE, rtol=0.02, atol=0.005)


class OnTheDiagonal:
    """A network of two times that ignores the second one, and records it."""

    def __init__(self, network):
        self.network, self.ends = network, []

    def __call__(self, x_t, timesteps, y, end=None):
        self.ends.append(None if end is None else float(end[0]))
        return self.network(x_t, timesteps, y)


@each_schedule
def test_a_flow_map_of_one_time_is_ddim(schedule):
    """Because the instantaneous velocity is that of the whole step. Other samplers give a network of two times no end."""
    process, reverse = of_flow_map(schedule)
    spacing, x_T = StraightSpacing(6, real=True), SampleNoise(0, torch.arange(5)).initial((2,)).double()
    network = OnTheDiagonal(reverse.network)
    diagonal = dataclasses.replace(reverse, network=network)
    torch.testing.assert_close(
        FlowMapSampler(spacing)(process, diagonal, x_T), DDIMSampler(spacing)(process, reverse, x_T)
    )
    visited = [float(t) - 1 for t in spacing(process)]
    assert network.ends == pytest.approx([*visited[-2::-1], 0])  # as counted for the network; the last is the clean end
    network.ends.clear()
    FlowMapSampler(spacing, restarts=True)(process, diagonal, x_T)
    assert network.ends == [0] * 6
    network.ends.clear()
    for sampler in (DDIMSampler(spacing), HeunSampler(spacing), AncestralSampler(spacing)):
        sampler(process, diagonal, x_T)
    assert {*network.ends} == {None}


def test_only_a_sample_is_clipped():
    """x̂_0 of a step to another time than the clean end is no sample."""
    process, reverse = of_flow_map(CosineSchedule(1000))
    clipped, x_T = dataclasses.replace(reverse, clip_x_0=True), torch.full((1, 2), 4.0, dtype=torch.float64)
    sampler = FlowMapSampler(StraightSpacing(3))
    *free, (_, x_0) = sampler.trajectory(process, reverse, x_T)
    *states, (_, last) = sampler.trajectory(process, clipped, x_T)
    for (_, one), (_, other) in zip(free, states, strict=True):
        assert torch.equal(one, other)
    assert float(x_0.abs().max()) > 1
    torch.testing.assert_close(last, x_0.clamp(-1, 1))


def test_guided_steps_combine_chords():
    """Of the same network with and without a condition, at both times."""

    def network(x_t, timesteps, y, end):
        return torch.tanh(x_t * (1 + y)[:, None]) + (end - timesteps)[:, None] / 50

    process = GaussianDiffusion(CosineSchedule(50))
    reverse = ReverseProcess(network, PredictVelocity(), FixedSmall(), clip_x_0=False, null=3)
    x, y = SampleNoise(0, torch.arange(5)).initial((2,)).double(), torch.arange(5) % 3
    noise = SampleNoise(1, torch.arange(5))
    guided = ClassifierFree(2.5).around(reverse)
    for s in (0, 20):
        free, given = (
            Walk(process, reverse, noise, part).predict_chord(x, 40, s) for part in (torch.full_like(y, 3), y)
        )
        found = Walk(process, guided, noise, y).predict_chord(x, 40, s)
        for name in ("x_0", "eps"):
            expected = torch.lerp(getattr(free, name), getattr(given, name), 2.5)
            torch.testing.assert_close(getattr(found, name), expected)
    samples = FlowMapSampler(StraightSpacing(2))(process, guided, x, y)
    assert not torch.allclose(samples, FlowMapSampler(StraightSpacing(2))(process, reverse, x, y))
