"""The objective of flow maps: rows of flow matching and of a residual, their times, teachers and guidance."""

from dataclasses import replace

import pytest
import torch

from diffusion_lab.diffusion import (
    AdaptiveWeighting,
    Consistency,
    CosineSchedule,
    EDMSchedule,
    Eulerian,
    FixedSmall,
    FlowMap,
    Lagrangian,
    MeanVelocity,
    PredictFlow,
    PredictVelocity,
    Progressive,
    RectifiedSchedule,
    ReverseProcess,
    Simple,
    StraightPath,
    Teacher,
    Velocities,
)

from .oracles import GaussianFlow
from .test_flow_maps import EXACT, RESIDUALS, SCHEDULES, T, each_schedule, exact_maps, seeded

NULL = 3
Y = torch.arange(8) % NULL


def times(schedule, size=8, low=0.05, high=0.95):
    """t ≥ s of a schedule, whose times of the straight path are uniform between those that all schedules have."""
    r = low + (high - low) * torch.rand(2, size, generator=seeded(1), dtype=torch.float64)
    s, t = r.sort(dim=0).values.unbind()
    path = StraightPath(schedule)
    return path.schedule_times(t), path.schedule_times(s)


def samples(size=8, dimensions=2):
    return GaussianFlow(dimensions).sample(size, seeded(2))


def of_classes(image, timesteps, y, end=None):
    """A network of two times, or of one without an end, whose output depends on all its inputs in no simple way."""
    code = (1 + y.double() + timesteps / T)[:, None]
    second = timesteps if end is None else end
    return torch.tanh(image * code) + 0.3 * code - 0.2 * (second / T)[:, None]


def conditional(prediction=PredictVelocity()):  # noqa: B008 - frozen
    return ReverseProcess(of_classes, prediction, FixedSmall(), null=NULL)


# ---- rows of flow matching, and of a residual ------------------------------------------------------------------------


@pytest.mark.parametrize("residual", EXACT, ids=repr)
@each_schedule
def test_the_exact_map_has_no_loss_under_a_teacher(schedule, residual):
    """Neither with s nor without, where the teacher is a network of one time on another schedule."""
    flow = GaussianFlow(2)
    x_0, eps = samples()
    t, s = times(schedule)
    other = SCHEDULES[SCHEDULES.index(schedule) - 1]
    objective = FlowMap(residual, teacher=Teacher(exact_maps(flow, other).reverse, other))
    for end in (None, s):
        terms = objective(schedule, exact_maps(flow, schedule).reverse, x_0, t, eps, s=end)
        assert float(terms["mse"].max()) < 1e-18


def test_without_s_it_is_flow_matching():
    """L_simple of ε − x_0 on the straight path."""
    schedule, reverse = RectifiedSchedule(T), conditional(PredictFlow())
    x_0, eps = samples()
    t, _ = times(schedule)
    found = FlowMap(Lagrangian(), weighting=AdaptiveWeighting(0))(schedule, reverse, x_0, t, eps, Y)
    expected = Simple()(schedule, reverse, x_0, t, eps, Y)
    for name in ("mse", "loss"):
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("residual", RESIDUALS, ids=repr)
def test_with_s_it_is_the_residual(residual):
    """Of the velocity of the samples; the loss is weighted, and missing values add nothing."""
    schedule, reverse = CosineSchedule(T), conditional()
    x_0, eps = samples()
    t, s = times(schedule)
    path = StraightPath(schedule)
    r = path.times(t)
    z = torch.lerp(x_0, eps, r[:, None])
    delta = residual(Velocities(MeanVelocity(reverse, path, Y)), z, r, path.times(s), eps - x_0)
    weighting = AdaptiveWeighting(0.5, constant=0.1)
    terms = FlowMap(residual, weighting=weighting)(schedule, reverse, x_0, t, eps, Y, s=s)
    torch.testing.assert_close(terms["mse"], delta.square().mean(dim=1))
    torch.testing.assert_close(terms["loss"], terms["mse"] * (terms["mse"] + 0.1) ** -0.5)
    known = torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(x_0)
    masked = FlowMap(residual)(schedule, reverse, x_0, t, eps, Y, known, s)
    torch.testing.assert_close(masked["mse"], delta[:, 0].square() / 2)


