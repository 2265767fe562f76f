"""import: folders of diffusers and milestones of denoising-diffusion-pytorch become model directories, as our own."""

import json

import pytest
import torch

from diffusion_lab import load
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.interop.card import About, card

from ..interop.strangers import diffusers_folder, milestone
from .conftest import files
from .test_import import DATA, write_images

FEW = ["sampler.spacing.num_steps=2", "evaluation.num_samples=6", "metrics.bits_per_dim.num_images=2"]


@pytest.fixture
def theirs(lab):
    pytest.importorskip("diffusers")
    return diffusers_folder(lab.folder / "theirs", "DDPMScheduler", variance_type="fixed_large")


@pytest.mark.needs("diffusers")
def test_an_imported_folder_is_a_model_of_the_lab(lab, theirs):
    code, out, err = lab("import", "checkpoint=theirs")
    assert code == 0, err
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
    code, out, _ = lab("import", "checkpoint=theirs")
    assert code == 0
    assert "already imported" in out


@pytest.mark.thorough
@pytest.mark.needs("diffusers")
@pytest.mark.needs("denoising-diffusion-pytorch")
@pytest.mark.parametrize("kind", ["folder", "milestone"])
def test_another_process_evaluates_and_reports_an_imported_model(lab, process, theirs, kind):
    write_images(lab.folder)
    milestone(lab.folder / "model-1.pt")
    data = DATA[:-2] + DATA[-1:]
    checkpoint = ["checkpoint=theirs"] if kind == "folder" else ["checkpoint=model-1.pt", "image_size=8"]
    code, _, err = lab("import", *checkpoint, *data)
    assert code == 0, err
    done = process("evaluate", *FEW)
    assert done.returncode == 0, done.stderr
    for options in (["variance=analytic"], ["sampler=heun"]):
        code, _, err = lab("evaluate", *FEW, *options)
        assert code == 0, err
    scored = [json.loads(path.read_text()) for path in (lab.folder / "outputs/runs").glob("*/metrics.json")]
    assert len(scored) == 3
    assert all({"fd_pixels", "bits_per_dim", "parameters"} <= found["values"].keys() for found in scored)
    code, _, err = lab("report", "runs=outputs/runs")
    assert code == 0, err


@pytest.mark.needs("denoising-diffusion-pytorch")
def test_the_two_weights_of_a_milestone_are_two_models(lab):
    pytest.importorskip("denoising_diffusion_pytorch")
    milestone(lab.folder / "model-1.pt", {"self_condition": True})
    code, out, err = lab("import", "checkpoint=model-1.pt", "image_size=[8,12]")
    assert code == 0, err
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
    before = files(lab.folder)
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
    for name, (options, said) in broken.items():
        code, _, err = lab("import", *options)
        assert (code, len(err.strip().splitlines())) == (1, 1), (name, err)
        assert said in err, (name, err)
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)  # as where it is not installed
    code, _, err = lab("import", "checkpoint=theirs")
    assert code == 1
    assert "pip install 'diffusion-lab[diffusers]'" in err
    assert files(lab.folder) == before


def test_the_card_of_an_imported_model_says_where_it_is_from():
    training = {"steps": None, "seconds": None, "images": None, "fingerprint": "f", "parameters": 3}
    training["imported"] = {"file": "theirs.pt", "code": "guided_diffusion", "sha256": "0" * 64}
    data = {"name": None, "shape": [3, 8, 8], "identity": None}
    written = card(About("theirs", data, {}, training, "raw", {"family": "diffusion"}, [], "Use it.", "0.1", "torch"))
    assert (
        f"Imported from `theirs.pt` (guided_diffusion), SHA-256 `{'0' * 64}`; its training was not recorded." in written
    )
    assert "None" not in written
