"""Flow maps of data whose maps are known: of Gaussian data in closed form, of a mixture by a fine solution of its equation."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import (
    AdaptiveWeighting,
    Consistency,
    CosineSchedule,
    EDMSchedule,
    Eulerian,
    FixedSmall,
    FlowMatching,
    Lagrangian,
    LearnedSchedule,
    LogSNRSchedule,
    MeanVelocity,
    PredictEDM,
    PredictFlow,
    Prediction,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    Progressive,
    RealSchedule,
    RectifiedSchedule,
    ReverseProcess,
    StraightPath,
    Velocities,
    flow_map,
    flow_maps,
)

from .oracles import GaussianFlow

T = 100
SCHEDULES = [RectifiedSchedule(T), CosineSchedule(T), EDMSchedule(T)]
DIMENSIONS = [1, 2, 16]
EXACT = [Eulerian(), Eulerian(own_tangent=True), Lagrangian(), Progressive()]  # no bias
RESIDUALS = [*EXACT, Consistency(1 / 16)]

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
each_dimension = pytest.mark.parametrize("dimensions", DIMENSIONS)
# Each schedule in one dimension: beside exact maps it gives the ends of the times alone, and short tests have every pair.
each_of_both = pytest.mark.parametrize(
    ("schedule", "dimensions"), list(zip(SCHEDULES, DIMENSIONS, strict=True)), ids=["rectified-1", "cosine-2", "EDM-16"]
)


def ends(schedule) -> tuple[float, float]:
    """The times of the straight path at t = 1 and t = T."""
    first, last = StraightPath(schedule).times(torch.tensor([1.0, T]).double()).tolist()
    return first, last


def draw(flow, schedule, size, generator):
    """z_t of training samples, t ≥ s uniform, and the velocity ε − x_0 of each sample."""
    x_0, eps = flow.sample(size, generator)
    first, last = ends(schedule)
    share = torch.rand(2, size, generator=generator, dtype=torch.float64)
    s, t = (first + (last - first) * share).sort(dim=0).values.unbind()
    return torch.lerp(x_0, eps, t[:, None]), t, s, eps - x_0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- schedules -------------------------------------------------------------------------------------------------------


@each_dimension
@each_schedule
def test_every_schedule_is_the_straight_path(schedule, dimensions):
    """X = α_s·m + (s_s/s_t)·(x − α_t·m), s_t² = α_t²·λ + σ_t² of the schedule, is that of the straight path, equation (5)."""
    flow, path = GaussianFlow(dimensions), StraightPath(schedule)
    t, s = (1 + (T - 1) * torch.rand(2, 50, generator=seeded(), dtype=torch.float64)).unbind()
    x = 5 * torch.randn(50, dimensions, generator=seeded(1), dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ([part[:, None] for part in schedule.pair(time)] for time in (t, s))
    ratio = ((alpha_s**2 * flow.values + sigma_s**2) / (alpha_t**2 * flow.values + sigma_t**2)).sqrt()
    expected = alpha_s * flow.mean + (((x - alpha_t * flow.mean) @ flow.vectors) * ratio) @ flow.vectors.T
    z = flow.map(x / path.scale(t)[:, None], path.times(t), path.times(s))
    torch.testing.assert_close(path.scale(s)[:, None] * z, expected)


class ByBisection(EDMSchedule):
    """EDM's schedule without its formula for the time of a log SNR."""

    time_at = RealSchedule.time_at


@pytest.mark.parametrize(
    "schedule", [*SCHEDULES, LogSNRSchedule(T), LearnedSchedule(T), ByBisection(T)], ids=lambda s: type(s).__name__
)
def test_times_and_their_rates_go_both_ways(schedule):
    path = StraightPath(schedule)
    t = torch.tensor([1, 1.5, 7.3, 50.2, 99.7, T], dtype=torch.float64)
    back, rate = torch.func.jvp(path.schedule_times, (path.times(t),), (torch.ones_like(t),))
    torch.testing.assert_close(back, t, rtol=1e-10, atol=0)
    inner, h = t[1:-1], 1e-5
    there = (path.times(inner + h) - path.times(inner - h)) / (2 * h)
    torch.testing.assert_close(rate[1:-1] * there, torch.ones_like(inner), rtol=1e-6, atol=0)
    last = path.times(t[-1:])
    for r in (last, torch.nextafter(last, torch.ones_like(last))):  # at the end, and past it by rounding
        _, rate = torch.func.jvp(path.schedule_times, (r,), (torch.ones_like(r),))
        assert 0 < rate.item() < 1e5


