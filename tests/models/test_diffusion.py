import weakref

import pytest
import torch

from diffusion_lab.diffusion import (
    ContinuousBound,
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    Hybrid,
    LearnedRange,
    LearnedSchedule,
    LevelDecoder,
    LogSNRSchedule,
    LossAwareTimesteps,
    LowDiscrepancyTimesteps,
    NormalTimesteps,
    PredictNoise,
    RectifiedSchedule,
    SampleNoise,
    Simple,
    StratifiedTimesteps,
    UniformTimesteps,
)
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.optimization import Constant, Optimization
from diffusion_lab.networks import UNet
from diffusion_lab.sampling import (
    AncestralSampler,
    ClassifierFree,
    ClassifierGuidance,
    DDIMSampler,
    EndLevels,
    EvenSpacing,
    LogSNRSpacing,
    Unguided,
)
from tests.models.stand_ins import digits, loss, step, woken

SHAPE = (1, 8, 8)


def model(
    variance=None,
    objective=None,
    timesteps=None,
    sampler=None,
    num_classes=None,
    guidance=None,
    schedule=None,
    network=None,
    **more,
):
    torch.manual_seed(0)

    def small(out_channels, num_classes, **of_network):
        sizes = {"base_channels": 8, "channel_multipliers": (1,), "attention_resolutions": (), "head_channels": 8}
        net = UNet(1, out_channels, 8, num_classes, **sizes, **of_network)
        generator = torch.Generator().manual_seed(1)
        for channel in net.output.weight:  # the first is the same, whatever their number
            torch.nn.init.normal_(channel, std=0.1, generator=generator)
        return net

    options = {"clip_x_0": True, "condition_dropout": 0.1, "seed": 1} | more
    return DiffusionModel(
        SHAPE,
        17,
        num_classes,
        schedule or CosineSchedule(30),
        network or small,
        PredictNoise(),
        variance or LearnedRange(),
        objective or Hybrid(17),
        timesteps or StratifiedTimesteps(30),
        sampler or AncestralSampler(EvenSpacing(5)),
        guidance or Unguided(),
        Optimization(torch.optim.AdamW, Constant()),
        **options,
    ).eval()


def inputs_of(diffusion):
    """A list that grows by (x_t, timesteps, y) at each evaluation of the network."""
    seen, network = [], diffusion.network.forward
    diffusion.network.forward = lambda *inputs: (seen.append(inputs), network(*inputs))[1]
    return seen


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
        trained(model(variance, objective))
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
    out = step(model(timesteps=UniformTimesteps(30)), digits(16))
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
        def __call__(self, process, reverse, x_0, t, eps, y=None):
            return {"loss": t.double().square()}

    diffusion = model(FixedSmall(), Square(), Skewed(8), AncestralSampler(EvenSpacing(2)), schedule=CosineSchedule(8))
    weighted = step(diffusion, digits(16))["weighted"]
    means = [float((value * weight).sum() / weight.sum()) for value, weight in weighted.values()]
    assert means == pytest.approx([(1 + 4) / 2, (9 + 16) / 2, (25 + 36) / 2, (49 + 64) / 2])


def test_loss_aware_timesteps_learn_from_unweighted_losses():
    diffusion = model(timesteps=LossAwareTimesteps(30, history_per_timestep=1))
    diffusion.all_gather = lambda value: value
    step(diffusion, digits(16))
    assert int(diffusion.timesteps.counts.sum()) == 16
    assert "timesteps.history" in diffusion.state_dict()


def test_a_long_chain_takes_no_more_memory_than_a_short_one(monkeypatch):
    diffusion, kept, most = model(sampler=AncestralSampler(EvenSpacing(20))), weakref.WeakSet(), []
    step = AncestralSampler.step

    def counted(*args):
        most.append(len(kept))
        x_s = step(*args)
        kept.add(x_s)
        return x_s

    monkeypatch.setattr(AncestralSampler, "step", counted)
    with torch.no_grad():
        diffusion.sample(torch.arange(2), seed=3)
    assert len(most) == 20
    assert max(most) <= 2


