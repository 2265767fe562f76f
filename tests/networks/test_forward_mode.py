"""torch.func.jvp through every denoising network, against differences, and gradients of a loss that holds one."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import jvp

from diffusion_lab.networks.dropout import keyed, set_keys
from tests.networks.test_second_time import KINDS, OF_IMAGES, SIDES, denoiser

IMAGES = pytest.mark.parametrize("kind", KINDS)
OPTIONS = (
    {"additive_embedding": True, "residual_resampling": True},
    {"patch_size": 2},
    {"padding": "circular"},
    {"fourier_periods": (16,), "num_levels": 17},
)
STEP = 2**-6  # exact in float32, in which networks embed times and return their output


def at(kind, sides, dtype=torch.float64):
    """(x_t, t, s) and a direction in each; small times, in whose sinusoids float32 keeps its digits."""
    generator = torch.Generator().manual_seed(2)
    shape = (3, 2) if kind == "mlp" else (3, 1, *sides)
    x, v = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    times = torch.tensor([[3.0, 5.0, 7.0], [1.0, 5.0, 2.0]], dtype=dtype)
    return (x, *times), (v / 8, torch.ones(3, dtype=dtype), torch.tensor([1.0, 2.0, -1.0], dtype=dtype))


def evaluated(network, y=None):
    return lambda x, t, s: network(x, t, y, s)


def difference(function, at, direction):
    """d function(at + h·direction)/dh at h = 0, of fourth order."""

    def moved(steps):
        here = (place + steps * STEP * along for place, along in zip(at, direction, strict=True))
        return function(*here).detach().double()

    return (8 * (moved(1) - moved(-1)) - moved(2) + moved(-2)) / (12 * STEP)


def off(actual, expected):
    """The relative error."""
    expected = expected.detach().double()
    return float((actual.detach().double() - expected).norm() / expected.norm())


def with_jvp(network, at, direction, y=None, gradients=True):
    """(u, du) of one evaluation; without gradients for the weights, u of a plain evaluation."""
    with nullcontext() if gradients else torch.no_grad():
        u, du = jvp(evaluated(network, y), at, direction)
    return u if gradients else evaluated(network, y)(*at), du


def residual(u, du, target):
    """MeanFlow's loss: no gradient passes the derivative."""
    return (u - (target - 0.5 * du.detach())).square().mean()


def gradient(network, loss):
    network.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten().double() for parameter in network.parameters()])


