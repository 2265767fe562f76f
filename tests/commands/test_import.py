"""import: a checkpoint of others becomes a model directory, on which every command works as on our own."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import load
from diffusion_lab.diffusion import SampleNoise

from ..interop.networks import save_by_rule
from ..interop.strangers import diffusers_folder, milestone
from .conftest import scored

CODE = "guided_diffusion"
TINY = (
    "--image_size 8 --channel_mult 1,1 --num_channels 32 --num_res_blocks 1 --attention_resolutions 8 --num_heads 2 "
    "--resblock_updown True --class_cond True --learn_sigma True --diffusion_steps 40 --noise_schedule cosine"
)
UNLABELLED = TINY.replace("--class_cond True", "--class_cond False")
DATA = ["data=image_folder", "data.root=images", "data.image_size=8", "data.classes=subfolders", "data.num_workers=0"]


@pytest.fixture
def published(lab):
    """published(flags) -> theirs.pt, with three classes; images/ has as many."""

    def write(flags: str, **options) -> str:
        save_by_rule(lab.folder / "theirs.pt", CODE, flags, num_classes=3, **options)
        return "checkpoint=theirs.pt"

    return write


def write_images(folder, side=8):
    for number in range(18):
        place = folder / "images" / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")


@pytest.mark.thorough
def test_an_imported_model_draws_and_is_scored(lab, published):
    write_images(lab.folder)
    checkpoint = published(TINY)
    out = lab.done("import", checkpoint, f"flags={TINY}", *DATA)
    (model,) = (lab.folder / "outputs/models").iterdir()
    assert model.name in out
    assert sorted(path.name for path in model.iterdir() if not path.name.startswith(".")) == [
        "choices.json",
        "config.yaml",
        "raw.safetensors",
        "training.json",
    ]
    training = json.loads((model / "training.json").read_text())
    assert (training["steps"], training["imported"]["flags"]) == (None, TINY)
    few = ["sampler.spacing.num_steps=2", "evaluation.num_samples=6", "metrics.bits_per_dim.num_images=2"]
    lab.done("evaluate", *few)
    (score,) = scored(lab.folder)
    assert {"fd_pixels", "bits_per_dim", "parameters"} <= score["values"].keys()
    assert score["protocol"]["absent"]["training_steps"].endswith("was not recorded")
    assert "already imported" in lab.done("import", checkpoint, f"flags={TINY}", *DATA)


def test_a_model_whose_data_nobody_named_draws_and_says_what_a_score_needs(lab, published):
    assert lab("import", published(UNLABELLED), f"flags={UNLABELLED}")[0] == 0
    lab.done("sample", "num_images=2", "sampler.spacing.num_steps=2")
    lab.refused("evaluate", said="import its checkpoint again with data=")


BROKEN = {
    "no file": (["checkpoint=none.pt", f"flags={TINY}"], "there is no such file"),
    "no flags": (["checkpoint=theirs.pt"], "give its flags"),
    "a flag that is none": (
        ["checkpoint=theirs.pt", f"flags={TINY} --num_head 2"],
        "unrecognized arguments: --num_head 2",
    ),
    "another depth": (
        ["checkpoint=theirs.pt", f"flags={TINY} --num_res_blocks 2"],
        "does not fit the described network",
    ),
    "too wide": (["checkpoint=theirs.pt", f"flags={TINY} --num_channels 4096"], "many more parameters"),
    "no classes": (["checkpoint=theirs.pt", f"flags={UNLABELLED}"], "it has label_emb.weight"),
    "other classes": (["checkpoint=theirs.pt", f"flags={TINY}", *DATA, "data.classes=null"], "has no classes"),
    "an upsampler": (["checkpoint=64_256_upsampler.pt"], "cannot be imported"),
}


def test_what_cannot_be_imported_is_one_sentence_and_nothing_is_written(lab, published):
    write_images(lab.folder)
    published(TINY)
    theirs = (lab.folder / "theirs.pt").read_bytes()
    (lab.folder / "half.pt").write_bytes(theirs[:5000])
    (lab.folder / "64_256_upsampler.pt").write_bytes(theirs)
    for options, said in BROKEN.values():
        lab.refused("import", *options, said=said)


@pytest.mark.thorough
def test_an_imported_classifier_guides_an_imported_model(lab, published):
    flags = UNLABELLED.replace("--image_size 8 --channel_mult 1,1", "--image_size 64 --channel_mult 1,1,1,1")
    of_classifier = (
        "--image_size 64 --classifier_width 64 --classifier_depth 1 --noise_schedule cosine --diffusion_steps 40"
    )
    assert lab("import", published(flags), f"flags={flags}")[0] == 0
    (model,) = (lab.folder / "outputs/models").iterdir()
    save_by_rule(lab.folder / "classifier.pt", CODE, of_classifier, classifier=True, num_classes=5)
    lab.done("import", "checkpoint=classifier.pt", f"flags={of_classifier}")
    (classifier,) = (lab.folder / "outputs/models").glob("classifier-*")
    draw = ["sample", f"model_dir={model}", "num_images=2", "sampler.spacing.num_steps=2", "format=npz"]
    guide = ["guidance=classifier", f"guidance.classifier={classifier}", "guidance.scale=3"]
    drawn = {}
    for to, more in (("plain", []), ("guided", guide), ("other", [*guide, "condition=4"])):
        lab.done(*draw, f"to={to}", *more)
        drawn[to] = np.load(lab.folder / to / "samples.npz")["arr_0"]
    assert (drawn["plain"] != drawn["guided"]).any()
    assert (drawn["guided"] != drawn["other"]).any()


# ---- import: folders of diffusers and milestones of denoising-diffusion-pytorch become model directories, as our own ----


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
def test_what_cannot_be_imported_is_one_sentence_and_nothing_is_written_of_others(lab, theirs, monkeypatch):
    milestone(lab.folder / "model-1.pt")
    (lab.folder / "half.pt").write_bytes((lab.folder / "model-1.pt").read_bytes()[:5000])
    (lab.folder / "empty").mkdir()
    write_images(lab.folder, side=16)
    broken = {
        "no folder": (["checkpoint=empty"], "not a folder of diffusers"),
        "no size": (["checkpoint=model-1.pt"], "add image_size=32"),
        "flags": (["checkpoint=theirs", "flags=--x 1"], "has no effect for a folder of diffusers"),
        "another network": (["checkpoint=theirs", "network.options.block_out_channels=[8,32]"], "(16,) in the file"),
        "a wide network": (
            ["checkpoint=theirs", "network.options.block_out_channels=[8,8192]"],
            "many more parameters",
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