def test_the_likelihood_is_of_the_samplers_chain():
    x_0 = digits(4)
    for sampler, kind, terms in (
        (AncestralSampler(), "bound of the full chain", 30),
        (AncestralSampler(EvenSpacing(5)), "bound of a strided chain", 5),
        (DDIMSampler(EvenSpacing(5)), "bound of 7 ancestral steps even in log SNR", 7),
    ):
        likelihood = model(sampler=sampler, bound_steps=7).likelihood(x_0, None, 0, torch.arange(4), None)
        assert likelihood.kind.startswith(kind)
        assert likelihood.curve["bits_per_dim"].shape == (4, terms)
        torch.testing.assert_close(sum(likelihood.parts.values()), likelihood.bits_per_dim)
        assert likelihood.curve["t"].tolist() == sorted(likelihood.curve["t"].tolist())
        assert likelihood.curve["t"][-1] >= 29  # log SNR −10 and below


@pytest.mark.parametrize("schedule", [CosineSchedule(1), RectifiedSchedule(1, log_snr_min=-12.0)], ids=str)
def test_a_model_of_one_step_has_a_bound_with_every_sampler(schedule):
    for sampler in (AncestralSampler(), DDIMSampler(), DDIMSampler(LogSNRSpacing(1))):
        diffusion = model(FixedSmall(), Simple(), UniformTimesteps(1), sampler, schedule=schedule)
        likelihood = diffusion.likelihood(digits(4), None, 0, torch.arange(4), None)
        assert bool(likelihood.bits_per_dim.isfinite().all())
        assert likelihood.curve["t"].tolist() == [1]


def test_the_bound_of_a_sampler_without_one_is_unguided():
    sampler, x_0, y = DDIMSampler(EvenSpacing(5)), digits(4), torch.arange(4)
    plain, guided = (
        model(sampler=sampler, num_classes=10, guidance=guidance).likelihood(x_0, y, 0, torch.arange(4), None)
        for guidance in (Unguided(), ClassifierFree(3.0))
    )
    assert "guided" not in guided.kind
    assert torch.equal(plain.bits_per_dim, guided.bits_per_dim)


def test_samples_are_rounded_as_the_model_is_told():
    plain = model().sample(torch.arange(8), seed=3)
    rounded = model(rounding=EndLevels((0.5, 0.0), 17, error=1.0)).sample(torch.arange(8), seed=3)
    assert (rounded == -1).sum() > (plain == -1).sum()
    assert torch.equal(rounded[rounded > -1], plain[rounded > -1])


def test_fewer_terms_of_a_bound_say_what_each_stands_for():
    likelihood = model(sampler=AncestralSampler()).likelihood(digits(4), None, 0, torch.arange(4), 6)
    assert float(likelihood.curve["steps"].sum()) == 30
    assert likelihood.curve["bits_per_dim"].shape == (4, 6)
    assert likelihood.curve["t"][0] == 1
    assert (likelihood.curve["t"].diff() > 0).all()


REAL = [
    NormalTimesteps(RectifiedSchedule(30), mean=0.0, std=1.0),
    UniformTimesteps(30, real=True),
    StratifiedTimesteps(30, real=True),
]


@pytest.mark.parametrize("timesteps", REAL, ids=lambda sampler: type(sampler).__name__)
def test_training_at_real_t_shows_the_network_real(timesteps):
    """And its quarters add up."""
    diffusion = model(FixedLarge(), Simple(), timesteps, schedule=RectifiedSchedule(30))
    seen = inputs_of(diffusion)
    out = step(diffusion, digits(16))
    assert torch.equal(seen[0][1], out["t"] - 1)
    assert bool((out["t"] % 1 != 0).any())
    out["loss"].backward()
    pairs = out["weighted"].values()
    total, weights = sum((value * weight).sum() for value, weight in pairs), sum(weight.sum() for _, weight in pairs)
    assert float(weights) == 16
    torch.testing.assert_close(total / weights, out["loss"].detach(), check_dtype=False)


