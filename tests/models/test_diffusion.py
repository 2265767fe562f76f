"""Denoising diffusion as it trains."""

from functools import partial

import pytest
import torch

from diffusion_lab.diffusion import (
    Consistency,
    ContinuousBound,
    CosineSchedule,
    Eulerian,
    FixedLarge,
    FixedSmall,
    FlowMap,
    Hybrid,
    Lagrangian,
    LearnedRange,
    LearnedSchedule,
    LogSNRSchedule,
    LossAwareTimesteps,
    LowDiscrepancyTimesteps,
    NormalTimesteps,
    Progressive,
    RectifiedSchedule,
    SampleNoise,
    Simple,
    StratifiedTimesteps,
    UniformTimesteps,
)
from diffusion_lab.sampling import (
    AncestralSampler,
    Autoguidance,
    ClassifierFree,
    EvenSpacing,
    FlowMapSampler,
    StraightSpacing,
    Worse,
)
from tests.models.stand_ins import at_batch, digits, guided_points, inputs_of, of_digits, step
from tests.networks.test_second_time import denoiser


def trained(diffusion):
    """The network after three steps of Adam."""
    optimizer = torch.optim.Adam(diffusion.network.parameters(), lr=1e-2)
    for k in range(3):
        optimizer.zero_grad()
        step(diffusion, digits(8), k)["loss"].backward()
        optimizer.step()
    return diffusion.network


def test_a_variance_that_stops_gradients_leaves_the_mean():
    x_t, timesteps = digits(4) / 2, torch.arange(4) * 200
    simple, held, joint = (
        trained(of_digits(variance, objective))
        for variance, objective in (
            (FixedSmall(), Simple()),
            (LearnedRange(stop_gradient=True), Hybrid(17, vlb_weight=1.0)),
            (LearnedRange(), Hybrid(17, vlb_weight=1.0)),
        )
    )
    mean = simple(x_t, timesteps)
    torch.testing.assert_close(held(x_t, timesteps)[:, :1], mean)
    assert not torch.allclose(joint(x_t, timesteps)[:, :1], mean, atol=1e-3)
    assert held(x_t, timesteps)[:, 1:].any()


def test_the_loss_is_the_weighted_mean_and_quarters_add_up():
    out = step(of_digits(timesteps=UniformTimesteps(30)), digits(16))
    total = sum(float((value * weight).sum()) for value, weight in out["weighted"].values())
    assert sum(int(weight.sum()) for _, weight in out["weighted"].values()) == 16
    assert total / 16 == pytest.approx(float(out["loss"].detach()), rel=1e-6)
    mse, vlb = (float(out["terms"][name]) for name in ("mse", "vlb"))
    assert float(out["terms"]["loss"]) == pytest.approx(mse + 0.001 * vlb, rel=1e-6)


def test_the_loss_of_a_quarter_is_its_mean():
    """However t was drawn; here t = 1 … 8, the first of a quarter drawn three times as often as the second."""

    class Skewed(UniformTimesteps):
        def forward(self, batch_size, generator):
            t = torch.tensor([1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7, 7, 7, 8])
            return t, torch.where(t % 2 == 1, 2 / 3, 2.0).double()

    class Square(Simple):
        def __call__(self, process, reverse, x_0, t, eps, y=None, known=None):
            return {"loss": t.double().square()}

    diffusion = of_digits(
        FixedSmall(), Square(), Skewed(8), AncestralSampler(EvenSpacing(2)), schedule=CosineSchedule(8)
    )
    weighted = step(diffusion, digits(16))["weighted"]
    means = [float((value * weight).sum() / weight.sum()) for value, weight in weighted.values()]
    assert means == pytest.approx([(1 + 4) / 2, (9 + 16) / 2, (25 + 36) / 2, (49 + 64) / 2])


def test_loss_aware_timesteps_learn_from_unweighted_losses():
    diffusion = of_digits(timesteps=LossAwareTimesteps(30, history_per_timestep=1))
    diffusion.all_gather = lambda value: value
    step(diffusion, digits(16))
    assert int(diffusion.timesteps.counts.sum()) == 16
    assert "timesteps.history" in diffusion.state_dict()


REAL = [
    NormalTimesteps(RectifiedSchedule(30), mean=0.0, std=1.0),
    UniformTimesteps(30, real=True),
    StratifiedTimesteps(30, real=True),
]


