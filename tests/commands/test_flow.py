"""The flow, as a user asks for it: trained, sampled and scored at other temperatures."""

import json

import numpy as np
import pytest
from hydra.utils import instantiate
from safetensors.torch import load_file

from diffusion_lab.config.build import build_data
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.store import newest_model

from .conftest import TINY, files
from .test_conf import FACTS, choices, composed

FLOW = ["model=flow", "network.hidden=8", "network.num_steps=1"]
FLOW += [option for option in TINY if not option.startswith(("network", "schedule"))]


def runs_of(lab):
    return [json.loads(path.read_text()) for path in sorted((lab.folder / "outputs" / "runs").glob("*/metrics.json"))]


def test_a_flow_is_trained_scored_and_sampled(lab):
    code, out, err = lab("train", *FLOW)
    assert code == 0, err
    assert "flow" in out
    (run,) = runs_of(lab)
    values = run["values"]
    parts = values["bits_per_dim_prior"] + values["bits_per_dim_log_det"] + values["bits_per_dim_levels"]
    assert parts == pytest.approx(values["bits_per_dim"], rel=1e-9)
    assert values["bits_per_dim_noise_error"] > 0
    assert values["nfe"] == 1
    assert run["protocol"]["bound"]["kind"] == "dequantised flow bound"
    assert run["protocol"]["model"]["temperature"] == 1.0
    code, _, err = lab("sample", "num_images=5", "batch_size=2", "format=npz")
    assert code == 0, err
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert archive["arr_0"].shape == (5, 8, 8, 1)
    weights = load_file(newest_model(lab.folder / "outputs").weights("raw"))
    assert bool(weights["network.initialised"])


def test_the_temperature_is_a_choice_of_scoring(lab):
    lab.given("train", *FLOW)
    code, out, err = lab("train", *FLOW, "sampling.temperature=0.5")
    assert code == 0, err
    assert "this model is already trained" in out
    code, _, err = lab("evaluate", "sampling.temperature=0.7")
    assert code == 0, err
    runs = {run["protocol"]["model"]["temperature"]: run["values"] for run in runs_of(lab)}
    assert set(runs) == {0.5, 0.7, 1.0}
    assert len({values["bits_per_dim"] for values in runs.values()}) == 1
    assert len({values["fd_pixels"] for values in runs.values()}) == 3
    drawn = {}
    for temperature in (1.0, 0.01):
        code, _, err = lab("sample", "num_images=4", "format=npz", f"sampling.temperature={temperature}")
        assert code == 0, err
        with np.load(lab.folder / "samples" / "samples.npz") as archive:
            drawn[temperature] = archive["arr_0"].astype(float)
    assert drawn[0.01].std(0).mean() < 0.2 * drawn[1.0].std(0).mean()


def test_a_conditional_flow_is_told_its_classes(lab):
    code, _, err = lab("train", *FLOW, "conditional=true")
    assert code == 0, err
    (run,) = runs_of(lab)
    assert run["protocol"]["bound"]["kind"] == "dequantised flow bound given the class"
    code, _, err = lab("sample", "num_images=3", "label=7", "format=npz")
    assert code == 0, err


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
    before = files(lab.folder)
    code, _, err = lab(command, *(FLOW if command == "train" else []), option)
    assert code == 1
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert files(lab.folder) == before


@pytest.mark.parametrize(("data", "options"), [("gaussian", []), ("mixture", []), ("gaussian", ["data.dim=3"])])
def test_no_flow_has_fewer_bits_than_the_entropy(lab, data, options):
    code, _, err = lab(
        "train",
        "model=flow",
        f"data={data}",
        *options,
        "trainer.max_steps=40",
        "network.num_steps=3",
        "network.hidden=16",
        "optimizer.lr=5e-3",
        "lr_scheduler.warmup_steps=0",
        "evaluation.num_samples=64",
        "metrics.bits_per_dim.num_images=4000",
        "metrics.bits_per_dim.batch_size=4000",
    )
    assert code == 0, err
    (run,) = runs_of(lab)
    assert run["protocol"]["bound"]["kind"] == "exact density"
    cfg = composed("model=flow", f"data={data}", *options)
    density = build_data(cfg)
    values = run["values"]
    excess = values["bits_per_dim"] - density.entropy_bits()
    assert excess > -3 * values["bits_per_dim_standard_error"]
    assert excess < (0.05 if data == "gaussian" else 1.5)


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