def test_the_continuous_bound_trains_at_real_t():
    """And its held-out value is at real t too."""
    objective = ContinuousBound(17)
    timesteps, schedule = LowDiscrepancyTimesteps(30, real=True), LogSNRSchedule(30, 7.0, -5.0)
    diffusion = model(FixedLarge(), objective, timesteps, schedule=schedule)
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
    return model(FixedLarge(), objective, LowDiscrepancyTimesteps(30, real=True), schedule=schedule, decoder=decoder)


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
    both = diffusion, loaded
    assert torch.equal(*(one.sample(torch.arange(2), 0) for one in both))
    assert torch.equal(*(one.likelihood(digits(2), None, 0, torch.arange(2), None).bits_per_dim for one in both))


def test_a_bound_takes_the_last_step_from_the_decoder():
    x_0 = digits(4)
    gaussian, levels = (
        model(decoder=decoder).likelihood(x_0, None, 0, torch.arange(4), None).parts
        for decoder in (None, LevelDecoder())
    )
    torch.testing.assert_close(gaussian["steps"], levels["steps"])
    assert not torch.allclose(gaussian["decoder"], levels["decoder"])


def told(diffusion, **where):
    """The labels that training tells the network of one batch of 64."""
    seen = inputs_of(diffusion)
    step(diffusion, digits(64), y=torch.arange(64) % 10, **where)
    return seen[0][2]


def test_training_drops_some_labels_to_the_null_class():
    y, seen = torch.arange(64) % 10, told(model(num_classes=10, condition_dropout=0.5))
    dropped = seen == 10
    assert 16 < int(dropped.sum()) < 48
    assert torch.equal(seen[~dropped], y[~dropped])
    assert torch.equal(told(model(num_classes=10, condition_dropout=0.0)), y)
    assert (told(model(num_classes=10, condition_dropout=1.0)) == 10).all()


