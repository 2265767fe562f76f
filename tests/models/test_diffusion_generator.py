"""A diffusion model that draws: its samples, latents and bounds."""

import weakref
from dataclasses import replace

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    LevelDecoder,
    RectifiedSchedule,
    Simple,
    UniformTimesteps,
)
from diffusion_lab.sampling import (
    AncestralSampler,
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    DDIMSampler,
    EndLevels,
    EvenSpacing,
    LogSNRSpacing,
    Unguided,
    Worse,
)
from tests.models.stand_ins import SHAPE, digits, guided_points, inputs_of, of_digits, woken


def generator(*parts, **more):
    return of_digits(*parts, **more).generator()


def test_a_long_chain_takes_no_more_memory_than_a_short_one(monkeypatch):
    diffusion, kept, most = generator(sampler=AncestralSampler(EvenSpacing(20))), weakref.WeakSet(), []
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
        (DDIMSampler(EvenSpacing(5)), "bound of 7 ancestral steps", 7),
    ):
        likelihood = generator(sampler=sampler, bound_steps=7).likelihood(x_0, None, 0, torch.arange(4), None)
        assert likelihood.kind.startswith(kind)
        assert likelihood.curve["bits_per_dim"].shape == (4, terms)
        torch.testing.assert_close(sum(likelihood.parts.values()), likelihood.bits_per_dim)
        assert likelihood.curve["t"].tolist() == sorted(likelihood.curve["t"].tolist())
        assert likelihood.curve["t"][-1] >= 29  # log SNR −10 and below


@pytest.mark.parametrize("schedule", [CosineSchedule(1), RectifiedSchedule(1, log_snr_min=-12.0)], ids=str)
def test_a_model_of_one_step_has_a_bound_with_every_sampler(schedule):
    for sampler in (AncestralSampler(), DDIMSampler(), DDIMSampler(LogSNRSpacing(1))):
        diffusion = generator(FixedSmall(), Simple(), UniformTimesteps(1), sampler, schedule=schedule)
        likelihood = diffusion.likelihood(digits(4), None, 0, torch.arange(4), None)
        assert bool(likelihood.bits_per_dim.isfinite().all())
        assert likelihood.curve["t"].tolist() == [1]


def test_the_bound_of_a_sampler_without_one_is_unguided():
    sampler, x_0, y = DDIMSampler(EvenSpacing(5)), digits(4), torch.arange(4)
    plain, guided = (
        generator(sampler=sampler, num_classes=10, guidance=guidance).likelihood(x_0, y, 0, torch.arange(4), None)
        for guidance in (Unguided(), ClassifierFree(3.0))
    )
    assert "guided" not in guided.kind
    assert torch.equal(plain.bits_per_dim, guided.bits_per_dim)


def test_samples_are_rounded_as_the_model_is_told():
    plain = generator().sample(torch.arange(8), seed=3)
    rounded = generator(rounding=EndLevels((0.5, 0.0), 17, error=1.0)).sample(torch.arange(8), seed=3)
    assert (rounded == -1).sum() > (plain == -1).sum()
    assert torch.equal(rounded[rounded > -1], plain[rounded > -1])


def test_fewer_terms_of_a_bound_say_what_each_stands_for():
    likelihood = generator(sampler=AncestralSampler()).likelihood(digits(4), None, 0, torch.arange(4), 6)
    assert float(likelihood.curve["steps"].sum()) == 30
    assert likelihood.curve["bits_per_dim"].shape == (4, 6)
    assert likelihood.curve["t"][0] == 1
    assert (likelihood.curve["t"].diff() > 0).all()


