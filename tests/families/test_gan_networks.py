"""Generator and discriminator: what a row depends on, how sizes meet, and the projection."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from diffusion_lab.families.gan.adversarial import squared_slope
from diffusion_lab.families.gan.networks import Discriminator, Generator, PointDiscriminator, PointGenerator
from tests.models.stand_ins import woken

SMALL = {"base_channels": 8, "channel_multipliers": (1, 2)}


def pair(kind, **options):
    torch.manual_seed(0)
    if kind == "points":
        return PointGenerator(2, latent_size=5, hidden=16, **options), PointDiscriminator(2, hidden=16, **options)
    return Generator(1, 8, latent_size=5, **SMALL, **options), Discriminator(1, 8, **SMALL, **options)


def image(kind, n):
    return torch.randn(n, *((2,) if kind == "points" else (1, 8, 8)))


KINDS = pytest.mark.parametrize("kind", ["images", "points"])


@pytest.mark.parametrize(("size", "levels"), [(8, 2), (9, 3), (15, 3), (28, 3), (32, 4), (64, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_any_number_of_channels(size, levels, channels):
    options = {"base_channels": 4, "channel_multipliers": (1,) * levels}
    generator = Generator(channels, size, latent_size=3, **options)
    discriminator = Discriminator(channels, size, **options)
    x = generator(torch.randn(2, 3))
    assert x.shape == (2, channels, size, size)
    assert x.dtype == torch.float32
    assert float(x.detach().abs().max()) <= 1
    assert discriminator(x).shape == (2,)
    assert generator.sides == [(-(-size // 2**level),) * 2 for level in range(levels)]


@KINDS
def test_a_row_depends_on_its_own_latent_and_label_only(kind):
    generator, discriminator = map(woken, pair(kind, num_classes=3))
    z, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    x = generator(z, y)
    alone = torch.cat([generator(z[i : i + 1], y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, x, rtol=0, atol=1e-5)
    judged = discriminator(x, y)
    alone = torch.cat([discriminator(x[i : i + 1], y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, judged, rtol=0, atol=1e-5)
    other = generator(z, (y + 1) % 3)
    assert float((other - x).detach().abs().flatten(1).amax(1).min()) > 1e-3, "the generator does not hear the label"


@KINDS
def test_a_generator_starts_without_classes_and_learns_of_all(kind):
    generator, _ = pair(kind, num_classes=3)
    z, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    x = generator(z, y)
    assert torch.equal(x, generator(z, (y + 1) % 3))
    (x * image(kind, 6)).sum().backward()
    assert generator.latent.table.weight.grad.abs().amax(1).min() > 0


@KINDS
def test_the_projection_is_linear_in_the_features(kind):
    """D(x, y) − D(x, y') = ⟨table[y] − table[y'], h(x)⟩: for two classes, D differs by a linear function of h."""
    _, discriminator = pair(kind, num_classes=3)
    x = image(kind, 4)
    seen = []
    discriminator.judgement.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    values = [discriminator(x, torch.full((4,), k)) for k in range(3)]
    table, linear = discriminator.judgement.table.weight, discriminator.judgement.linear
    for k in range(3):
        torch.testing.assert_close(values[k], seen[0] @ (linear.weight[0] + table[k]) + linear.bias)
    with torch.no_grad():
        table.zero_()
    torch.testing.assert_close(discriminator(x, torch.zeros(4, dtype=torch.int64)), linear(seen[0]).squeeze(1))


@KINDS
def test_every_parameter_has_a_gradient(kind):
    generator, discriminator = map(woken, pair(kind, num_classes=3))
    y = torch.arange(6) % 3
    x = generator(torch.randn(6, 5), y)
    for network, loss in ((generator, x.square().sum()), (discriminator, discriminator(x.detach(), y).square().sum())):
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("network", [partial(Discriminator, 1, 8, **SMALL), partial(PointDiscriminator, 2, hidden=16)])
def test_spectral_norm_is_of_every_weight(network):
    for norm in (False, True):
        modules = network(num_classes=3, spectral_norm=norm).modules()
        weighted = [module for module in modules if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding)]
        assert {is_parametrized(module, "weight") for module in weighted} == {norm}


def test_spectral_norm_bounds_the_slope_of_points():
    """The layers between are means of a map of slope ≤ 1 and the identity, so |D(a) − D(b)| ≤ c·|a − b| with c = √2^layers."""
    torch.manual_seed(0)
    discriminator = PointDiscriminator(2, spectral_norm=True, hidden=16, num_layers=3)
    x = torch.randn(200, 2)
    for _ in range(60):
        discriminator(x)
    assert float(squared_slope(discriminator.eval(), x).detach().max().sqrt()) <= 2**1.5 * 1.01


@KINDS
def test_a_penalty_on_the_slope_reaches_the_weights(kind):
    _, discriminator = pair(kind)
    x = image(kind, 3)
    loss = squared_slope(discriminator, x).sum()
    gradients = torch.autograd.grad(loss, list(discriminator.parameters()), allow_unused=True)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients) >= 4


def test_generator_and_discriminator_take_a_height():
    """Generator and discriminator take a height and a width."""
    x = Generator(2, [12, 20], **SMALL)(torch.randn(3, 64))
    assert x.shape == (3, 2, 12, 20)
    assert Discriminator(2, [12, 20], **SMALL)(x).shape == (3,)
