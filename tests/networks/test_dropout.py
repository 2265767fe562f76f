"""Dropout by keys: the mask of a sample in a layer at a step, however the batch is split."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from diffusion_lab.networks.dropout import KeyedDropout, keyed, set_keys
from diffusion_lab.training.speed import missing_for

SAMPLES, PLACES = 512, 2048


def layers(p, number=1):
    return keyed(nn.Sequential(*(nn.Dropout(p) for _ in range(number))))


def dropped(layer, seed, samples, shape=(PLACES,)):
    """Whether each element of these samples is dropped."""
    set_keys([layer], seed, torch.as_tensor(samples))
    return layer(torch.ones(len(samples), *shape)) == 0


@pytest.mark.parametrize("shape", [(6,), (3, 5), (3, 4, 5), (2, 3, 4, 5), (1, 1, 1)])
def test_no_split_of_a_batch_changes_a_mask(shape):
    (layer,) = layers(0.3)
    whole = dropped(layer, 1, range(8), shape)
    assert torch.equal(torch.cat([dropped(layer, 1, part, shape) for part in ([0, 1, 2], [3], range(4, 8))]), whole)
    assert torch.equal(dropped(layer, 1, [5, 2], shape), whole[[5, 2]])


def test_no_memory_format_changes_a_mask():
    (layer,) = layers(0.3)
    set_keys([layer], 1, torch.arange(4))
    x = torch.rand(4, 3, 6, 5)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(x), y)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_what_is_kept_is_scaled(p):
    """The mean of ones stays 1, and each sample drops its share, within five standard errors."""
    (layer,) = layers(p)
    set_keys([layer], 1, torch.arange(SAMPLES))
    y = layer(torch.ones(SAMPLES, PLACES))
    assert y.unique().tolist() == [0, pytest.approx(1 / (1 - p), rel=1e-4)]
    spread = (p * (1 - p)) ** 0.5
    assert (y == 0).float().mean() == pytest.approx(p, abs=5 * spread / (SAMPLES * PLACES) ** 0.5)
    assert ((y == 0).float().mean(1) - p).abs().max() < 5 * spread / PLACES**0.5
    assert ((y == 0).float().mean(0) - p).abs().max() < 5 * spread / SAMPLES**0.5


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_masks_of_samples_layers_and_steps_are_independent(p):
    """All correlations of two masks, each with variance 1/n: none is large, and together they spread as chance does."""
    both = layers(p, 2)
    set_keys(both, 1, torch.arange(SAMPLES))
    a, b = (layer(torch.ones(SAMPLES, PLACES)) == 0 for layer in both)
    pairs = {"samples": (a, a), "layers": (a, b), "steps": (a, dropped(both[0], 2, range(SAMPLES)))}
    pairs |= {"far samples": (a, dropped(both[0], 1, range(2**40, 2**40 + SAMPLES)))}
    pairs |= {"places": (a.T, a.T)}
    for name, (one, other) in pairs.items():
        x, y = (((mask.float() - p) / (p * (1 - p)) ** 0.5) for mask in (one, other))
        z = x @ y.T / x.shape[1] ** 0.5
        if one is other or name == "places":
            z = z[~torch.eye(len(z), dtype=torch.bool)]
        assert z.abs().max() < 8, name  # torch's masks have up to 7: few are dropped together, so tails are heavy
        assert z.var() == pytest.approx(1, abs=0.02), name
        assert z.mean().abs() < 6 / z.numel() ** 0.5, name


def test_evaluation_and_no_dropout_change_nothing():
    (layer,) = layers(0.3)
    x = torch.rand(4, 3)
    assert layer.eval()(x) is x
    assert layers(0.0) == []


def test_rows_that_are_no_samples_are_dropped_too():
    (layer,) = layers(0.5)
    set_keys([layer], 1, torch.arange(4))
    assert set(layer(torch.ones(10, 30)).unique().tolist()) == {0, 2}
    assert layer(torch.ones(8, 30)).shape == (8, 30)


def test_a_repeated_forward_pass_has_the_same_mask():
    """As under activation checkpointing, which computes it again in the backward pass."""
    network = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    set_keys(keyed(network), 1, torch.arange(4))
    x, gradients = torch.rand(4, 8), []
    for run in (network, lambda x: checkpoint(network, x, use_reentrant=False, preserve_rng_state=False)):
        network.zero_grad()
        run(x).sum().backward()
        gradients.append(network[0].weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.thorough
@pytest.mark.needs("g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own modules
@pytest.mark.skipif(missing_for(torch.device("cpu")) is not None, reason="nothing compiles here")
def test_compiled_masks_are_the_same_and_compiled_once():
    (layer,) = layers(0.3)
    x = torch.rand(4, 3, 6, 5).to(memory_format=torch.channels_last)
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(lambda x: layer(x))
    for seed in range(4):
        set_keys([layer], seed, torch.arange(4 * seed, 4 * seed + 4))
        assert torch.equal(compiled(x), layer(x))
    assert torch._dynamo.utils.counters["frames"]["ok"] == 1
    assert isinstance(layer, KeyedDropout)
