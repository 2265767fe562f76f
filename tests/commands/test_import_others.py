"""import: folders of diffusers and milestones of denoising-diffusion-pytorch become model directories, as our own."""

import json

import pytest
import torch

from diffusion_lab import load
from diffusion_lab.diffusion import SampleNoise

from ..interop.strangers import diffusers_folder, milestone
from .conftest import scored
from .test_import import DATA, write_images

FEW = ["sampler.spacing.num_steps=2", "evaluation.num_samples=6", "metrics.bits_per_dim.num_images=2"]


@pytest.fixture
def theirs(lab):
    pytest.importorskip("diffusers")
    return diffusers_folder(lab.folder / "theirs", "DDPMScheduler", variance_type="fixed_large")


@pytest.mark.needs("diffusers")
def test_an_imported_folder_is_a_model_of_the_lab(lab, theirs):
    out = lab.done("import", "checkpoint=theirs")
    (model,) = (lab.folder / "outputs/models").iterdir()
    assert model.name in out
    training = json.loads((model / "training.json").read_text())
    assert (training["steps"], training["imported"]["code"], training["imported"]["file"]) == (
        None,
        "diffusers",
        "theirs",
    )
    *_, drawn = load(model).trajectory(2, seed=3, sampler="ddim", num_steps=40)
    network, process = theirs
    x_t = SampleNoise(3, torch.arange(2)).initial((3, 8, 8))
    with torch.no_grad():
        for t in process.timesteps:
            x_0 = process.step(network(x_t, t).sample, t, x_t).pred_original_sample
            signal = process.alphas_cumprod[t - 1] if t > 0 else torch.ones(())
            noise = (x_t - process.alphas_cumprod[t].sqrt() * x_0) / (1 - process.alphas_cumprod[t]).sqrt()
            x_t = signal.sqrt() * x_0 + (1 - signal).sqrt() * noise
    assert torch.allclose(drawn, x_t, atol=1e-3)
    assert "already imported" in lab.done("import", "checkpoint=theirs")


@pytest.mark.thorough
@pytest.mark.needs("diffusers")
@pytest.mark.needs("denoising-diffusion-pytorch")
@pytest.mark.parametrize("kind", ["folder", "milestone"])
def test_another_process_evaluates_and_reports_an_imported_model(lab, process, theirs, kind):
    write_images(lab.folder)
    milestone(lab.folder / "model-1.pt")
    data = DATA[:-2] + DATA[-1:]
    checkpoint = ["checkpoint=theirs"] if kind == "folder" else ["checkpoint=model-1.pt", "image_size=8"]
    lab.done("import", *checkpoint, *data)
    done = process("evaluate", *FEW)
    assert done.returncode == 0, done.stderr
    for options in (["variance=analytic"], ["sampler=heun"]):
        lab.done("evaluate", *FEW, *options)
    scores = scored(lab.folder)
    assert len(scores) == 3
    assert all({"fd_pixels", "bits_per_dim", "parameters"} <= found["values"].keys() for found in scores)
    lab.done("report", "runs=outputs/runs")


@pytest.mark.needs("denoising-diffusion-pytorch")
def test_the_two_weights_of_a_milestone_are_two_models(lab):
    pytest.importorskip("denoising_diffusion_pytorch")
    milestone(lab.folder / "model-1.pt", {"self_condition": True})
    out = lab.done("import", "checkpoint=model-1.pt", "image_size=[8,12]")
    assert "it is self-conditioned, and is used without" in out
    assert lab("import", "checkpoint=model-1.pt", "image_size=[8,12]", "weights=model")[0] == 0
    models = sorted((lab.folder / "outputs/models").iterdir())
    assert len(models) == 2
    assert {load(model).sample(2, num_steps=2).shape for model in models} == {(2, 3, 8, 12)}


@pytest.mark.needs("diffusers")
def test_what_cannot_be_imported_is_one_sentence_and_nothing_is_written(lab, theirs, monkeypatch):
    milestone(lab.folder / "model-1.pt")
    (lab.folder / "half.pt").write_bytes((lab.folder / "model-1.pt").read_bytes()[:5000])
    (lab.folder / "empty").mkdir()
    write_images(lab.folder, side=16)
    broken = {
        "no folder": (["checkpoint=empty"], "not a folder of diffusers"),
        "half a file": (["checkpoint=half.pt", "image_size=8"], "is damaged"),
        "no size": (["checkpoint=model-1.pt"], "add image_size=32"),
        "flags": (["checkpoint=theirs", "flags=--x 1"], "has no effect for a folder of diffusers"),
        "other data": (["checkpoint=theirs", *DATA, "data.image_size=16"], "image_folder has images"),
        "an option that is none": (["checkpoint=theirs", "image_sizes=8"], "there is no option"),
        "other options": (["checkpoint=theirs", "network.options.norm_num_groups=3"], "UNet2DModel cannot be built"),
        "another network": (["checkpoint=theirs", "network.options.block_out_channels=[8,32]"], "(16,) in the file"),
        "a wide network": (
            ["checkpoint=theirs", "network.options.block_out_channels=[8,8192]"],
            "many more parameters",
        ),
        "a network of nothing": (
            ["checkpoint=theirs", "network.options.block_out_channels=[0,0]", "network.options.norm_num_groups=1"],
            "a layer without any channels",
        ),
        "a network that takes no image": (
            ["checkpoint=theirs", "network.options.downsample_padding=1000000000"],
            "does not take images of its size",
        ),
    }
    for options, said in broken.values():
        lab.refused("import", *options, said=said)
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)  # as where it is not installed
    lab.refused("import", "checkpoint=theirs", said="pip install 'diffusion-lab[diffusers]'")
