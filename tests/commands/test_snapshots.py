"""Training keeps the weights of a few earlier moments, and they can be sampled and scored."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffusion_lab.store import ModelDirectory, newest_model

from .conftest import STRIDED, TINY, files

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


def test_a_training_keeps_three_moments_of_its_budget_and_they_are_scored(lab):
    lab.given("train", *SIX)
    directory = model_of(lab)
    assert moments(directory) == {"at_0.1": 1, "at_0.2": 2, "at_0.4": 3}
    code, _, err = lab("evaluate", "evaluation.weights=at_0.2")
    assert code == 0, err
    runs = [json.loads(path.read_text()) for path in lab.folder.glob("outputs/runs/*/metrics.json")]
    by_weights = {run["protocol"]["weights"]: run["values"]["bits_per_dim"] for run in runs}
    assert by_weights.keys() == {"ema_0.999", "at_0.2"}
    assert by_weights["ema_0.999"] != by_weights["at_0.2"]
    code, out, err = lab("sample", "num_images=2", "weights=at_0.1", *STRIDED)
    assert code == 0, err
    assert "(at_0.1)" in out


def test_which_moments_are_kept_is_no_part_of_the_training(lab):
    lab.given("train", *SIX)
    directory, before = model_of(lab), files(lab.folder)
    final = load_file(directory.weights("raw"))
    code, out, err = lab("train", *SIX, "snapshots.at=[0.5]")
    assert code == 0, err
    assert "this model is already trained" in out
    assert files(lab.folder) == before
    (directory.path / "at_home.safetensors").write_bytes(b"mine")
    code, _, err = lab("train", *SIX, "snapshots.at=[0.5]", "retrain=true")
    assert code == 0, err
    assert moments(directory) == {"at_0.5": 3}, "those of the old training are gone"
    assert (directory.path / "at_home.safetensors").read_bytes() == b"mine"
    again = load_file(directory.weights("raw"))
    assert all(torch.equal(final[key], again[key]) for key in final)


def test_none_are_kept_where_none_are_asked_for(lab):
    code, _, err = lab("train", *SIX, "snapshots.at=[]", "score=false")
    assert code == 0, err
    assert moments(model_of(lab)) == {}


@pytest.mark.parametrize("family", ["gan", "vae", "flow"])
def test_every_family_keeps_them(lab, family):
    small = [option for option in SIX if not option.startswith(("network.", "schedule", "sampler"))]
    code, _, err = lab("train", f"model={family}", *small, "evaluation.weights=at_0.4")
    assert code == 0, err
    (metrics,) = lab.folder.glob("outputs/runs/*/metrics.json")
    assert json.loads(metrics.read_text())["protocol"]["weights"] == "at_0.4"


def test_a_moment_that_is_not_kept_is_named_with_the_fix(lab):
    code, _, err = lab("train", *SIX, "evaluation.weights=at_0.3")
    assert code == 1
    assert "will have no weights at_0.3" in err
    assert "snapshots.at" in err
    assert files(lab.folder) == []
    lab.given("train", *SIX)
    before = files(lab.folder)
    for command, option in (("train", "evaluation."), ("evaluate", "evaluation."), ("sample", "")):
        code, _, err = lab(command, *(SIX if command == "train" else []), f"{option}weights=at_0.3")
        assert code == 1
        assert len(err.strip().splitlines()) == 1
        assert "at_0.2" in err
        if command != "train":
            assert "has no weights at_0.3" in err
            assert "snapshots.at" in err
    assert files(lab.folder) == before


def test_shares_that_are_none_are_said_before_anything_is_written(lab):
    code, _, err = lab("train", *SIX, "snapshots.at=[0.2,1.5]")
    assert code == 1
    assert "snapshots.at=[0.2, 1.5]: 1.5 is not a moment of a training; write 0.1 (a share of the budget), 2m" in err
    assert len(err.strip().splitlines()) == 1
    assert files(lab.folder) == []