# ---- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExactMaps:
    """The network of two times that is right, in the form of a prediction; of one time where no end is given."""

    flow: GaussianFlow
    path: StraightPath
    prediction: Prediction

    def __call__(self, image: Tensor, timesteps: Tensor, y: None, end: Tensor | None = None) -> Tensor:
        t, x_t = self._seen(image, timesteps)
        r = self.path.times(t)
        z = x_t / self.path.scale(t)[:, None]
        u = self.flow.u(z, r, r if end is None else self.path.times(self._seen(image, end)[0]))
        x_0, eps = z - r[:, None] * u, z + (1 - r)[:, None] * u
        return self.prediction.target(self.path.schedule, x_0, eps, t)

    def _seen(self, image: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.prediction, PredictEDM):
            return timesteps + 1, image
        sigma = (4 * timesteps).exp()  # c_noise
        t = self.path.schedule.time_at(-2 * sigma.log())
        return t, image * (self.prediction.data_std**2 + sigma.square()).sqrt()[:, None]


def exact_maps(flow, schedule, prediction=PredictVelocity()):  # noqa: B008 - frozen
    path = StraightPath(schedule)
    return MeanVelocity(ReverseProcess(ExactMaps(flow, path, prediction), prediction, FixedSmall()), path)


PREDICTED = [
    *(
        (prediction(), schedule)
        for prediction in (PredictFlow, PredictVelocity, PredictStart)
        for schedule in SCHEDULES
    ),
    (PredictNoise(), RectifiedSchedule(T)),
    (PredictEDM(0.5), EDMSchedule(T)),
]


@pytest.mark.parametrize(("prediction", "schedule"), PREDICTED, ids=lambda part: type(part).__name__)
def test_u_of_a_network_whatever_it_predicts(prediction, schedule):
    flow, generator = GaussianFlow(2), seeded()
    u = exact_maps(flow, schedule, prediction)
    z, t, s, _ = draw(flow, schedule, 50, generator)
    torch.testing.assert_close(u(z, t, s), flow.u(z, t, s))
    torch.testing.assert_close(u(z, t), flow.velocity(z, t))  # a diffusion model
    torch.testing.assert_close(u(z, t, t), flow.velocity(z, t))  # is the diagonal
    assert torch.equal(flow_map(u, z, t, t), z)
    for residual in (Eulerian(), Lagrangian()):  # by derivatives with respect to each input
        delta = residual(Velocities(u), z, t, s, flow.velocity(z, t))
        assert float(delta.abs().max()) < 1e-10


def test_u_keeps_the_dtype_of_samples():
    flow, schedule = GaussianFlow(2), CosineSchedule(T)
    network = ExactMaps(flow, StraightPath(schedule), PredictVelocity())
    single = lambda image, *rest: network(image.double(), *rest).float()  # noqa: E731
    u = replace(exact_maps(flow, schedule), reverse=ReverseProcess(single, PredictVelocity(), FixedSmall()))
    z, t, s, v = draw(flow, schedule, 50, seeded())
    for residual in RESIDUALS:
        delta = residual(Velocities(u), z.float(), t, s, v.float())
        assert delta.dtype == torch.float32
        torch.testing.assert_close(delta.double(), residual(Velocities(flow.u), z, t, s, v), rtol=0, atol=2e-4)


# ---- the exact map of Gaussian data ----------------------------------------------------------------------------------


@each_dimension
@each_schedule
def test_the_identities_hold_for_the_exact_map(schedule, dimensions):
    flow = GaussianFlow(dimensions)
    z, t, s, _ = draw(flow, schedule, 100, seeded())
    r = (t + s) / 2
    torch.testing.assert_close(flow_map(flow.u, z, t, s), flow.map(z, t, s))
    for zero in (
        flow_maps.semigroup(flow.map, z, t, r, s),
        flow_maps.eulerian(flow.map, flow.velocity, z, t, s),
        flow_maps.lagrangian(flow.map, flow.velocity, z, t, s),
    ):
        assert float(zero.abs().max()) < 1e-10


