"""Encoder and decoder of the VAE."""

import pytest
import torch

from diffusion_lab.families.vae.networks import ConvAutoencoder, PointAutoencoder
from tests.models.stand_ins import woken


def conv(image_size=8, in_channels=1, **options):
    torch.manual_seed(0)
    options = {"latent_dim": 5, "base_channels": 8, "channel_multipliers": [1, 2], **options}
    return ConvAutoencoder(in_channels, 4 * in_channels, image_size, **options)


def points(**options):
    torch.manual_seed(0)
    return PointAutoencoder(2, 4, **{"latent_dim": 3, "hidden": 16, "num_layers": 2, **options})


def inputs(kind, size=4):
    """x_0 and ε."""
    generator = torch.Generator().manual_seed(1)
    shape, latent_dim = ((1, 8, 8), 5) if kind is conv else ((2,), 3)
    return torch.randn(size, *shape, generator=generator), torch.randn(size, latent_dim, generator=generator)


@pytest.mark.parametrize(
    ("size", "channels", "multipliers"),
    [(8, 1, [1]), (8, 3, [1, 2]), (15, 1, [1, 2, 2]), (28, 1, [1, 2, 2]), (32, 3, [1, 1, 2, 2]), (64, 4, [1, 1, 1, 1])],
)
def test_any_size_comes_back_with_the_outputs_asked_for(size, channels, multipliers):
    network = conv(size, channels, channel_multipliers=multipliers)
    x_0 = torch.randn(2, channels, size, size)
    mean, log_variance = network.encode(x_0)
    assert mean.shape == log_variance.shape == (2, 5)
    assert network.decode(mean).shape == (2, 4 * channels, size, size)


@pytest.mark.parametrize("kind", [conv, points])
def test_it_starts_at_the_prior_and_at_output_zero(kind):
    mean, log_variance, output = kind()(*inputs(kind))
    assert not mean.any()
    assert not log_variance.any()
    assert not output.any()


@pytest.mark.parametrize("kind", [conv, points])
def test_the_output_is_that_of_the_reparameterised_draw(kind):
    network, (x_0, eps) = woken(kind()), inputs(kind)
    mean, log_variance, output = network(x_0, eps)
    assert log_variance.any()
    torch.testing.assert_close(network.decode(mean + torch.exp(0.5 * log_variance) * eps), output)
    for part, again in zip(network.encode(x_0), (mean, log_variance), strict=True):
        torch.testing.assert_close(part, again)


@pytest.mark.parametrize("kind", [conv, points])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_every_parameter_has_a_gradient(kind, num_classes):
    network, (x_0, eps) = woken(kind(num_classes=num_classes)), inputs(kind)
    y = None if num_classes is None else torch.tensor([0, 1, 2, 0])
    mean, log_variance, output = network(x_0, eps, y)
    (output.square().sum() + mean.square().sum() + log_variance.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize("kind", [conv, points])
def test_the_class_enters_both_halves_a_row_at_a_time(kind):
    network, (x_0, eps) = woken(kind(num_classes=3)), inputs(kind)
    y, other = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 0, 0])
    for half, given in ((lambda given, y: network.encode(given, y)[0], x_0), (network.decode, eps)):
        one, two = half(given, y), half(given, other)
        torch.testing.assert_close(one[[0, 1, 3]], two[[0, 1, 3]])
        assert not torch.allclose(one[2], two[2])


def test_numbers_are_float32_under_autocast():
    network, (x_0, eps) = woken(conv()), inputs(conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert {part.dtype for part in network(x_0, eps)} == {torch.float32}


def test_the_autoencoder_takes_a_height_and_a_width():
    network = conv([12, 20], in_channels=2)
    mean, _ = network.encode(torch.randn(3, 2, 12, 20))
    assert network.decode(mean).shape == (3, 8, 12, 20)
