"""The flow, as a user asks for it: trained, sampled and scored at other temperatures."""

import numpy as np
import pytest
from hydra.utils import instantiate

from diffusion_lab.config.build import build_data
from diffusion_lab.diffusion import SampleNoise

from .conftest import TINY, scored
from .test_conf import FACTS, choices, composed

FLOW = ["model=flow", "network.hidden=8", "network.num_steps=1"]
FLOW += [option for option in TINY if not option.startswith(("network", "schedule"))]


def test_the_temperature_is_a_choice_of_scoring(lab):
    lab.given("train", *FLOW)
    assert "this model is already trained" in lab.done("train", *FLOW, "sampling.temperature=0.5")
    lab.done("evaluate", "sampling.temperature=0.7")
    runs = {run["protocol"]["model"]["temperature"]: run["values"] for run in scored(lab.folder)}
    assert set(runs) == {0.5, 0.7, 1.0}
    assert len({values["bits_per_dim"] for values in runs.values()}) == 1
    assert len({values["fd_pixels"] for values in runs.values()}) == 3
    drawn = {}
    for temperature in (1.0, 0.01):
        lab.done("sample", "num_images=4", "format=npz", f"sampling.temperature={temperature}")
        with np.load(lab.folder / "samples" / "samples.npz") as archive:
            drawn[temperature] = archive["arr_0"].astype(float)
    assert drawn[0.01].std(0).mean() < 0.2 * drawn[1.0].std(0).mean()


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("train", "sampling.temperature=0", "sampling.temperature=0"),
        ("train", "network.num_scales=4", "8x8 pixels cannot be halved 4 times"),
        ("train", "schedule=linear", "schedule"),
        ("train", "sampling=means", "sampling: this model needs temperature"),
        ("evaluate", "sampling=draws", "sampling: this model needs temperature"),
        ("evaluate", "sampler=ddim", "has no sampler to choose; it has sampling, evaluation, features"),
        ("sample", "guidance.scale=2", "has no guidance to choose"),
        ("sample", "sampling.temperature=-1", "sampling.temperature=-1"),
        ("sample", "trajectory=true", "no steps between noise and image"),
    ],
)
def test_what_a_flow_cannot_do_is_said_in_one_sentence(lab, command, option, said):
    if command != "train":
        lab.given("train", *FLOW)
    lab.refused(command, *(FLOW if command == "train" else []), option, said=said)


def test_no_flow_has_fewer_bits_than_the_entropy(lab):
    data = ["data=gaussian", "data.dim=3"]
    lab.done(
        "train",
        "model=flow",
        *data,
        "trainer.max_steps=40",
        "network.num_steps=3",
        "network.hidden=16",
        "optimizer.lr=5e-3",
        "lr_scheduler.warmup_steps=0",
        "evaluation.num_samples=64",
        "metrics.bits_per_dim.num_images=4000",
        "metrics.bits_per_dim.batch_size=4000",
    )
    (run,) = scored(lab.folder)
    assert run["protocol"]["bound"]["kind"] == "exact density"
    cfg = composed("model=flow", *data)
    density = build_data(cfg)
    values = run["values"]
    excess = values["bits_per_dim"] - density.entropy_bits()
    assert excess > -3 * values["bits_per_dim_standard_error"]
    assert excess < 0.05


@pytest.mark.parametrize("size", choices("network/flow"))
def test_every_network_of_the_flow_can_be_built_and_undone(size):
    import torch

    side = {"8x8": 8, "28x28": 28, "64x64": 64}.get(size, 32)
    cfg = composed("model=flow", f"network=flow/{size}")
    shape = [2] if size == "points" else [3, side, side]
    cfg.facts = {**FACTS, "shape": shape, "channels": shape[0], "size": side}
    network = instantiate(cfg.network)(num_classes=None)
    x = SampleNoise(0, torch.arange(2)).initial(tuple(shape)).tanh()
    with torch.no_grad():
        torch.testing.assert_close(network.inverse(network(x)[0]), x, rtol=0, atol=1e-3)