def test_a_bound_takes_the_last_step_from_the_decoder():
    x_0 = digits(4)
    gaussian, levels = (
        generator(decoder=decoder).likelihood(x_0, None, 0, torch.arange(4), None).parts
        for decoder in (None, LevelDecoder())
    )
    torch.testing.assert_close(gaussian["steps"], levels["steps"])
    assert not torch.allclose(gaussian["decoder"], levels["decoder"])


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
    diffusion = generator(num_classes=10, guidance=guidance)
    seen = inputs_of(diffusion.networks["network"])
    with torch.no_grad():
        diffusion.sample(torch.arange(3), seed=0, y=torch.tensor([1, 2, 3]))
    # Steps at t = 1, 8, 16, 23, 30: two of them in [1, 10].
    assert sum(len(x_t) for x_t, _, _ in seen) / 3 == diffusion.nfe == evaluations


def test_the_bound_is_that_of_the_class_and_of_the_guidance():
    x_0, y = digits(4), torch.tensor([0, 1, 2, 3])
    kinds, bits = [], []
    for guidance in (Unguided(), ClassifierFree(1.0), ClassifierFree(4.0)):
        likelihood = (
            woken(of_digits(num_classes=10, guidance=guidance)).generator().likelihood(x_0, y, 0, torch.arange(4), None)
        )
        kinds.append(likelihood.kind)
        bits.append(likelihood.bits_per_dim)
    assert kinds[0] == "bound of a strided chain given the class"
    assert kinds[2] == "bound of a strided chain given the class, guided"
    assert torch.equal(bits[0], bits[1])
    assert not torch.equal(bits[0], bits[2])


def test_a_classifier_lends_its_classes():
    guidance = ClassifierGuidance(lambda x, timesteps: x.flatten(1)[:, :3], num_classes=3, scale=5.0)
    diffusion = generator(guidance=guidance)
    assert diffusion.num_classes == 3
    with torch.no_grad():
        samples = [diffusion.sample(torch.arange(2), seed=0, y=torch.full((2,), y)) for y in (0, 1)]
    assert not torch.equal(*samples)
    assert float(samples[0].abs().max()) <= 1
    assert torch.equal(diffusion.conditions_in_turn(torch.arange(5)), torch.tensor([0, 1, 2, 0, 1]))


def test_a_variance_decides_samples():
    """Only where the sampler reads it. What two models of the same weights state decides whether they draw once or twice."""
    for sampler, differs in ((AncestralSampler(EvenSpacing(5)), True), (DDIMSampler(EvenSpacing(5)), False)):
        small, large = (generator(variance, Simple(), sampler=sampler) for variance in (FixedSmall(), FixedLarge()))
        images = [m.sample(torch.arange(2), seed=0) for m in (small, large)]
        assert torch.equal(*images) != differs
        assert (small.sampling_protocol() == large.sampling_protocol()) != differs
        assert small.protocol() != large.protocol()


def test_latents_are_what_samples_begin_from():
    """And decoding is the deterministic sampler."""
    diffusion = generator(sampler=DDIMSampler(EvenSpacing(5)))
    indices = torch.tensor([7, 2])
    with torch.no_grad():
        decoded = diffusion.decode(diffusion.latents(indices, 3))
        unclipped = replace(diffusion, reverse=diffusion.reverse.without_clipping())
        torch.testing.assert_close(decoded, unclipped.sample(indices, 3).clamp(-1, 1))


def test_an_image_comes_back_from_its_latent():
    diffusion = generator(sampler=AncestralSampler(EvenSpacing(10)))
    torch.nn.init.zeros_(diffusion.networks["network"].output.weight)  # ε = 0 everywhere: a chain that only scales
    x_0 = 0.5 * torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(diffusion.decode(diffusion.encode(x_0)), x_0, atol=1e-4, rtol=0)