@pytest.mark.parametrize("timesteps", REAL, ids=lambda sampler: type(sampler).__name__)
def test_training_at_real_t_shows_the_network_real(timesteps, monkeypatch):
    """And its quarters add up."""
    diffusion = of_digits(FixedLarge(), Simple(), timesteps, schedule=RectifiedSchedule(30))
    seen, drawn = inputs_of(diffusion.network), []
    draw = diffusion.times_and_noise
    monkeypatch.setattr(diffusion, "times_and_noise", lambda *parts: drawn.append(draw(*parts)) or drawn[0])
    out = step(diffusion, digits(16))
    t = drawn[0][0]
    assert torch.equal(seen[0][1], t - 1)
    assert bool((t % 1 != 0).any())
    out["loss"].backward()
    pairs = out["weighted"].values()
    total, weights = sum((value * weight).sum() for value, weight in pairs), sum(weight.sum() for _, weight in pairs)
    assert float(weights) == 16
    torch.testing.assert_close(total / weights, out["loss"].detach(), check_dtype=False)


def test_the_continuous_bound_trains_at_real_t():
    """And its held-out value is at real t too."""
    objective = ContinuousBound(17)
    timesteps, schedule = LowDiscrepancyTimesteps(30, real=True), LogSNRSchedule(30, 7.0, -5.0)
    diffusion = of_digits(FixedLarge(), objective, timesteps, schedule=schedule)
    out = step(diffusion, digits(16))
    out["loss"].backward()
    assert out["loss"].isfinite()
    assert set(out["terms"]) == set(diffusion.term_names)
    with torch.inference_mode():
        held_out = diffusion.held_out_terms(digits(16), None, SampleNoise(0, torch.arange(16)))
    assert held_out["loss"].isfinite().all()


def with_learned_schedule(objective=None, decoder=None):
    schedule = LearnedSchedule(30, log_snr_max=7.0, log_snr_min=-5.0)
    objective = ContinuousBound(17) if objective is None else objective
    return of_digits(
        FixedLarge(), objective, LowDiscrepancyTimesteps(30, real=True), schedule=schedule, decoder=decoder
    )


