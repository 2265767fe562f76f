"""Training keeps the weights of a few earlier moments, and they can be sampled and scored."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffusion_lab.store import ModelDirectory, newest_model

from .conftest import STRIDED, TINY, files, scored

SIX = [*TINY, *STRIDED, "trainer.max_steps=6"]


def model_of(lab) -> ModelDirectory:
    return newest_model(lab.folder / "outputs")


def moments(directory: ModelDirectory) -> dict[str, int]:
    """name -> step."""
    found = {}
    for name in directory.weight_names:
        if name.startswith("at_"):
            with safe_open(directory.weights(name), "pt") as file:
                found[name] = int(file.metadata()["step"])
    return found


def test_a_training_keeps_three_moments_of_its_budget(lab):
    """A training keeps three moments of its budget and they are scored."""
    lab.given("train", *SIX)
    directory = model_of(lab)
    assert moments(directory) == {"at_0.1": 1, "at_0.2": 2, "at_0.4": 3}
    lab.done("evaluate", "evaluation.weights=at_0.2")
    runs = scored(lab.folder)
    by_weights = {run["protocol"]["weights"]: run["values"]["bits_per_dim"] for run in runs}
    assert by_weights.keys() == {"ema_0.999", "at_0.2"}
    assert by_weights["ema_0.999"] != by_weights["at_0.2"]
    assert "(at_0.1)" in lab.done("sample", "num_images=2", "weights=at_0.1", *STRIDED)


def test_which_moments_are_kept_is_no_part_of_the_training(lab):
    lab.given("train", *SIX)
    directory, before = model_of(lab), files(lab.folder)
    final = load_file(directory.weights("raw"))
    assert "this model is already trained" in lab.done("train", *SIX, "snapshots.at=[0.5]")
    assert files(lab.folder) == before
    (directory.path / "at_home.safetensors").write_bytes(b"mine")
    lab.done("train", *SIX, "snapshots.at=[0.5]", "retrain=true")
    assert moments(directory) == {"at_0.5": 3}, "those of the old training are gone"
    assert (directory.path / "at_home.safetensors").read_bytes() == b"mine"
    again = load_file(directory.weights("raw"))
    assert all(torch.equal(final[key], again[key]) for key in final)


def test_other_families_keep_them(lab):
    small = [option for option in SIX if not option.startswith(("network.", "schedule", "sampler"))]
    lab.done("train", "model=gan", *small, "evaluation.weights=at_0.4")
    (metrics,) = lab.folder.glob("outputs/runs/*/metrics.json")
    assert json.loads(metrics.read_text())["protocol"]["weights"] == "at_0.4"


def test_a_moment_that_is_not_kept_is_named_with_the_fix(lab):
    err = lab.refused("train", *SIX, "evaluation.weights=at_0.3", said=("will have no weights at_0.3", "snapshots.at"))
    lab.given("train", *SIX)
    before = files(lab.folder)
    for command, option in (("train", "evaluation."), ("evaluate", "evaluation."), ("sample", "")):
        err = lab.refused(command, *(SIX if command == "train" else []), f"{option}weights=at_0.3", said="at_0.2")
        if command != "train":
            assert "has no weights at_0.3" in err
            assert "snapshots.at" in err
    assert files(lab.folder) == before