def test_many_steps_do_not_make_pictures_of_latents_dear(monkeypatch):
    monkeypatch.setattr("diffusion_lab.models.diffusion_generator._MOST_LATENT_STEPS", 7)
    diffusion = generator(sampler=AncestralSampler())
    seen = inputs_of(diffusion.networks["network"])
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
    plain, guided = (woken(of_digits(num_classes=known, guidance=g)).generator() for g in (Unguided(), guidance))
    with torch.no_grad():
        told = y if known else None
        found, expected = (m.decode(m.encode(x_0, given), given) for m, given in ((guided, y), (plain, told)))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_image_that_is_hardly_noised_is_drawn_as_it_is():
    drawn = generator(sampler=DDIMSampler(EvenSpacing(20)))
    high, *_, low = drawn.log_snrs(5)
    x_0 = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    indices = torch.arange(4)
    with torch.no_grad():
        near, far = (drawn.redraw(x_0, None, 0, indices, log_snr) for log_snr in (high, low))
        look = drawn.denoise(x_0, None, 0, indices, high)
        middle = drawn.redraw(x_0, None, 0, indices, 0.0)
        assert torch.equal(drawn.reconstruct(x_0, None, 0, indices), middle)
    assert (near - x_0).abs().mean() < 0.1 < (far - x_0).abs().mean()
    assert look.signal**2 / look.sigma**2 == pytest.approx(torch.tensor(high).exp().item(), rel=0.2)
    assert (look.x_t - look.signal * x_0).std() == pytest.approx(look.sigma, rel=0.2)


@pytest.mark.parametrize(("where", "nfe"), [({}, 8), ({"interval": [1, 14]}, 6), ({"log_snr_interval": [-100, 0]}, 6)])
def test_evaluations_of_autoguidance_are_counted(snapshots, where, nfe):
    """Four steps, at t = 1, 14, 27 and 40; log SNR is 0 at t = 20."""
    diffusion = guided_points(Autoguidance(Worse(moment=0.2), 2.0, **where), 3)
    diffusion.load_weights(snapshots)
    generator = diffusion.generator()
    assert generator.nfe == nfe
    own, worse = inputs_of(generator.reverse.network), inputs_of(generator.guidance.worse.reverse.network)
    generator.sample(torch.arange(5), 0, torch.tensor([0, 1, 2, 0, 1]))
    assert len(own) == 4
    assert 4 + len(worse) == nfe


@pytest.mark.parametrize(("interval", "guided"), [(None, 4), ([1, 14], 2)])
def test_operations_are_those_of_both_networks(interval, guided):
    small = guided_points(ClassifierFree(1.0), 3, hidden=8)
    diffusion = guided_points(Autoguidance(Worse(reverse=small.reverse), 2.0, interval=interval), 3)
    one, other = diffusion.cost().forward_flops, small.cost().forward_flops
    assert 0 < other < one
    assert diffusion.generator().sampling_flops() == 4 * one + guided * other
    twice = guided_points(ClassifierFree(3.0, interval=interval), 3).generator()
    assert twice.sampling_flops() == twice.nfe * one


def test_the_bound_of_autoguidance_is_labelled(snapshots):
    x_0, y = 0.5 * torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    bounds = []
    for guidance in (Autoguidance(Worse(moment=0.2), 2.0), ClassifierFree(1.0)):
        diffusion = guided_points(guidance, 3)
        diffusion.load_weights(snapshots)
        ancestral = replace(diffusion.generator(), sampler=AncestralSampler(EvenSpacing(4)))
        bounds.append(ancestral.likelihood(x_0, y, 0, torch.arange(4), None))
    guided, plain = bounds
    assert "guided" in guided.kind
    assert not torch.equal(plain.bits_per_dim, guided.bits_per_dim)


def test_the_weights_that_guide_are_those_of_the_snapshot(snapshots):
    diffusion = guided_points(Autoguidance(Worse(moment=0.2)), 3)
    assert diffusion.generator().guiding_weights() == {}
    diffusion.load_weights(snapshots)
    guiding, early = diffusion.generator().guiding_weights(), diffusion.averages["at_0.2"]
    assert {f"network.{name}" for name in guiding} == early.keys()
    assert all(torch.equal(value, early[f"network.{name}"]) for name, value in guiding.items())