# ---- which rows, and their times -------------------------------------------------------------------------------------


def drawn(size):
    """Two draws of t for each sample."""
    return 1 + (T - 1) * torch.rand(2, size, generator=seeded(3), dtype=torch.float64)


def paired(objective, t, other, numbers=None, progress=1.0):
    """The rows with one and with two times, and the times."""
    rows = objective.rows(torch.arange(len(t)) if numbers is None else numbers)
    return rows, objective.pairs(t, other, rows, progress)


@pytest.mark.parametrize("first", [0, 7, 10**9])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7, 1])
def test_each_part_of_a_batch_has_its_share(share, first):
    objective, (t, other) = FlowMap(Eulerian(), share), drawn(60)
    numbers = first + torch.arange(60)
    rows, whole = paired(objective, t, other, numbers)
    assert len(rows.apart) == pytest.approx(60 * share, abs=1)
    assert sorted([*rows.apart.tolist(), *rows.together.tolist()]) == [*range(60)]
    ends = torch.full_like(t, -1).index_copy(0, rows.apart, whole.s)
    for size in (1, 8):
        for own in torch.arange(60).split(size):
            of_part, part = paired(objective, t[own], other[own], numbers[own])
            assert len(of_part.apart) == pytest.approx(len(own) * share, abs=1)
            assert torch.equal(part.t, whole.t[own])
            assert torch.equal(part.s, ends[own][of_part.apart])
            assert bool((ends[own][of_part.together] == -1).all())


def test_t_and_s_are_the_later_and_the_earlier():
    """Of two draws; or t is the first one, and s the clean end."""
    t, other = drawn(40)
    (apart, together), (found, s) = paired(FlowMap(Lagrangian(), 0.5), t, other)
    assert torch.equal(found[apart], torch.maximum(t, other)[apart])
    assert torch.equal(s, torch.minimum(t, other)[apart])
    assert torch.equal(found[together], t[together])
    _, (found, s) = paired(FlowMap(Consistency(), 0.5, to_clean_end=True), t, other)
    assert torch.equal(found, t)
    assert bool((s == 1).all())


@pytest.mark.parametrize("to_clean_end", [False, True])
def test_a_curriculum_grows_from_flow_matching(to_clean_end):
    t, other = drawn(40)

    def pairs(progress, curriculum=0.4):
        return paired(FlowMap(Eulerian(), 1, to_clean_end, curriculum), t, other, None, progress)[1]

    start, half, end = map(pairs, (0.0, 0.2, 0.4))
    assert torch.equal(start.s, start.t)
    torch.testing.assert_close(half.t - half.s, (end.t - end.s) / 2)
    for later in (pairs(1.0), pairs(0.0, curriculum=0)):
        assert torch.equal(later.s, end.s)
    x_0, eps = samples(40)
    terms = [
        FlowMap(residual, 1)(CosineSchedule(T), conditional(), x_0, start.t, eps, torch.arange(40) % NULL, s=s)
        for residual in (Eulerian(), Consistency())
        for s in (start.s, None)
    ]
    for of_residual, of_flow_matching in (terms[:2], terms[2:]):
        torch.testing.assert_close(of_residual["mse"], of_flow_matching["mse"])


# ---- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 3])
def test_guidance_changes_the_velocity(scale):
    """v(∅) + ω·(v(y) − v(∅)): a teacher's, or that of the sample away from the network's own without conditions."""
    schedule, other = CosineSchedule(T), EDMSchedule(T)
    x_0, eps = samples()
    t, s = times(schedule)
    path = StraightPath(schedule)
    r = path.times(t)
    z, nothing = torch.lerp(x_0, eps, r[:, None]), torch.full_like(Y, NULL)
    reverse, taught = conditional(), ReverseProcess(of_classes, PredictFlow(), FixedSmall(), null=NULL)
    for teacher, given, free in (
        (None, eps - x_0, MeanVelocity(reverse, path, nothing)(z, r, r)),
        (
            Teacher(taught, other),
            MeanVelocity(taught, StraightPath(other), Y)(z, r),
            MeanVelocity(taught, StraightPath(other), nothing)(z, r),
        ),
    ):
        v = free + scale * (given - free)
        objective = FlowMap(Eulerian(), guidance=scale, teacher=teacher)
        u = MeanVelocity(reverse, path, Y)
        for end, delta in (
            (None, u(z, r, r) - v),
            (s, Eulerian()(Velocities(u), z, r, path.times(s), v)),
        ):
            terms = objective(schedule, reverse, x_0, t, eps, Y, s=end)
            torch.testing.assert_close(terms["mse"], delta.square().mean(dim=1))


