"""Weights of a network as the first ones for another condition or image size, for every denoising network of conf/."""

from types import SimpleNamespace

import pytest
import torch
from hydra.utils import get_class, instantiate

from diffusion_lab.conf_dir import CONF
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.networks import Transformer, UNet
from diffusion_lab.networks.fitting import Origin
from tests.models.stand_ins import configured, woken

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")

CHOICES = sorted(file.stem for file in (CONF / "network" / "diffusion").glob("*.yaml"))
UNET = [
    "base_channels=8",
    "channel_multipliers=[1,2]",
    "num_res_blocks=1",
    "attention_resolutions=[4]",
    "head_channels=8",
]
DIT = ["width=16", "num_blocks=3", "num_heads=2", "patch_size=2"]
TINY = {"dit": [*DIT, "learned_positions=true"], "jit": DIT, "points": ["hidden=16"], "diffusers": []}
THEIRS = ["block_out_channels=[8,16]", "layers_per_block=1", "attention_head_dim=8", "norm_num_groups=4"]


class Of(TrainableModel):
    """A model with nothing but this network."""

    def __init__(self, choice, side=8, conditions=(), num_classes=None, size_of=None):
        super().__init__()
        if choice == "diffusers":
            pytest.importorskip("diffusers")
        shape = (2,) if choice == "points" else (1, side, side)
        options = [f"network.{option}" for option in TINY.get(choice, UNET)]
        options += [f"network.options.{option}" for option in THEIRS] if choice == "diffusers" else []
        cfg = configured(f"network=diffusion/{choice}", *options, shape=shape, num_levels=256)
        if size_of is not None:
            cfg.network.update(size_of(cfg.network))
        more = {"conditions": conditions} if conditions else {"num_classes": num_classes}
        torch.manual_seed(side)
        self.network = woken(instantiate(cfg.network)(out_channels=shape[0], **more)).eval()
        self.x_t = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))

    def __call__(self, y=None):
        with torch.no_grad():
            return self.network(self.x_t, torch.tensor([0, 500, 999]), y)


def start(tmp_path, source, model, side=8, null_class=True):
    """`model` with the weights of `source`; what was done."""
    source.save_weights({"raw": tmp_path / "raw.safetensors"})
    return model.start_from(tmp_path / "raw.safetensors", Origin((side, side), null_class))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("there", "here"), [(3, 5), (3, None), (None, 5)])
def test_other_classes_start_from_the_model_without_any(tmp_path, choice, there, here):
    """For every class, the new network is the old one's function of t alone."""
    source, model = Of(choice, num_classes=there), Of(choice, num_classes=here)
    done = start(tmp_path, source, model)
    expected = source()
    assert expected.std() > 0.01
    for y in (None,) if here is None else (None, torch.tensor([0, 2, 4])):
        torch.testing.assert_close(model(y), expected, rtol=1e-4, atol=1e-5)
    assert all("class" in name for name in (*done.anew, *done.left_out))
    assert len(done.weights) == len(model.state_dict())


@pytest.mark.parametrize("choice", CHOICES)
def test_as_many_classes_are_taken_as_they_are(tmp_path, choice):
    source, model = Of(choice, num_classes=3), Of(choice, num_classes=3)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(2)
    done = start(tmp_path, source, model)
    assert (done.changed, done.anew, done.left_out) == ([], [], [])
    y = torch.tensor([2, 0, 1])
    assert torch.equal(model(y), source(y))


@pytest.mark.parametrize("choice", [c for c in CHOICES if c not in ("points", "diffusers")])
@pytest.mark.parametrize(("there", "here"), [((), (4, (2,), (2, 8, 8))), ((4, (2,), (2, 8, 8)), ())])
def test_fields_and_vectors_begin_without_effect(tmp_path, choice, there, here):
    source, model = (Of(choice, conditions=sizes) for sizes in (there, here))
    done = start(tmp_path, source, model)
    expected = source()
    y = (torch.tensor([0, 1, 3]), torch.randn(3, 2), torch.randn(3, 2, 8, 8)) if here else None
    assert any("input" in name for name in done.changed)
    if not there:  # a network that had a field saw where it was missing
        torch.testing.assert_close(model(y), expected, rtol=1e-4, atol=1e-5)
    else:
        assert model().isfinite().all()


@pytest.mark.parametrize("choice", [c for c in CHOICES if c not in ("points", "diffusers")])
@pytest.mark.parametrize("side", [16, 6])
def test_another_size_takes_every_weight(tmp_path, choice, side):
    """Attention stays at its levels, patches have as many pixels; a table of positions is interpolated."""
    source = Of(choice)

    def size_of(options):
        return get_class(options["_target_"]).options_at(side, {**options, "image_size": 8}, 8)

    model = Of(choice, side, size_of=size_of)
    done = start(tmp_path, source, model)
    assert (done.anew, done.left_out) == ([], [])
    assert all("positions" in name for name in done.changed)
    assert bool(done.changed) == (choice == "dit")
    assert model().shape == (3, 1, side, side)
    for name, weights in source.state_dict().items():
        assert "positions" in name or torch.equal(model.state_dict()[name], weights)


def test_what_null_picks_is_that_of_the_source():
    """An image of 64 pixels would have picked another width, more levels and larger patches than one of 8."""
    picked = dict.fromkeys(
        ("base_channels", "channel_multipliers", "attention_resolutions", "head_channels", "patch_size")
    )
    assert UNet.options_at(64, picked, 8) == {
        "base_channels": 32,
        "channel_multipliers": [1, 2],
        "attention_resolutions": [32],
        "head_channels": 64,
        "patch_size": 1,
    }
    assert Transformer.options_at(64, {"patch_size": None, "num_context": None}, 32) == {
        "patch_size": 2,
        "num_context": 32,
    }


def test_a_table_of_positions_is_interpolated(tmp_path):
    """A value that is linear along an axis stays so, between the ends of the old table."""
    source, model = Of("dit"), Of("dit", 16)
    with torch.no_grad():
        source.network.trunk.inputs.positions.copy_(torch.arange(4.0).repeat(4)[:, None].expand(-1, 16))
    start(tmp_path, source, model)
    table = model.network.trunk.inputs.positions.unflatten(0, (8, 8))
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(table[3, :, 0], expected)
    torch.testing.assert_close(table[7, :, 5], expected)


def test_without_a_null_class_the_mean_of_classes_is_taken(tmp_path):
    source, model = Of("8x8", num_classes=3), Of("8x8")
    start(tmp_path, source, model, null_class=False)
    conditioning = source.network.encoder.conditioning
    expected = conditioning.time[2].bias + conditioning.classes.weight.mean(0)
    torch.testing.assert_close(model.network.encoder.conditioning.time[2].bias, expected)


@pytest.mark.parametrize("change", [{"width": 32}, {"num_blocks": 2}, {"patch_size": 4}])
def test_another_network_is_refused_and_changes_nothing(tmp_path, change):
    source, model = Of("dit"), Of("dit", num_classes=3, size_of=lambda _: change)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"raw\.safetensors does not hold the weights of this model: network\."):
        start(tmp_path, source, model)
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_another_number_of_channels_is_refused(tmp_path):
    source, model = Of("8x8"), Of("8x8")
    grey = SimpleNamespace(in_channels=3, out_channels=3)
    model.network = UNet(
        **vars(grey),
        image_size=8,
        base_channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        head_channels=8,
    )
    with pytest.raises(ValueError, match="does not hold the weights"):
        start(tmp_path, source, model)
