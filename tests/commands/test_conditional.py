"""Conditional models and guidance, as a user asks for them."""

import json

import numpy as np
import pytest
import torch

from diffusion_lab.metrics.drawer import labels
from diffusion_lab.store import newest_model

from .conftest import STRIDED, TINY, scored

CONDITIONAL = [*TINY, "sampler=strided", *STRIDED, "condition=classes"]


def test_guidance_is_a_choice_of_scoring(lab):
    """Its cost is counted."""
    lab.done("train", *CONDITIONAL)
    out = lab.done("train", *CONDITIONAL, "guidance=classifier_free", "guidance.scale=3.0")
    assert "this model is already trained" in out
    lab.done("evaluate", "guidance=classifier_free", "guidance.scale=5.0", "guidance.interval=[1,7]")
    plain, *guided = sorted(
        scored(lab.folder), key=lambda run: "ClassifierFree" in run["protocol"]["model"]["guidance"]
    )
    assert plain["values"]["nfe"] == 3
    assert sorted(run["values"]["nfe"] for run in guided) == [5, 6]
    assert plain["protocol"]["samples"]["labels"] == "drawn from the shares of the classes in train"
    assert plain["protocol"]["bound"]["kind"] == "bound of a strided chain given the class"


def test_samples_carry_the_labels_they_were_asked_for(lab):
    lab.given("train", *CONDITIONAL)
    for options, wanted in (
        ([], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]),
        (["condition=7"], [7] * 12),
        (["condition=[3,'5']"], [3, 5] * 6),
    ):
        lab.done("sample", "num_images=12", "batch_size=5", "format=npz", *options)
        with np.load(lab.folder / "samples" / "samples.npz") as archive:
            assert archive["arr_1"].tolist() == wanted
    lab.done("sample", "num_images=4", "trajectory=true", "guidance=classifier_free")


def test_a_model_has_the_names_of_its_classes(lab):
    lab.given("train", *CONDITIONAL)
    lab.given("train", *TINY, *STRIDED, "condition=clusters", "condition.clusters.num_clusters=4", "score=false")
    found = [json.loads(file.read_text()) for file in lab.folder.glob("outputs/models/*/training.json")]
    named = [name for training in found for name in training["conditions"].items()]
    assert sorted((name, record.get("names")) for name, record in named) == [
        ("classes", list("0123456789")),
        ("clusters", None),
    ]


@pytest.mark.thorough
def test_clusters_stand_in_for_labels(lab):
    clusters = [*TINY, *STRIDED, "condition=clusters", "condition.clusters.num_clusters=4"]
    lab.given("train", *CONDITIONAL)
    lab.done("train", *clusters, "guidance=classifier_free", "metrics=[default,class_accuracy]")
    known, found = sorted(scored(lab.folder), key=lambda run: "label" in str(run["values"]))
    assert known["protocol"]["data"] == found["protocol"]["data"]  # the same images, so the distances can be compared
    assert known["protocol"]["reference"] == found["protocol"]["reference"]
    assert 0 < found["values"]["bits_per_dim_label"] < 3 / 64  # of four clusters, in 64 pixels
    assert "for an image and its cluster" in found["protocol"]["bound"]["kind"]
    assert any("clusters" in reason for reason in found["protocol"]["absent"].values())  # the accuracy

    for command in (("sample", "num_images=9", "format=npz"), ("evaluate", "start=data_moments")):
        lab.done(*command)
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert "arr_1" not in archive  # which holds classes of the data, where there are any
        drawn = torch.from_numpy(archive["clusters"])
    shares = newest_model(lab.folder / "outputs").read_training()["conditions"]["clusters"]["shares"]
    assert sum(shares) == pytest.approx(1)
    assert (drawn == labels(torch.arange(9), 0, torch.tensor(shares).double())).all()


def test_several_conditions_go_through_all_commands(lab):
    random = np.random.default_rng(0)
    np.save(lab.folder / "x.npy", random.integers(0, 256, (40, 8, 8), dtype=np.uint8))
    np.save(lab.folder / "y.npy", np.arange(40) % 3)
    np.save(lab.folder / "v.npy", random.normal(300, 20, (40, 2)))
    np.save(lab.folder / "f.npy", random.integers(0, 256, (40, 2, 4, 4), dtype=np.uint8))
    names = {"train": "x", "train_labels": "y", "train_vectors": "v", "train_fields": "f"}
    data = ["data=arrays", "network.image_size=8", *(f"data.{option}={name}.npy" for option, name in names.items())]
    options = [*data, *TINY, *STRIDED, "condition=[classes,field,vector]", "guidance=classifier_free"]
    options += ["callbacks.sample_grid.every_n_steps=1"]
    lab.done("train", *options, "metrics=[frechet_distance,bits_per_dim,class_accuracy]")
    (run,) = scored(lab.folder)
    assert run["protocol"]["samples"]["labels"] == "conditions of the images in train"
    assert "given the conditions" in run["protocol"]["bound"]["kind"]
    lab.done("sample", "num_images=5", "format=npz", "condition={classes: [2,0], vector: [310,290]}")
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert archive["arr_1"].tolist() == [2, 0, 2, 0, 2]
        assert archive["vector"] == pytest.approx(np.tile([310, 290], (5, 1)), rel=1e-5)
        np.save(lab.folder / "wanted.npy", archive["field"])
        first = archive["arr_0"]
    lab.done("sample", "num_images=5", "format=npz", "condition={classes: [2,0], vector: [310,290], field: wanted.npy}")
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert np.abs(archive["arr_0"].astype(int) - first).max() <= 1
    lab.refused("sample", "condition={field: v.npy}", said="each field must have the shape (2, 4, 4)")
    lab.refused("export", "format=program", said="takes classes or clusters only")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train conditional=true", "did you mean condition"),
        ("train model.label_dropout=0", "model.condition_dropout"),
        ("train condition=vector", "digits has no vector"),
    ],
)
def test_a_condition_that_does_not_exist_is_refused(lab, command, said):
    lab.refused(*command.split(), said=said)