@pytest.mark.parametrize("v", ["of the sample", "guided", "of a teacher"])
@pytest.mark.parametrize("residual", RESIDUALS, ids=repr)
def test_evaluations_are_counted(residual, v):
    """Those with a gradient as three, those of a forward derivative as two; and no velocity is evaluated in vain."""
    schedule, count = CosineSchedule(T), []

    def network(image, timesteps, y, end=None):
        both = (timesteps, timesteps if end is None else end)
        derived = any(torch.autograd.forward_ad.unpack_dual(each).tangent is not None for each in both)
        count.append((3 if torch.is_grad_enabled() else 1) * (2 if derived else 1) * len(image))
        return of_classes(image, timesteps, y, end)

    x_0, eps = samples()
    t, s = times(schedule)
    reverse = replace(conditional(), network=network)
    teacher = Teacher(reverse, schedule) if v == "of a teacher" else None
    objective = FlowMap(residual, guidance=2.0 if v == "guided" else 1.0, teacher=teacher)
    for end in (None, s):
        objective(schedule, reverse, x_0, t, eps, Y, s=end)
    assert sum(count) / (2 * len(x_0)) == objective.evaluations


def test_a_teacher_takes_the_conditions_that_it_knows():
    """One without conditions ignores them; beyond the ends of its schedule its velocity is that of the end."""
    schedule = EDMSchedule(T)
    flow, path = GaussianFlow(2), StraightPath(schedule)
    teacher = Teacher(exact_maps(flow, schedule).reverse, schedule)
    z, _ = samples(3)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    within = t.clamp(*path.times(torch.tensor([1.0, T]).double()).tolist())
    torch.testing.assert_close(teacher.velocity(Y[:3])(z, t), flow.velocity(z, within))
    of_y = Teacher(ReverseProcess(of_classes, PredictVelocity(), FixedSmall(), null=NULL), schedule)
    nothing = torch.full((3,), NULL)
    torch.testing.assert_close(of_y.velocity(nothing, 3.0)(z, t), of_y.velocity(nothing)(z, t))


# ---- mistakes --------------------------------------------------------------------------------------------------------

WITHOUT_CONDITIONS = Teacher(exact_maps(GaussianFlow(2), SCHEDULES[0]).reverse, SCHEDULES[0])


@pytest.mark.parametrize(
    ("residual", "options", "said"),
    [
        (Eulerian(), {"share": 0}, r"objective\.share=0 "),
        (Eulerian(), {"share": 1.1}, r"objective\.share=1\.1 "),
        (Lagrangian(), {"share": 1}, r"Lagrangian is trained beside flow matching.*use objective\.share=0\.5"),
        (Progressive(), {"share": 1}, r"Progressive is trained beside flow matching"),
        (Eulerian(), {"share": 1, "to_clean_end": True, "guidance": 2}, r"trains no u on t = s.*objective\.share=0\.5"),
        (Eulerian(True), {"share": 1, "to_clean_end": True}, r"trains no u on t = s.*objective\.share=0\.5"),
        (Eulerian(), {"curriculum": -0.1}, r"objective\.curriculum=-0\.1 "),
        (Eulerian(), {"curriculum": 2}, r"objective\.curriculum=2 "),
        (Eulerian(), {"guidance": 0}, r"objective\.guidance=0 "),
        (
            Eulerian(),
            {"guidance": 2, "teacher": WITHOUT_CONDITIONS},
            r"objective\.guidance=2: the teacher has no conditions",
        ),
    ],
)
def test_options_out_of_range_are_named(residual, options, said):
    with pytest.raises(ValueError, match=said):
        FlowMap(residual, **options)