def test_a_learned_schedule_is_trained_averaged_saved(tmp_path):
    """And scored as it is then."""
    diffusion = with_learned_schedule()
    diffusion.averages["ema_0.9"] = {key: v.detach().clone() for key, v in diffusion.averaged_parameters().items()}
    before = diffusion.process.log_snr(torch.tensor([1, 30]))
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=0.01)
    step(diffusion, digits(16))["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in diffusion.schedule.trained.parameters())
    optimizer.step()
    after = diffusion.process.log_snr(torch.tensor([1, 30]))
    assert bool((after != before).all())
    with diffusion.use_weights("ema_0.9"):
        torch.testing.assert_close(diffusion.process.log_snr(torch.tensor([1, 30])), before)

    files = {name: tmp_path / name for name in ("raw", "ema_0.9")}
    diffusion.save_weights(files)
    loaded = with_learned_schedule()
    loaded.load_weights(files)
    assert torch.equal(loaded.process.log_snr(torch.tensor([1, 30])), after)
    for name in files:
        assert torch.equal(*(one.generator(name).sample(torch.arange(2), 0) for one in (diffusion, loaded)))
    torch.testing.assert_close(loaded.generator("ema_0.9").process.log_snr(torch.tensor([1, 30])), before)
    both = diffusion.generator(), loaded.generator()
    assert torch.equal(*(one.likelihood(digits(2), None, 0, torch.arange(2), None).bits_per_dim for one in both))


@pytest.mark.parametrize(
    ("residual", "kind"),
    [
        (Progressive(), "jit"),
        *(
            pytest.param(*pair, marks=pytest.mark.thorough)
            for pair in ((Eulerian(), "unet"), (Lagrangian(), "dit"), (Consistency(), "unet"))
        ),
    ],
    ids=str,
)
def test_parts_of_a_batch_have_the_whole_gradient(residual, kind):
    """On ranks, and one after the other, with dropout and dropped conditions; a part of two has a row with s and one without."""
    network = partial(denoiser, kind, (8, 8), dropout=0.3)
    parts = FlowMap(residual, curriculum=0.9), UniformTimesteps(30, real=True), FlowMapSampler(StraightSpacing(2))
    diffusion = of_digits(FixedSmall(), *parts, num_classes=3, network=network, condition_dropout=0.5).train()
    x_0, y = digits(8), torch.arange(8) % 3
    facts = {"max_steps": 8, "callbacks": []}

    def gradient(ranks=1, accumulated=1):
        diffusion.zero_grad()
        split = ranks * accumulated
        for share in range(split):
            part, rank = divmod(share, ranks)
            rows = slice(share * 8 // split, (share + 1) * 8 // split)
            at_batch(diffusion, 3 * accumulated + part, rank, ranks, accumulate_grad_batches=accumulated, **facts)
            batch = x_0[rows], y[rows]
            diffusion.on_train_batch_start(batch, 0)
            (diffusion.training_step(batch, 0)["loss"] / split).backward()
        return torch.cat([parameter.grad.flatten() for parameter in diffusion.network.parameters()])

    whole = gradient()
    for split in ((2, 1), (1, 2), (2, 2)):
        torch.testing.assert_close(gradient(*split), whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
    second = torch.cat([p.grad.flatten() for name, p in diffusion.network.named_parameters() if "second_time" in name])
    assert second.abs().sum() > 0
    held_out = diffusion.eval().held_out_terms(x_0, y, SampleNoise(0, torch.arange(8)))  # more rows than a part has
    assert {*held_out} == {*diffusion.term_names}
    assert held_out["loss"].isfinite().all()


def test_batches_of_one_take_turns():
    """A quarter of the samples have s < t, though no batch has a quarter."""
    parts = FlowMap(Eulerian(), share=0.25), UniformTimesteps(30, real=True), FlowMapSampler(StraightSpacing(2))
    diffusion, apart = of_digits(FixedSmall(), *parts), 0
    for k in range(8):
        at_batch(diffusion, k, max_steps=8, callbacks=[], accumulate_grad_batches=1)
        rows, _ = diffusion._pairs(torch.full((1,), 5.0, dtype=torch.float64))
        apart += len(rows.apart)
    assert apart == 2


def test_a_flow_map_is_compiled_to_draw_only():
    parts = FlowMap(Eulerian()), UniformTimesteps(30, real=True), FlowMapSampler(StraightSpacing(2))
    diffusion = of_digits(FixedSmall(), *parts)
    for how in (True, "graphs"):
        with pytest.raises(
            ValueError, match=rf"^compile={how}: .*forward derivatives of objective FlowMap; use compile=false$"
        ):
            diffusion.check_compile(how, trained=False)
        diffusion.check_compile(how, trained=True)
        of_digits().check_compile(how, trained=False)
    diffusion.check_compile(False, trained=False)


EARLY = Worse(moment=0.2)


def sampled(diffusion, weights="raw"):
    return diffusion.generator(weights).sample(torch.arange(5), 0, torch.tensor([0, 1, 2, 0, 1]))


def by_hand(snapshots, guidance, weights="raw"):
    """With the earlier moment as another model's reverse process."""
    earlier = guided_points(ClassifierFree(1.0), num_classes=3)
    earlier.load_weights(snapshots)
    worse = Worse(reverse=earlier.generator("at_0.2").reverse)
    other = guided_points(guidance(worse), num_classes=3)
    other.load_weights(snapshots)
    return sampled(other, weights)


@pytest.mark.parametrize(
    "guidance", [lambda worse: Autoguidance(worse, 2.0), lambda worse: ClassifierFree(3.0, worse=worse)]
)
def test_the_earlier_weights_stay_whichever_are_sampled(snapshots, guidance):
    diffusion = guided_points(guidance(EARLY), num_classes=3)
    assert diffusion.guiding_snapshots == (0.2,)
    diffusion.load_weights(snapshots)
    for weights in ("raw", "ema_0.9"):
        assert torch.equal(sampled(diffusion, weights), by_hand(snapshots, guidance, weights))
    assert not torch.equal(sampled(diffusion), sampled(diffusion, "ema_0.9"))


def test_an_earlier_moment_is_no_part_of_the_model(snapshots):
    diffusion, plain = guided_points(Autoguidance(EARLY), 3), guided_points(ClassifierFree(1.0), 3)
    diffusion.load_weights(snapshots)
    assert diffusion.state_dict().keys() == plain.state_dict().keys()
    assert diffusion.cost() == plain.cost()
    assert not any(parameter.requires_grad for parameter in diffusion.parameters())


def test_before_the_moment_pictures_are_drawn_without(snapshots):
    both = guided_points(ClassifierFree(3.0, worse=EARLY), 3), guided_points(ClassifierFree(3.0), 3)
    assert torch.equal(*map(sampled, both))
    training, plain = guided_points(Autoguidance(EARLY, 2.0), 3), guided_points(ClassifierFree(1.0), 3)
    assert torch.equal(sampled(training), sampled(plain))
    training.load_weights({name: path for name, path in snapshots.items() if name == "at_0.2"})
    assert not torch.equal(sampled(training), sampled(plain))
