"""A diffusion model guided by an earlier moment of its own training: which network is asked, with which weights, when."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from diffusion_lab.networks import MLP
from diffusion_lab.sampling import AncestralSampler, Autoguidance, ClassifierFree, EvenSpacing, Unguided, Worse

from .stand_ins import inputs_of, of_points

EARLY = Worse(moment=0.2)


def test_a_worse_model_has_the_same_conditions_or_none():
    other = model(Unguided(), num_classes=3).reverse
    for conditions in ((), (3,)):
        model(Autoguidance(Worse(None, other, "other", conditions), 2.0), num_classes=3)
    with pytest.raises(ValueError, match="train the worse one with the same condition"):
        model(Autoguidance(Worse(None, other, "other", (3, (2,))), 2.0), num_classes=3)


def model(guidance, num_classes=None, hidden=16):
    network = partial(MLP, in_channels=2, hidden=hidden, num_layers=1)
    made = of_points(num_classes, network, guidance=guidance, condition_dropout=0.1)
    for number, parameter in enumerate(made.parameters()):  # no output is zero
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return made.requires_grad_(False)


@pytest.fixture
def files(tmp_path):
    """A trained model, and what it was earlier."""
    trained = model(ClassifierFree(1.0), num_classes=3)
    found = {name: tmp_path / f"{name}.safetensors" for name in ("raw", "ema_0.9", "at_0.2")}
    for number, name in enumerate(found):
        trained.averages[name] = {key: p + 0.05 * number for key, p in trained.named_parameters()}
    trained.save_weights(found)
    return found


def sampled(diffusion, weights="raw"):
    return diffusion.generator(weights).sample(torch.arange(5), 0, torch.tensor([0, 1, 2, 0, 1]))


def by_hand(files, guidance, weights="raw"):
    """With the earlier moment as another model's reverse process."""
    earlier = model(ClassifierFree(1.0), num_classes=3)
    earlier.load_weights(files)
    worse = Worse(reverse=earlier.generator("at_0.2").reverse)
    other = model(guidance(worse), num_classes=3)
    other.load_weights(files)
    return sampled(other, weights)


@pytest.mark.parametrize(
    "guidance", [lambda worse: Autoguidance(worse, 2.0), lambda worse: ClassifierFree(3.0, worse=worse)]
)
def test_the_earlier_weights_stay_whichever_are_sampled(files, guidance):
    diffusion = model(guidance(EARLY), num_classes=3)
    assert diffusion.guiding_snapshots == (0.2,)
    diffusion.load_weights(files)
    for weights in ("raw", "ema_0.9"):
        assert torch.equal(sampled(diffusion, weights), by_hand(files, guidance, weights))
    assert not torch.equal(sampled(diffusion), sampled(diffusion, "ema_0.9"))


def test_an_earlier_moment_is_no_part_of_the_model(files):
    diffusion, plain = model(Autoguidance(EARLY), 3), model(ClassifierFree(1.0), 3)
    diffusion.load_weights(files)
    assert diffusion.state_dict().keys() == plain.state_dict().keys()
    assert diffusion.cost() == plain.cost()
    assert not any(parameter.requires_grad for parameter in diffusion.parameters())


def test_before_the_moment_pictures_are_drawn_without(files):
    both = model(ClassifierFree(3.0, worse=EARLY), 3), model(ClassifierFree(3.0), 3)
    assert torch.equal(*map(sampled, both))
    training, plain = model(Autoguidance(EARLY, 2.0), 3), model(ClassifierFree(1.0), 3)
    assert torch.equal(sampled(training), sampled(plain))
    training.load_weights({name: path for name, path in files.items() if name == "at_0.2"})
    assert not torch.equal(sampled(training), sampled(plain))


@pytest.mark.parametrize(("where", "nfe"), [({}, 8), ({"interval": [1, 14]}, 6), ({"log_snr_interval": [-100, 0]}, 6)])
def test_its_evaluations_are_counted(files, where, nfe):
    """Four steps, at t = 1, 14, 27 and 40; log SNR is 0 at t = 20."""
    diffusion = model(Autoguidance(EARLY, 2.0, **where), 3)
    diffusion.load_weights(files)
    generator = diffusion.generator()
    assert generator.nfe == nfe
    own, worse = inputs_of(generator.reverse.network), inputs_of(generator.guidance.worse.reverse.network)
    generator.sample(torch.arange(5), 0, torch.tensor([0, 1, 2, 0, 1]))
    assert len(own) == 4
    assert 4 + len(worse) == nfe


@pytest.mark.parametrize(("interval", "guided"), [(None, 4), ([1, 14], 2)])
def test_operations_are_those_of_both_networks(interval, guided):
    small = model(ClassifierFree(1.0), 3, hidden=8)
    diffusion = model(Autoguidance(Worse(reverse=small.reverse), 2.0, interval=interval), 3)
    one, other = diffusion.cost().forward_flops, small.cost().forward_flops
    assert 0 < other < one
    assert diffusion.generator().sampling_flops() == 4 * one + guided * other
    twice = model(ClassifierFree(3.0, interval=interval), 3).generator()
    assert twice.sampling_flops() == twice.nfe * one


def test_its_bound_is_labelled(files):
    x_0, y = 0.5 * torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    bounds = []
    for guidance in (Autoguidance(EARLY, 2.0), ClassifierFree(1.0)):
        diffusion = model(guidance, 3)
        diffusion.load_weights(files)
        ancestral = replace(diffusion.generator(), sampler=AncestralSampler(EvenSpacing(4)))
        bounds.append(ancestral.likelihood(x_0, y, 0, torch.arange(4), None))
    guided, plain = bounds
    assert "guided" in guided.kind
    assert not torch.equal(plain.bits_per_dim, guided.bits_per_dim)


def test_the_weights_that_guide_are_those_of_the_snapshot(files):
    diffusion = model(Autoguidance(EARLY), 3)
    assert diffusion.generator().guiding_weights() == {}
    diffusion.load_weights(files)
    guiding, early = diffusion.generator().guiding_weights(), diffusion.averages["at_0.2"]
    assert {f"network.{name}" for name in guiding} == early.keys()
    assert all(torch.equal(value, early[f"network.{name}"]) for name, value in guiding.items())