def test_dropped_labels_are_of_seed_and_global_batch():
    whole = told(model(num_classes=10, condition_dropout=0.5))
    assert torch.equal(told(model(num_classes=10, condition_dropout=0.5)), whole)
    assert not torch.equal(told(model(num_classes=10, condition_dropout=0.5), k=1), whole)
    assert not torch.equal(told(model(num_classes=10, condition_dropout=0.5, seed=2)), whole)
    parts = [told(model(num_classes=10, condition_dropout=0.5), rank=rank, ranks=2) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_an_unconditional_model_is_told_nothing():
    """And draws the same t and noise."""
    assert told(model()) is None
    plain, labelled = model(), model(num_classes=10, condition_dropout=1.0)
    torch.nn.init.zeros_(labelled.network.encoder.conditioning.classes.weight)
    labelled.load_state_dict(plain.state_dict(), strict=False)
    assert loss(labelled, digits(8), y=torch.arange(8)) == loss(plain, digits(8))


@pytest.mark.parametrize(
    ("guidance", "evaluations"),
    [
        (Unguided(), 5),
        (ClassifierFree(1.0), 5),
        (ClassifierFree(0.0), 5),
        (ClassifierFree(3.0), 10),
        (ClassifierFree(3.0, interval=(1, 10)), 7),
    ],
    ids=str,
)
def test_both_branches_of_guidance_are_counted(guidance, evaluations):
    diffusion = model(num_classes=10, guidance=guidance)
    seen = inputs_of(diffusion)
    with torch.no_grad():
        diffusion.sample(torch.arange(3), seed=0, y=torch.tensor([1, 2, 3]))
    # Steps at t = 1, 8, 16, 23, 30: two of them in [1, 10].
    assert sum(len(x_t) for x_t, _, _ in seen) / 3 == diffusion.nfe == evaluations


def test_the_bound_is_that_of_the_class_and_of_the_guidance():
    x_0, y = digits(4), torch.tensor([0, 1, 2, 3])
    kinds, bits = [], []
    for guidance in (Unguided(), ClassifierFree(1.0), ClassifierFree(4.0)):
        likelihood = woken(model(num_classes=10, guidance=guidance)).likelihood(x_0, y, 0, torch.arange(4), None)
        kinds.append(likelihood.kind)
        bits.append(likelihood.bits_per_dim)
    assert kinds[0] == "bound of a strided chain given the class"
    assert kinds[2] == "bound of a strided chain given the class, guided"
    assert torch.equal(bits[0], bits[1])
    assert not torch.equal(bits[0], bits[2])


def test_a_classifier_lends_its_classes():
    guidance = ClassifierGuidance(lambda x, timesteps: x.flatten(1)[:, :3], num_classes=3, scale=5.0)
    diffusion = model(guidance=guidance)
    assert diffusion.num_classes == 3
    with torch.no_grad():
        samples = [diffusion.sample(torch.arange(2), seed=0, y=torch.full((2,), y)) for y in (0, 1)]
    assert not torch.equal(*samples)
    assert float(samples[0].abs().max()) <= 1
    assert torch.equal(diffusion.conditions_in_turn(torch.arange(5)), torch.tensor([0, 1, 2, 0, 1]))


def test_a_variance_decides_samples():
    """Only where the sampler reads it. What two models of the same weights state decides whether they draw once or twice."""
    for sampler, differs in ((AncestralSampler(EvenSpacing(5)), True), (DDIMSampler(EvenSpacing(5)), False)):
        small, large = (model(variance, Simple(), sampler=sampler) for variance in (FixedSmall(), FixedLarge()))
        images = [m.sample(torch.arange(2), seed=0) for m in (small, large)]
        assert torch.equal(*images) != differs
        assert (small.sampling_protocol() == large.sampling_protocol()) != differs
        assert small.protocol() != large.protocol()


def test_latents_are_what_samples_begin_from():
    """And decoding is the deterministic sampler."""
    diffusion = model(sampler=DDIMSampler(EvenSpacing(5)))
    indices = torch.tensor([7, 2])
    with torch.no_grad():
        decoded = diffusion.decode(diffusion.latents(indices, 3))
        diffusion.guided = diffusion.guided.without_clipping()
        torch.testing.assert_close(decoded, diffusion.sample(indices, 3))


def test_an_image_comes_back_from_its_latent():
    diffusion = model(sampler=AncestralSampler(EvenSpacing(10)))
    torch.nn.init.zeros_(diffusion.network.output.weight)  # ε = 0 everywhere: a chain that only scales
    x_0 = 0.5 * torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(diffusion.decode(diffusion.encode(x_0)), x_0, atol=1e-4, rtol=0)


def test_many_steps_do_not_make_pictures_of_latents_dear(monkeypatch):
    monkeypatch.setattr("diffusion_lab.models.drawn._MOST_LATENT_STEPS", 7)
    diffusion = model(sampler=AncestralSampler())
    seen = inputs_of(diffusion)
    with torch.no_grad():
        diffusion.decode(diffusion.latents(torch.tensor([7, 2]), 3))
    assert len(seen) == 7


@pytest.mark.parametrize(
    "guidance", [ClassifierFree(3.0), ClassifierGuidance(lambda x, t: x.flatten(1)[:, :3], 3, 5.0)]
)
def test_reconstructions_are_unguided(guidance):
    """Decoding runs encoding backwards: a push that only one of the two gets would never come back, however many steps."""
    known = 10 if guidance.needs_null else None
    x_0, y = digits(3), torch.tensor([0, 1, 2])
    plain, guided = (woken(model(num_classes=known, guidance=g)) for g in (Unguided(), guidance))
    with torch.no_grad():
        told = y if known else None
        found, expected = (m.decode(m.encode(x_0, given), given) for m, given in ((guided, y), (plain, told)))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_image_that_is_hardly_noised_is_drawn_as_it_is():
    drawn = model(sampler=DDIMSampler(EvenSpacing(20)))
    high, *_, low = drawn.log_snrs(5)
    x_0 = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    indices = torch.arange(4)
    with torch.no_grad():
        near, far = (drawn.redraw(x_0, None, 0, indices, log_snr) for log_snr in (high, low))
        look = drawn.denoise(x_0, None, 0, indices, high)
        middle = drawn.redraw(x_0, None, 0, indices, 0.0)
        assert torch.equal(drawn.reconstruct(x_0, None, 0, indices), middle)
    assert (near - x_0).abs().mean() < 0.1 < (far - x_0).abs().mean()
    assert look.signal**2 / look.noise**2 == pytest.approx(torch.tensor(high).exp().item(), rel=0.2)
    assert (look.x_t - look.signal * x_0).std() == pytest.approx(look.noise, rel=0.2)
