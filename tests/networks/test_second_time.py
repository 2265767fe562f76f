"""A second time s, the end of a step from t, in every denoising network."""

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import nn

from diffusion_lab.interop.to_diffusers import unet2d_config
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.networks import MLP, Transformer, UNet
from tests.models.stand_ins import configured, woken

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")

SIDES = [(8,), (8, 8), (6, 6, 6)]
KINDS = ("unet", "dit", "jit")
NETWORKS = pytest.mark.parametrize(
    ("kind", "sides"), [*((kind, sides) for kind in KINDS for sides in SIDES), ("mlp", ())], ids=str
)
OF_IMAGES = pytest.mark.parametrize(("kind", "sides"), [*((kind, (8, 8)) for kind in KINDS), ("mlp", ())], ids=str)
SMALL_TRANSFORMER = {"width": 16, "num_blocks": 3, "num_heads": 2, "patch_size": 2}
JIT = dict.fromkeys(("rotary", "qk_norm", "rms_norm", "gated_mlp"), True) | {"bottleneck": 128, "num_context": None}


def denoiser(kind, sides, out_channels=1, **options):
    """A small network of this kind, for data with so many spatial axes, with weights other than zero, and one channel."""
    torch.manual_seed(0)
    if kind == "mlp":
        return woken(MLP(2, 2, hidden=16, num_layers=2, **options))
    if kind == "unet":
        sizes = {"base_channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1, "head_channels": 8}
        return woken(UNet(1, out_channels, sides, attention_resolutions=(max(sides) // 2,), **sizes, **options))
    recipe = JIT if kind == "jit" else {}
    network = woken(Transformer(1, out_channels, sides, **SMALL_TRANSFORMER, **recipe, **options))
    with torch.no_grad():
        for parameter in network.trunk.conditioning.parameters():
            parameter.mul_(10)  # from 0.02, so that times and conditions matter as much as x_t
    return network


def inputs(kind, sides, batch=3, seed=2):
    """x_t, t and s, as many values and one channel."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2,) if kind == "mlp" else (1, *sides)
    return (
        torch.randn(batch, *shape, generator=generator),
        torch.tensor([9.0, 500.0, 999.0]),
        torch.tensor([0.0, 9, 500]),
    )


def with_one_time(network, kind, sides, **options):
    """The network of two times, with the weights of a network of one time, and that network."""
    one = denoiser(kind, sides, **options)
    missing, unexpected = network.load_state_dict(one.state_dict(), strict=False)
    assert missing
    assert all(".second_time." in name for name in missing)
    assert not unexpected
    return one


def at_its_start(kind, sides, **options):
    """A network of two times that no training has changed yet."""
    network = denoiser(kind, sides, two_times=True, **options)
    conditioning = next(module for module in network.modules() if hasattr(module, "second_time"))
    conditioning.start_with_one_time()  # `woken` changed it
    return network


@NETWORKS
def test_at_the_start_it_is_the_network_of_one_time(kind, sides):
    """For every s, with the same weights, to the bit."""
    x_t, t, s = inputs(kind, sides)
    network = at_its_start(kind, sides)
    one = with_one_time(network, kind, sides)
    expected = one(x_t, t)
    for end in (None, t, s, s + 0.5):
        assert torch.equal(network(x_t, t, None, end), expected)


@NETWORKS
def test_one_step_of_training_makes_s_matter(kind, sides):
    x_t, t, s = inputs(kind, sides)
    network = at_its_start(kind, sides)
    network(x_t, t, None, s).square().mean().backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    output = network(x_t, t, None, s)
    changed = network(x_t, t, None, s + torch.tensor([0.0, 0.0, 40.0]))
    torch.testing.assert_close(changed[:2], output[:2])
    assert not torch.allclose(changed[2], output[2], rtol=0, atol=1e-5)
    assert torch.equal(network(x_t, t), network(x_t, t, None, t)), "without s it is s = t"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_it_stands_beside_classes_a_vector_and_a_field(kind, sides):
    """Also beside none of them, in a network that has them."""
    x_t, t, s = inputs(kind, sides)
    field = torch.randn(3, 2, *sides, generator=torch.Generator().manual_seed(5))
    y = torch.tensor([0, 1, 2]), torch.tensor([[0.5, 1.0]] * 3), field
    options = {"conditions": (3, (2,), (2, *sides))}
    network = at_its_start(kind, sides, **options)
    one = with_one_time(network, kind, sides, **options)
    assert torch.equal(network(x_t, t, y, s), one(x_t, t, y))
    assert torch.equal(network(x_t, t, None, s), one(x_t, t))

    network = denoiser(kind, sides, two_times=True, **options)
    output, later = network(x_t, t, y, s), network(x_t, t, y, s + 40)
    assert not torch.allclose(later, output, atol=1e-3)
    for other in ((y[0].flip(0), *y[1:]), (*y[:2], 1 + y[2])):
        assert not torch.allclose(network(x_t, t, other, s), output, atol=1e-3)


@OF_IMAGES
def test_classes_alone_keep_their_table(kind, sides):
    """So a model of classes can be the start."""
    x_t, t, s = inputs(kind, sides)
    y = torch.tensor([0, 1, 3])
    network = at_its_start(kind, sides, num_classes=3)
    one = with_one_time(network, kind, sides, num_classes=3)
    assert torch.equal(network(x_t, t, y, s), one(x_t, t, y))


@OF_IMAGES
def test_a_network_of_one_time_refuses_a_second(kind, sides):
    x_t, t, s = inputs(kind, sides)
    with pytest.raises(ValueError, match=r"takes one time.*two_times=True"):
        denoiser(kind, sides)(x_t, t, None, s)


@pytest.mark.parametrize("name", ["dit", "jit", "28x28"])
def test_the_configured_networks_take_two_times(name):
    cfg = configured(f"network=diffusion/{name}", "model=diffusion", shape=(1, 28, 28), num_levels=256)
    network = instantiate(cfg.network, _convert_="all")(out_channels=1, num_classes=None, two_times=True)
    x_t = torch.randn(1, 1, 28, 28)
    assert network(x_t, torch.tensor([3.0]), None, torch.tensor([1.0])).shape == x_t.shape


class OfTwoTimes(TrainableModel):
    """A model with nothing but a network of two times, or of one."""

    def __init__(self, **options):
        super().__init__()
        self.network = denoiser("mlp", (), **options)


def test_training_starts_from_a_network_of_one_time(tmp_path):
    """`init_from`; a file of two times is read whole, and one that lacks anything else is refused."""
    files = {name: tmp_path / name / "raw.safetensors" for name in ("one", "two", "less")}
    one, two = OfTwoTimes(), OfTwoTimes(two_times=True)
    for file in files.values():
        file.parent.mkdir()
    one.save_weights({"raw": files["one"]})
    two.save_weights({"raw": files["two"]})
    save_file({key: tensor for key, tensor in one.state_dict().items() if "input" not in key}, files["less"])
    x_t, t, s = inputs("mlp", ())

    model = OfTwoTimes(two_times=True)
    model.network.conditioning.start_with_one_time()
    model.start_from(files["one"])
    assert torch.equal(model.network(x_t, t, None, s), one.network(x_t, t))
    model.start_from(files["two"])
    assert torch.equal(model.network(x_t, t, None, s), two.network(x_t, t, None, s))
    with pytest.raises(ValueError, match=r"network\.input\.\w+ is missing in the file"):
        model.start_from(files["less"])
    with pytest.raises(ValueError, match=r"second_time\S+ is \(.*\) in the file and missing"):
        one.start_from(files["two"])


def test_formats_of_one_time_refuse_it():
    network = at_its_start("unet", (8, 8))
    with pytest.raises(ValueError, match=r"network\.two_times"):
        unet2d_config(network, (1, 8, 8))


def test_every_parameter_of_two_times_has_a_gradient():
    network = denoiser("mlp", (), two_times=True)
    network(*inputs("mlp", ())[:2], None, torch.tensor([0.0, 1.0, 2.0])).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert isinstance(network.conditioning.second_time, nn.Sequential)
