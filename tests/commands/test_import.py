"""import: a published checkpoint becomes a model directory, on which every command works as on our own."""

import json

import numpy as np
import pytest
from PIL import Image

from ..interop.networks import save_by_rule
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
    "nothing named": ([], "set the file"),
    "no flags": (["checkpoint=theirs.pt"], "give its flags"),
    "nobody's flags": (["checkpoint=theirs.pt", "flags=--image_size 32"], "add code="),
    "a flag that is none": (
        ["checkpoint=theirs.pt", f"flags={TINY} --num_head 2"],
        "unrecognized arguments: --num_head 2",
    ),
    "another depth": (
        ["checkpoint=theirs.pt", f"flags={TINY} --num_res_blocks 2"],
        "does not fit the described network",
    ),
    "another width": (
        ["checkpoint=theirs.pt", f"flags={TINY} --num_channels 64"],
        "does not fit the described network",
    ),
    "far too wide": (["checkpoint=theirs.pt", f"flags={TINY} --num_channels 65536"], "at most 8192"),
    "too wide": (["checkpoint=theirs.pt", f"flags={TINY} --num_channels 4096"], "many more parameters"),
    "no classes": (["checkpoint=theirs.pt", f"flags={UNLABELLED}"], "it has label_emb.weight"),
    "another size": (["checkpoint=theirs.pt", f"flags={TINY}", *DATA, "data.image_size=16"], "image_folder has images"),
    "other classes": (["checkpoint=theirs.pt", f"flags={TINY}", *DATA, "data.classes=null"], "has no classes"),
    "half a file": (["checkpoint=half.pt", f"flags={TINY}"], "is damaged"),
    "an upsampler": (["checkpoint=64_256_upsampler.pt"], "cannot be imported"),
    "an option that is none": (["checkpoint=theirs.pt", f"flags={TINY}", "checkpoints=1"], "there is no option"),
}


def test_what_cannot_be_imported_is_one_sentence_and_nothing_is_written(lab, published):
    write_images(lab.folder)
    published(TINY)
    theirs = (lab.folder / "theirs.pt").read_bytes()
    (lab.folder / "half.pt").write_bytes(theirs[:5000])
    (lab.folder / "64_256_upsampler.pt").write_bytes(theirs)
    before = files(lab.folder)
    for name, (options, said) in BROKEN.items():
        code, _, err = lab("import", *options)
        assert code == 1, name
        assert said in err, (name, err)
        assert len(err.strip().splitlines()) == 1, (name, err)
    assert files(lab.folder) == before


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
    for to, more in (("plain", []), ("guided", guide), ("other", [*guide, "label=4"])):
        lab.done(*draw, f"to={to}", *more)
        drawn[to] = np.load(lab.folder / to / "samples.npz")["arr_0"]
    assert (drawn["plain"] != drawn["guided"]).any()
    assert (drawn["guided"] != drawn["other"]).any()
