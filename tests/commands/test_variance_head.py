"""variance=regressed as a user meets it: a head is trained on a trained model, found by its content, and used."""

import shutil

import pytest
from omegaconf import OmegaConf

from diffusion_lab.config.trained import load_config
from diffusion_lab.store import ModelDirectory, newest_model

from .conftest import STRIDED, TINY, files, scored
from .test_measured import variances

HEAD = [
    "model=variance_head",
    *(option for option in TINY if not option.startswith(("schedule", "evaluation", "metrics"))),
]


def models(lab, kind):
    return sorted((lab.folder / "outputs" / "models").glob(f"*-{kind}-*"))


@pytest.fixture
def model(lab):
    """The folder of a trained model, relative to that of the test."""
    lab.given("train", *TINY, "sampler=strided", *STRIDED)
    return newest_model(lab.folder / "outputs").path.relative_to(lab.folder)


def trained_head(lab, model, *options):
    return lab.done("train", *HEAD, f"init_from={model}", *options)


def test_a_head_is_trained_found_and_used(lab, model):
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    out = trained_head(lab, model)
    assert f"training a head on the weights auto of {model}" in out
    assert f"diffusion-lab evaluate model_dir={model} variance=regressed" in out
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before
    assert newest_model(lab.folder / "outputs").path.name == model.name  # a head is not taken for a model to score
    lab.done("evaluate", "variance=regressed")
    said, (head,) = variances(lab), models(lab, "variance_head")
    assert said["Regressed"]["protocol"]["model"]["variance"].startswith(f"Regressed(head='{head.name}, ema_0.999, ")
    values, other = said["Regressed"]["values"], said["LearnedRange"]["values"]
    assert values["nfe"] == other["nfe"]
    assert values["fd_pixels"] > 0
    assert values["bits_per_dim"] < other["bits_per_dim"]  # two steps have taught the learned one nothing
    code, out, err = lab("evaluate", f"model_dir={model}", "variance=regressed")
    assert (code, err) == (0, "")
    assert "already scored" in out
    drawn = {}
    for variance in ("learned", "regressed"):
        lab.done("sample", "num_images=2", "format=png", f"variance={variance}", f"to={variance}")
        drawn[variance] = [(lab.folder / variance / name).read_bytes() for name in files(lab.folder / variance)]
    assert drawn["learned"] != drawn["regressed"]


@pytest.mark.thorough
def test_another_head_is_another_score_and_a_head_of_other_weights_another_training(lab, model):
    trained_head(lab, model)
    assert "this model is already trained" in trained_head(lab, model)
    shutil.move(lab.folder / model, lab.folder / "elsewhere")
    assert "this model is already trained" in trained_head(lab, "elsewhere")  # it is known by its content
    shutil.move(lab.folder / "elsewhere", lab.folder / model)
    assert lab("evaluate", "variance=regressed")[0] == 0
    trained_head(lab, model, "seed=2")
    trained_head(lab, model, "init_weights=raw")
    heads = [ModelDirectory(path) for path in models(lab, "variance_head")]
    assert len(heads) == 3
    digests = sorted(head.serves for head in heads)
    assert len(set(digests)) == 2
    for options in ([], ["evaluation.weights=raw"]):
        out = lab.done("evaluate", "variance=regressed", *options)
        assert "already scored" not in out  # the newest head of these weights is another one
    scores = scored(lab.folder)
    assert len({score["protocol"]["model"]["variance"] for score in scores}) == 4


@pytest.mark.thorough
def test_what_does_not_fit_is_one_sentence(lab, model):
    trained_head(lab, model, "init_weights=raw")
    (head,) = (path.relative_to(lab.folder) for path in models(lab, "variance_head"))
    tiny = ["model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false"]
    lab.given("train", *tiny)
    (flow,) = (path.relative_to(lab.folder) for path in models(lab, "flow"))
    before = files(lab.folder)
    regressed, points = ["variance=regressed", f"model_dir={model}"], ["data=two_moons", "network=variance_head/points"]
    how = f"`diffusion-lab train model=variance_head data=digits labels=own init_from={model} init_weights=ema_0.999`"
    for command, options, said in (
        (
            "evaluate",
            regressed,
            f"there is no head for the weights ema_0.999 of {model} beside it; train one with {how}, or",
        ),
        ("sample", [*regressed, "num_images=1"], "there is no head for the weights ema_0.999"),
        (
            "evaluate",
            [*regressed, f"measured_variance.head={head}"],
            "this head was trained on other weights than ema_0.999",
        ),
        ("evaluate", [*regressed, f"measured_variance.head={model}"], "this folder has no variance head"),
        ("evaluate", [*regressed, "measured_variance.head=nowhere"], "nowhere holds no finished model"),
        (
            "evaluate",
            [*regressed, "evaluation.weights=ema_rel_0.1"],
            "evaluation.weights=ema_rel_0.1: the weights saved in",
        ),
        ("evaluate", ["variance=regressed", f"model_dir={flow}"], "is not a diffusion model and has no variance"),
        ("evaluate", [f"model_dir={head}"], "holds a VarianceHead, which generates no samples"),
        ("train", HEAD, "model=variance_head: set init_from=…"),
        ("train", [*HEAD, f"init_from={flow}"], f"init_from={flow}: it holds a FlowModel, not a diffusion model"),
        (
            "train",
            ["model=variance_head", *points, f"init_from={model}"],
            "it was trained on other data or classes (Digits, by content)",
        ),
        (
            "train",
            [*HEAD, f"init_from={model}", "labels=clusters"],
            "with the data=…, labels=… and conditional=… of that model",
        ),
        ("train", [*TINY, *STRIDED, "variance=regressed"], "needs a head, which is trained on a finished model"),
    ):
        code, _, err = lab(command, *options)
        assert code == 1, (command, options)
        assert said in err, err
        assert len(err.strip().splitlines()) == 1, err
    assert files(lab.folder) == before


def test_a_file_chooses_no_head(lab, model):
    config = OmegaConf.load(model / "config.yaml")
    target = "diffusion_lab.analysis.Regressed"
    config.measured_variance = {"_target_": target, "_partial_": True, "head": "/somewhere/else"}
    OmegaConf.save(config, model / "config.yaml")
    assert load_config(ModelDirectory(model)).measured_variance == {"_target_": target, "_partial_": True, "head": None}
