"""The multilayer perceptron for densities."""

import torch

from diffusion_lab.networks import MLP
from tests.models.stand_ins import woken


def awake(**options):
    torch.manual_seed(0)
    return woken(MLP(2, 4, hidden=16, num_layers=2, **options))


def test_shapes_zero_start_and_autocast():
    x_t, timesteps = torch.randn(5, 2), torch.arange(5)
    assert not MLP(2, 4)(x_t, timesteps).any()
    with torch.autocast("cpu", torch.bfloat16):
        output = awake()(x_t, timesteps)
    assert output.shape == (5, 4)
    assert output.dtype == torch.float32


def test_every_parameter_has_a_gradient():
    """Every parameter has a gradient and every input matters."""
    network = awake(num_classes=3)
    x_t, timesteps, y = torch.randn(3, 2), torch.tensor([0, 10, 999]), torch.tensor([0, 1, 2])
    output = network(x_t, timesteps, y)
    output.square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())
    assert not torch.allclose(output, network(x_t, timesteps + 100, y))
    assert not torch.allclose(output, network(x_t + 1, timesteps, y))
    torch.testing.assert_close(network(x_t, timesteps), network(x_t, timesteps, torch.full((3,), 3)))
    changed = network(x_t, timesteps, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(changed[:2], output[:2])
    assert not torch.allclose(changed[2], output[2])


def test_held_channels_are_the_same_outputs():
    """Held channels are the same outputs and train their own weights only."""
    x_t, timesteps = torch.randn(3, 2), torch.tensor([0, 10, 999])
    network = awake(held_channels=2)
    output = network(x_t, timesteps)
    torch.testing.assert_close(output, awake()(x_t, timesteps))
    output[:, 2:].square().sum().backward()
    trained = {
        name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert trained == {"output.weight", "output.bias"}
    assert not network.output.weight.grad[:2].any()


def test_a_perceptron_of_points_is_its_own_classifier():
    network = MLP(2, 3, hidden=8)
    assert network.classifier()(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)).shape == (4, 3)