@pytest.mark.parametrize("residual", [FlowMatching(), *EXACT], ids=repr)
@each_dimension
@each_schedule
def test_residuals_vanish_at_the_exact_map(schedule, dimensions, residual):
    """With the exact velocity, through a network on the schedule."""
    flow = GaussianFlow(dimensions)
    z, t, s, _ = draw(flow, schedule, 100, seeded())
    delta = residual(Velocities(exact_maps(flow, schedule)), z, t, s, flow.velocity(z, t))
    assert float(delta.abs().max()) < 1e-10


class Perturbed(nn.Module):
    """The exact u and Σ_k φ_k(t, s)·(W_k·z + b_k), φ = 1, t, s, with parameters, all 0, for each group of a batch."""

    def __init__(self, flow: GaussianFlow, groups: int) -> None:
        super().__init__()
        self.flow, dimensions = flow, len(flow.mean)
        self.gain = nn.Parameter(torch.zeros(groups, 3, dimensions, dimensions, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(groups, 3, dimensions, dtype=torch.float64))

    def forward(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        features = torch.stack([torch.ones_like(t), t, s], dim=1)
        of_z = (features[:, :, None] * z[:, None]).flatten(1)
        both = torch.cat([of_z, features], dim=1).unflatten(0, (len(self.gain), -1))
        affine = both @ torch.cat([self.gain.flatten(1, 2), self.shift], dim=1)
        return self.flow.u(z, t, s) + affine.flatten(0, 1)


def group_gradients(residual, flow, schedule, size, generator, groups=40):
    """(groups, parameters): the mean gradient of ½·‖Δ‖² in each group, v being the velocity of the samples."""
    network = Perturbed(flow, groups)
    z, t, s, v = draw(flow, schedule, size, generator)
    loss = 0.5 * residual(Velocities(network), z, t, s, v).square().sum() * groups / size
    return torch.cat([part.flatten(1) for part in torch.autograd.grad(loss, tuple(network.parameters()))], dim=1)


@dataclass(frozen=True)
class Beside:
    """Flow matching and a residual that takes no velocity from samples."""

    residual: flow_maps.Residual

    def __call__(self, of, z, t, s, v):
        return torch.cat([FlowMatching()(of, z, t, s, v), self.residual(of, z, t, s, v)], dim=1)


SAMPLED = [*EXACT[:2], *(Beside(residual) for residual in EXACT[2:])]


def deviations(residual, flow, schedule, chunks, size):
    """The mean gradient of each parameter, in standard errors."""
    generator = seeded(7)
    gradients = [group_gradients(residual, flow, schedule, size, generator) for _ in range(chunks)]
    every = torch.cat(gradients)
    return every.mean(dim=0) / every.std(dim=0) * math.sqrt(len(every))


@pytest.mark.parametrize("residual", SAMPLED, ids=repr)
@each_dimension
@each_schedule
def test_the_mean_gradient_of_samples_is_zero(schedule, dimensions, residual):
    found = deviations(residual, GaussianFlow(dimensions), schedule, 1, 10_000)
    assert float(found.abs().max()) < 4


@pytest.mark.thorough
@pytest.mark.parametrize("residual", SAMPLED, ids=repr)
@each_of_both
def test_the_mean_gradient_of_a_million_is_zero(schedule, dimensions, residual):
    found = deviations(residual, GaussianFlow(dimensions), schedule, 50, 20_000)
    assert float(found.abs().max()) < 4


STEPS = [1 / 16, 1 / 32, 1 / 64]


@each_dimension
@each_schedule
def test_discrete_consistency_is_of_first_order(schedule, dimensions):
    flow = GaussianFlow(dimensions)
    z, t, s, _ = draw(flow, schedule, 1_000, seeded())
    error = [
        float(Consistency(h)(Velocities(flow.u), z, t, s, flow.velocity(z, t)).square().mean().sqrt()) for h in STEPS
    ]
    assert error[0] / error[1] == pytest.approx(2, rel=0.05)
    assert error[1] / error[2] == pytest.approx(2, rel=0.03)
    assert error[0] > 0.01


def biases(schedule, dimensions, size):
    """The norm of the mean gradient at the exact map, less that of `Eulerian` for the same samples, whose mean is zero."""
    flow = GaussianFlow(dimensions)
    zero, *steps = (
        group_gradients(residual, flow, schedule, size, seeded(3)).mean(dim=0)
        for residual in (Eulerian(), *map(Consistency, STEPS))
    )
    return [float((step - zero).norm()) for step in steps]


@each_schedule
def test_consistency_training_has_that_bias(schedule):
    first, second, third = biases(schedule, 1, 10_000)
    assert first / second == pytest.approx(2, rel=0.1)
    assert second / third == pytest.approx(2, rel=0.1)
    assert first > 0.01


@pytest.mark.thorough
@each_of_both
def test_consistency_training_of_many_samples(schedule, dimensions):
    first, second, third = biases(schedule, dimensions, 100_000)
    assert first / second == pytest.approx(2, rel=0.05)
    assert second / third == pytest.approx(2, rel=0.05)


# ---- training --------------------------------------------------------------------------------------------------------


class Affine(nn.Module):
    """u affine in z, its coefficients polynomials in (t, s), all 0 at first; orthonormal features, so that SGD is fast."""

    def __init__(self, flow: GaussianFlow, schedule, residual: flow_maps.Residual, degree: int) -> None:
        super().__init__()
        powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        self.powers = torch.tensor(powers, dtype=torch.float64)
        z, t, s, _ = draw(flow, schedule, 4096, seeded(3))
        trained, slope = torch.func.jvp(lambda s: self.features(z, t, s), (s,), (torch.ones_like(s),))
        if isinstance(residual, Lagrangian):
            trained = trained + (s - t)[:, None] * slope  # of ∂_s X
        both = torch.cat([trained, self.features(z, t, t)])
        self.whitening = torch.linalg.inv(torch.linalg.cholesky(both.T @ both / 4096)).T
        self.weights = nn.Parameter(torch.zeros(len(self.whitening), len(flow.mean), dtype=torch.float64))

    def features(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        of_times = t[:, None] ** self.powers[:, 0] * s[:, None] ** self.powers[:, 1]
        return torch.cat([of_times, (of_times[:, :, None] * z[:, None]).flatten(1)], dim=1)

    def forward(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.features(z, t, s) @ self.whitening @ self.weights


def error_after(residual, flow, schedule, rates, sampled, degree=3, size=512):
    """The error of X relative to the distance that X moves points, root mean square, after a step at each learning rate."""
    network, generator = Affine(flow, schedule, residual, degree), seeded(2)
    optimizer = torch.optim.SGD(network.parameters())
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        z, t, s, v = draw(flow, schedule, size, generator)
        of, v = Velocities(network), v if sampled else flow.velocity(z, t)
        losses = [part(of, z, t, s, v).square().sum(dim=1).mean() for part in (FlowMatching(), residual)]
        optimizer.zero_grad()
        (0.5 * sum(losses)).backward()
        optimizer.step()
    z, t, s, _ = draw(flow, schedule, 2_000, generator)
    exact = flow.map(z, t, s)
    with torch.no_grad():
        return float((flow_map(network, z, t, s) - exact).norm() / (z - exact).norm())


@pytest.mark.parametrize(
    ("residual", "error"), [*zip(EXACT, (0.05, 0.05, 0.07, 0.05), strict=True), (Consistency(1 / 64), 0.05)], ids=repr
)
def test_training_by_each_residual_finds_the_map(residual, error):
    """By distillation from the exact velocity: within 5 to 7 % of the distance that the map moves points, of 100 % at first."""
    rate = 0.5 if isinstance(residual, Progressive | Lagrangian) else 0.2
    assert error_after(residual, GaussianFlow(1), RectifiedSchedule(T), [rate] * 40, sampled=False) < error


@pytest.mark.thorough
@pytest.mark.parametrize("residual", [*EXACT, Consistency(1 / 64)], ids=repr)
def test_long_training_by_each_residual_finds_the_map(residual):
    """In two dimensions, degree 4, 150 steps: within 1.5 %; 3 % for discrete consistency, which is not of the exact map."""
    rate = 0.4 if isinstance(residual, Progressive | Lagrangian) else 0.1
    error = error_after(residual, GaussianFlow(2), EDMSchedule(T), [rate] * 150, sampled=False, degree=4, size=1024)
    assert error < (0.03 if isinstance(residual, Consistency) else 0.015)


@pytest.mark.thorough
@pytest.mark.parametrize("residual", [*EXACT, Consistency(1 / 64)], ids=repr)
def test_long_training_by_samples_finds_the_map(residual):
    """From ε − x_0 alone, within 8 %; the network, of low degree in t, explains 2 to 6 % of that."""
    rate = 0.5 if isinstance(residual, Progressive | Lagrangian) else 0.2
    rates = [rate / (1 + step / 50) for step in range(150)]
    assert error_after(residual, GaussianFlow(1), RectifiedSchedule(T), rates, sampled=True, size=1024) < 0.08


# ---- a mixture of two, whose map is not affine -----------------------------------------------------------------------


class Mixture:
    """Two isotropic Gaussians in the plane."""

    means = torch.tensor([[-0.8, 0.3], [0.6, -0.2]], dtype=torch.float64)
    stds = torch.tensor([0.3, 0.5], dtype=torch.float64)
    log_weights = torch.tensor([0.3, 0.7], dtype=torch.float64).log()

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """(z − E[x_0|z])/t."""
        signal, sigma = (1 - t)[:, None], t[:, None]
        variance = (signal * self.stds).square() + sigma.square()  # (B, 2)
        apart = z[:, None] - signal[:, :, None] * self.means  # (B, 2, D)
        log_p = self.log_weights - apart.square().sum(dim=2) / (2 * variance) - variance.log()
        x_0 = self.means + (signal * self.stds.square() / variance)[:, :, None] * apart
        return (z - (log_p.softmax(dim=1)[:, :, None] * x_0).sum(dim=1)) / t[:, None]

    def map(self, z: Tensor, t: Tensor, s: Tensor, steps: int = 16) -> Tensor:
        """By the classical Runge-Kutta rule."""
        h = (s - t) / steps
        step = h[:, None]
        for k in range(steps):
            here = t + k * h
            a = self.velocity(z, here)
            b = self.velocity(z + step / 2 * a, here + h / 2)
            c = self.velocity(z + step / 2 * b, here + h / 2)
            d = self.velocity(z + step * c, here + h)
            z = z + step / 6 * (a + 2 * b + 2 * c + d)
        return z

    def u(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if torch.equal(t, s):
            return self.velocity(z, t)
        return (self.map(z, t, s) - z) / (s - t)[:, None]


@pytest.fixture(scope="module")
def plane():
    """Points between the two, where the map bends, and times."""
    generator = seeded(5)
    t = 0.6 + 0.4 * torch.rand(64, generator=generator, dtype=torch.float64)
    s = 0.1 + 0.3 * torch.rand(64, generator=generator, dtype=torch.float64)
    return 0.7 * torch.randn(64, 2, generator=generator, dtype=torch.float64), t, s


def test_the_map_of_the_mixture_bends(plane):
    z, t, s = plane
    mixture = Mixture()
    jacobian = torch.func.vmap(
        torch.func.jacrev(lambda z, t, s: mixture.map(z[None], t[None], s[None], steps=10)[0]), (0, 0, 0)
    )(z, t, s)
    assert float(jacobian.std(dim=0).max()) > 0.1  # an affine map has the same everywhere
    assert float((jacobian - jacobian.mT).abs().max()) > 0.03


@pytest.mark.parametrize("residual", EXACT, ids=repr)
def test_residuals_vanish_for_a_mixture(residual, plane):
    z, t, s = plane
    mixture = Mixture()
    delta = residual(Velocities(mixture.u), z, t, s, mixture.velocity(z, t))
    assert float(delta.abs().max()) < 3e-5


def test_two_steps_are_one_for_a_mixture(plane):
    z, t, s = plane
    assert float(flow_maps.semigroup(Mixture().map, z, t, (t + s) / 2, s).abs().max()) < 3e-5


def test_consistency_is_of_first_order_for_a_mixture(plane):
    z, t, s = plane
    mixture = Mixture()
    of, v = Velocities(mixture.u), mixture.velocity(z, t)
    first, second = (float(Consistency(h)(of, z, t, s, v).square().mean().sqrt()) for h in (1 / 32, 1 / 64))
    assert first / second == pytest.approx(2, rel=0.1)


# ---- gradients -------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def forward(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.layers(torch.cat([z, t[:, None], s[:, None]], dim=1))


def small_batch():
    torch.manual_seed(0)
    return Small(), *draw(GaussianFlow(2), RectifiedSchedule(T), 32, seeded())


def gradient(loss, network):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])


@pytest.mark.parametrize("residual", [FlowMatching(), *RESIDUALS], ids=repr)
def test_targets_give_no_gradient(residual):
    """The gradient of ½·‖Δ‖² is Δ times that of the prediction alone."""
    network, z, t, s, v = small_batch()
    delta = residual(Velocities(network), z, t, s, v)
    prediction = network(z, t, t if isinstance(residual, FlowMatching) else s)
    if isinstance(residual, Lagrangian):
        _, prediction = torch.func.jvp(lambda s: flow_map(network, z, t, s), (s,), (torch.ones_like(s),))
    torch.testing.assert_close(
        gradient(0.5 * delta.square().sum(), network), gradient((delta.detach() * prediction).sum(), network)
    )


def test_a_teacher_is_the_instantaneous_velocity():
    network, z, t, s, v = small_batch()
    other = Small()
    own, taught = Velocities(network), Velocities(network, lambda z, t: other(z, t, t))
    reads = [not torch.equal(residual(own, z, t, s, v), residual(taught, z, t, s, v)) for residual in RESIDUALS]
    expected = [residual in (Eulerian(own_tangent=True), Lagrangian()) for residual in RESIDUALS]
    assert reads == expected
    assert any(expected)


def test_the_gradient_of_consistency_is_that_of_x():
    """½·w·‖X(z, t, s) − sg X(z_r, r, s)‖², w = 1/((t − r)·(t − s)): the weighted loss of consistency models."""
    network, z, t, s, v = small_batch()
    h = 0.25
    r = t - h * (t - s)
    with torch.no_grad():
        target = flow_map(network, z - (t - r)[:, None] * v, r, s)
    difference = (flow_map(network, z, t, s) - target).square().sum(dim=1)
    published = gradient((0.5 * difference / ((t - r) * (t - s))).sum(), network)
    ours = gradient(0.5 * Consistency(h)(Velocities(network), z, t, s, v).square().sum(), network)
    torch.testing.assert_close(ours, published)


@pytest.mark.parametrize("residual", [Eulerian(), Consistency(0.5)], ids=repr)
def test_without_a_step_it_is_flow_matching(residual):
    network, z, t, s, v = small_batch()
    of = Velocities(network)
    torch.testing.assert_close(residual(of, z, t, t, v), FlowMatching()(of, z, t, s, v))
    torch.testing.assert_close(Consistency(1)(of, z, t, s, v), network(z, t, s) - v)


@pytest.mark.parametrize("step", [0, 1.5])
def test_a_step_is_a_share(step):
    with pytest.raises(ValueError, match=r"residual\.step"):
        Consistency(step)


@pytest.mark.parametrize("power", [0.0, 0.5, 0.9])
def test_adaptive_weighting_has_the_gradient_of_a_power(power):
    delta = torch.randn(5, 2, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    squares = delta.square().mean(dim=(1, 2))
    weighted = (AdaptiveWeighting(power, constant=1e-14).weight(squares) * squares).sum()
    (found,) = torch.autograd.grad(weighted, delta, retain_graph=True)
    (expected,) = torch.autograd.grad((squares ** (1 - power) / (1 - power)).sum(), delta)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(AdaptiveWeighting(1, 1e-3).weight(squares), 1 / (squares.detach() + 1e-3))
    with pytest.raises(ValueError, match="power"):
        AdaptiveWeighting(power=2)
