"""The embedding tells every timestep of a long chain from its neighbours, and the null class from every class."""

import math

import pytest
import torch

from diffusion_lab.networks.embeddings import Conditioning, class_vectors, sinusoidal_embedding


def test_sinusoids_are_those_of_the_papers():
    embedding = sinusoidal_embedding(torch.tensor([7]), 6)
    frequencies = [10_000 ** (-2 * i / 6) for i in range(3)]
    expected = [math.cos(7 * f) for f in frequencies] + [math.sin(7 * f) for f in frequencies]
    torch.testing.assert_close(embedding, torch.tensor([expected]))
    assert sinusoidal_embedding(torch.tensor([7]), 5).shape == (1, 5)


@pytest.mark.parametrize("dim", [32, 128])
def test_float32_is_enough_for_four_thousand_steps(dim):
    timesteps = torch.arange(4000)
    embedding = sinusoidal_embedding(timesteps, dim)
    assert embedding.dtype == torch.float32
    half = dim // 2
    angles = timesteps.double()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half).double() / half)
    exact = torch.cat([angles.cos(), angles.sin()], 1)
    assert (embedding - exact).abs().max() < 1e-3
    assert (embedding[1:] - embedding[:-1]).norm(dim=1).min() > 0.5


def test_autocast_does_not_round_the_timestep():
    conditioning = Conditioning(32, 16)
    seen = []
    conditioning.time[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        conditioning(torch.tensor([3998, 3999]), None)
    assert seen[0].dtype == torch.float32
    assert not torch.equal(seen[0][0], seen[0][1])


def test_no_label_means_the_null_class():
    conditioning = Conditioning(8, 16, num_classes=3)
    assert conditioning.classes.weight.shape == (4, 16)
    timesteps = torch.tensor([1, 2])
    torch.testing.assert_close(conditioning(timesteps, None), conditioning(timesteps, torch.tensor([3, 3])))
    assert not torch.allclose(conditioning(timesteps, None), conditioning(timesteps, torch.tensor([0, 3]))[0])


def test_labels_and_classes_go_together():
    t, y = torch.tensor([1]), torch.tensor([0])
    for network in (Conditioning(8, 16), lambda t, y: class_vectors(None, y)):
        with pytest.raises(ValueError, match="has no classes"):
            network(t, y)
    for network in (Conditioning(8, 16, 3, null_class=False), lambda t, y: class_vectors(torch.nn.Embedding(3, 2), y)):
        with pytest.raises(ValueError, match="no class was given"):
            network(t, None)
