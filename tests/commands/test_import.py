"""import: a checkpoint of others becomes a model directory, on which every command works as on our own."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusion_lab import load

from ..interop.networks import save_by_rule
from ..interop.strangers import diffusers_folder
from .conftest import files, scored

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
    assert files(model) == ["choices.json", "config.yaml", "raw.safetensors", "training.json"]
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
    "no flags": (["checkpoint=theirs.pt"], "give its flags"),
    "too wide": (["checkpoint=theirs.pt", f"flags={TINY} --num_channels 4096"], "many more parameters"),
    "no classes": (["checkpoint=theirs.pt", f"flags={UNLABELLED}"], "it has label_emb.weight"),
    "other classes": (["checkpoint=theirs.pt", f"flags={TINY}", *DATA, "data.classes=null"], "has no classes"),
    "an upsampler": (["checkpoint=64_256_upsampler.pt"], "cannot be imported"),
}


def test_what_cannot_be_imported_is_one_sentence_and_nothing_is_written(lab, published):
    write_images(lab.folder)
    published(TINY)
    shutil.copy(lab.folder / "theirs.pt", lab.folder / "64_256_upsampler.pt")
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


# ---- import: folders of diffusers become model directories, as our own ----


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
    assert training["steps"] is None
    assert (training["imported"]["code"], training["imported"]["file"]) == ("diffusers", "theirs")
    assert load(model).sample(2, num_steps=2).shape == (2, 3, 8, 8)
    assert "already imported" in lab.done("import", "checkpoint=theirs")


@pytest.mark.needs("diffusers")
def test_what_cannot_be_imported_is_one_sentence_and_nothing_is_written_of_others(lab, theirs, monkeypatch):
    (lab.folder / "empty").mkdir()
    write_images(lab.folder, side=16)
    broken = {
        "no folder": (["checkpoint=empty"], "not a folder of diffusers"),
        "flags": (["checkpoint=theirs", "flags=--x 1"], "has no effect for a folder of diffusers"),
        "a wide network": (
            ["checkpoint=theirs", "network.options.block_out_channels=[8,8192]"],
            "many more parameters",
        ),
    }
    for options, said in broken.values():
        lab.refused("import", *options, said=said)
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)  # as where it is not installed
    lab.refused("import", "checkpoint=theirs", said="pip install 'diffusion-lab[diffusers]'")
