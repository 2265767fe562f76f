"""What is picked for one's own images: a function of their size and their number; larger settings for a GPU are proposed."""

from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.build import settle_budget
from diffusion_lab.config.options import check_options
from diffusion_lab.config.picking import MOST_EPOCHS, fill_in, for_gpu, images_shown, pick
from diffusion_lab.networks import UNet

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")

NUMBERS = (2, 20, 300, 999, 3_000, 30_000, 1_000_000)


@pytest.fixture(scope="module")
def composed():
    with initialize_config_dir(str(CONF), version_base=None):
        yield {data: compose("train", [f"data={data}"]) for data in ("image_folder", "digits")}


def picked(composed, side=32, count=3_000, on_gpu=False, data="image_folder", **typed):
    cfg = OmegaConf.merge(composed[data], OmegaConf.from_dotlist([f"{name}={value}" for name, value in typed.items()]))
    images = SimpleNamespace(shape=(3, side, side), num_trained_on=count, batch_size=cfg.data.batch_size)
    found = pick(cfg, images, on_gpu)
    fill_in(cfg, found.options)
    settle_budget(cfg)
    return found, cfg


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("count", [20, 300, 30_000])
@pytest.mark.parametrize("side", [32, 64, 256])
def test_every_folder_gets_a_training_that_fits(composed, side, count, on_gpu):
    found, cfg = picked(composed, side, count, on_gpu)
    check_options(cfg)
    batch, steps = cfg.data.batch_size, cfg.trainer.max_steps
    assert 1 <= batch <= count
    assert 1 <= steps * batch <= MOST_EPOCHS * count
    sizes = {name: cfg.network[name] for name in ("base_channels", "channel_multipliers", "patch_size")}
    with torch.device("meta"):
        network = UNet(3, 3, side, attention_resolutions=None, head_channels=None, num_res_blocks=1, **sizes)
        usual = UNet(3, 3, side, None, None, None, 1, None, None, patch_size=None)
    wider = on_gpu and count >= 1000
    assert network.layout.widths == [width * (1 + wider) for width in usual.layout.widths]
    # typed, it is the same training
    again, same = picked(composed, side, count, on_gpu, **found.options)
    assert again.options == {}
    assert same == cfg


@pytest.mark.parametrize("on_gpu", [False, True])
def test_more_images_are_shown_more_but_never_too_often(on_gpu):
    shown = [images_shown(count, on_gpu) for count in NUMBERS]
    assert shown == sorted(shown)
    assert all(total <= MOST_EPOCHS * count for total, count in zip(shown, NUMBERS, strict=True))
    assert images_shown(300, on_gpu) == 300 * MOST_EPOCHS


@pytest.mark.parametrize(
    ("name", "value"),
    [("trainer.max_steps", 7), ("data.batch_size", 5), ("network.base_channels", 48), ("default_steps", 9)],
)
def test_what_is_typed_is_not_picked(composed, name, value):
    found, cfg = picked(composed, on_gpu=True, **{name: value})
    assert name not in found.options
    assert (cfg.trainer.max_steps if name == "default_steps" else OmegaConf.select(cfg, name)) == value


def test_a_time_leaves_the_steps_open(composed):
    found, cfg = picked(composed, **{"trainer.max_time": "00:00:01:00"})
    assert cfg.trainer.max_steps == -1
    assert set(found.options) == {"data.batch_size"}


def test_a_fixed_data_set_keeps_its_defaults(composed):
    found, cfg = picked(composed, 8, 1438, on_gpu=True, data="digits")
    assert found.options == {}
    assert cfg.trainer.max_steps == composed["digits"].default_steps


def test_a_gpu_is_proposed_more(composed):
    """What the user can type: on this machine and on any other, the same command is the same training."""
    images = SimpleNamespace(shape=(3, 32, 32), num_trained_on=3000, batch_size=None)
    said = for_gpu(composed["image_folder"], images)
    assert said.startswith("on a GPU, larger settings are practical: data.batch_size=128 network.base_channels=")
    assert for_gpu(composed["digits"], images) is None