def a_jvp_is_a_difference(kind, sides):
    """In x_t, t and s, each alone and all together."""
    network = denoiser(kind, sides, two_times=True).double()
    here, direction = at(kind, sides)
    still = [torch.zeros_like(part) for part in direction]
    alone = [tuple(part if i == k else zero for i, zero in enumerate(still)) for k, part in enumerate(direction)]
    found = []
    for along in alone:
        found.append(jvp(evaluated(network), here, along)[1])
        assert off(found[-1], difference(evaluated(network), here, along)) < 1e-3
    u, du = jvp(evaluated(network), here, direction)
    torch.testing.assert_close(du, sum(found), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(u, evaluated(network)(*here))


@OF_IMAGES
def test_a_jvp_is_a_difference(kind, sides):
    a_jvp_is_a_difference(kind, sides)


@pytest.mark.thorough
@pytest.mark.parametrize("sides", [sides for sides in SIDES if len(sides) != 2], ids=str)
@IMAGES
def test_a_jvp_along_other_axes_is_a_difference(kind, sides):
    a_jvp_is_a_difference(kind, sides)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_a_jvp_passes_every_part_of_the_unet(options):
    network = denoiser("unet", (8, 8), two_times=True, **options).double()
    here, direction = at("unet", (8, 8))
    du = jvp(evaluated(network), here, direction)[1]
    assert off(du, difference(evaluated(network), here, direction)) < 1e-3


@IMAGES
def test_a_jvp_of_a_network_with_conditions(kind):
    """With a vector and a field, where no sample, one, or each has them."""
    sides = (8, 8)
    network = denoiser(kind, sides, two_times=True, conditions=(3, (2,), (1, *sides))).double()
    here, direction = at(kind, sides)
    known = torch.tensor([0, 1, 2]), torch.full((3, 2), 0.5).double(), torch.ones(3, 1, *sides).double()
    partly = known[0], known[1].clone(), known[2].clone()
    partly[1][0], partly[2][1] = float("nan"), float("nan")
    for y in (None, known, partly):
        du = jvp(evaluated(network, y), here, direction)[1]
        assert off(du, difference(evaluated(network, y), here, direction)) < 1e-3


@OF_IMAGES
@pytest.mark.parametrize("gradients", [True, False], ids=["one evaluation", "two"])
def test_the_gradient_of_a_residual(kind, sides, gradients):
    """That of the plain network beside a difference: of the jvp's own output, and of a plain evaluation beside a jvp."""
    network = denoiser(kind, sides, two_times=True).double()
    here, direction = at(kind, sides)
    target = torch.randn(here[0].shape, generator=torch.Generator().manual_seed(3))
    expected = gradient(
        network,
        residual(evaluated(network)(*here), difference(evaluated(network), here, direction), target),
    )
    u, du = with_jvp(network, here, direction, gradients=gradients)
    assert du.requires_grad == gradients
    assert off(gradient(network, residual(u, du, target)), expected) < 1e-3


@OF_IMAGES
@pytest.mark.parametrize("mixed", [True, False], ids=["bf16-mixed", "bf16-true"])
def test_in_bfloat16_it_is_float32_up_to_rounding(kind, sides, mixed):
    """Value, derivative and gradient. Under one autocast, plain evaluations before and after a jvp have their gradients too."""
    network = denoiser(kind, sides, two_times=True)
    here, direction = at(kind, sides, torch.float32)
    target = torch.randn(here[0].shape, generator=torch.Generator().manual_seed(3))
    u, du = with_jvp(network, here, direction)
    expected = gradient(network, residual(u, du, target))
    if not mixed:
        network.bfloat16()
        here, direction = ((parts[0].bfloat16(), *parts[1:]) for parts in (here, direction))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for gradients in (True, False, True):
            ours, derivative = with_jvp(network, here, direction, gradients=gradients)
            assert ours.dtype == derivative.dtype == torch.float32
            assert off(ours, u) < 0.03
            assert off(derivative, du) < 0.05
            assert off(gradient(network, residual(ours, derivative, target)), expected) < 0.1


@IMAGES
def test_recomputed_blocks_are_refused_with_gradients(kind):
    """Torch fails in the backward pass; without gradients nothing is recomputed."""
    network = denoiser(kind, (8, 8), two_times=True, activation_checkpointing=True).double()
    here, direction = at(kind, (8, 8))
    with pytest.raises(ValueError, match=r"activation_checkpointing=true: .*no_grad\(\)"):
        with_jvp(network, here, direction)
    u, du = with_jvp(network, here, direction, gradients=False)
    plain = denoiser(kind, (8, 8), two_times=True).double()
    torch.testing.assert_close(du, with_jvp(plain, here, direction)[1].detach())
    expected = gradient(plain, residual(*with_jvp(plain, here, direction), 0))
    assert off(gradient(network, residual(u, du, 0)), expected) < 1e-6


@IMAGES
def test_dropout_of_a_jvp_is_that_of_the_plain_network(kind):
    """Because its masks are functions of (seed, step, sample, layer); so value and derivative are of one function."""
    network = denoiser(kind, (8, 8), two_times=True, dropout=0.3).double().train()
    here, direction = at(kind, (8, 8))
    set_keys(keyed(network), 5, torch.arange(3))
    u, du = with_jvp(network, here, direction)
    torch.testing.assert_close(u, evaluated(network)(*here))
    assert off(du, difference(evaluated(network), here, direction)) < 1e-3
    set_keys(keyed(network), 6, torch.arange(3))
    assert off(evaluated(network)(*here), u) > 0.01


@IMAGES
def test_held_outputs_train_their_layer_only(kind):
    network = denoiser(kind, (8, 8), out_channels=2, two_times=True, held_channels=1).double()
    here, direction = at(kind, (8, 8))
    u, du = with_jvp(network, here, direction)
    residual(u[:, 1:], du[:, 1:], 0).backward()
    trained = {
        name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert trained == {"output.weight", "output.bias"}


def test_channels_stay_last_in_a_jvp():
    """A block that answered in NCHW would make every later convolution copy, of value and tangent."""
    network, strided = denoiser("unet", (8, 8), two_times=True), []

    def note(name, _, given):
        for part in torch.autograd.forward_ad.unpack_dual(given[0], level=0):
            if part.shape[1] > 1 and part.stride(1) != 1:
                strided.append(name)

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) or type(module).__name__ == "Conv":
            module.register_forward_pre_hook(partial(note, name))
    jvp(evaluated(network), *at("unet", (8, 8), torch.float32))
    assert strided == []
