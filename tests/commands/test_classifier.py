"""A noisy classifier is trained, reports its accuracy by t, and guides a model that it fits."""

import json

import pytest

from diffusion_lab.store import newest_model

from .conftest import STRIDED, TINY, files, scored

SMALL = [o for o in TINY if not o.startswith("evaluation")]


@pytest.fixture
def trained(lab):
    """(model directory, classifier directory), relative to the folder of the test."""
    lab.given("train", *TINY, *STRIDED)
    model = newest_model(lab.folder / "outputs").path
    assert "accuracy on test images" in lab.done("train", "model=noisy_classifier", *SMALL)
    classifier = newest_model(lab.folder / "outputs").path
    assert "noisy_classifier" in classifier.name
    return tuple(str(path.relative_to(lab.folder)) for path in (model, classifier))


def test_a_classifier_reports_accuracy_by_t(lab, trained):
    """A classifier reports accuracy by t and has no score."""
    folder = lab.folder / trained[1]
    measured = json.loads((folder / "accuracy.json").read_text())
    assert measured["t"] == [1, 4, 7, 10, 12, 15, 18, 21, 24]
    assert all(0 <= accuracy <= 1 for accuracy in measured["accuracy"])
    assert len(list((lab.folder / "outputs" / "runs").iterdir())) == 1  # the diffusion model's
    assert "train/accuracy_quarter_1" in (folder / "metrics.csv").read_text()
    out = lab.done("train", "model=noisy_classifier", *SMALL)
    assert "this model is already trained" in out
    assert "accuracy on test images" in out


def test_it_guides_a_model_that_knows_no_classes(lab, trained):
    model, classifier = trained
    guidance = ["guidance=classifier", f"guidance.classifier={classifier}", "guidance.scale=2.0"]
    lab.done("evaluate", f"model_dir={model}", *guidance, "sampler=ddim", *STRIDED)
    runs = scored(lab.folder)
    (run,) = [run for run in runs if "ClassifierGuidance" in run["protocol"]["model"]["guidance"]]
    assert classifier.split("/")[-1] in run["protocol"]["model"]["guidance"]
    assert run["protocol"]["samples"]["labels"] == "drawn from the shares of the classes in train"
    (plain,) = [run for run in runs if "Unguided" in run["protocol"]["model"]["guidance"]]
    one, steps = plain["values"]["flops_per_sample"] / plain["values"]["nfe"], run["values"]["nfe"]
    assert run["values"]["flops_per_sample"] > 1.5 * steps * one  # the classifier and its gradient too
    lab.done("sample", f"model_dir={model}", *guidance, "label=3", "num_images=2")


@pytest.mark.thorough
def test_a_model_that_was_trained_with_it_is_evaluated(lab):
    """A model that was trained with it is evaluated and sampled.

    Its own config names the guidance and the classifier's folder.
    """
    assert lab("train", "model=noisy_classifier", *SMALL)[0] == 0
    classifier = newest_model(lab.folder / "outputs").path.relative_to(lab.folder)
    guidance = ["guidance=classifier", f"guidance.classifier={classifier}", "guidance.scale=2.0"]
    assert "this model is already trained" not in lab.done("train", *TINY, *STRIDED, *guidance)
    assert "already scored" in lab.done("evaluate")
    lab.done("evaluate", "guidance.scale=3.0")
    guided = scored(lab.folder)
    named = {run["protocol"]["model"]["guidance"] for run in guided}
    assert all("ClassifierGuidance" in guidance and classifier.name in guidance for guidance in named)
    assert {scale for scale in ("2.0", "3.0") for guidance in named if f"scale={scale}" in guidance} == {"2.0", "3.0"}
    lab.done("sample", "label=3", "num_images=2")


@pytest.mark.thorough
def test_a_classifier_that_does_not_fit_is_refused(lab, trained):
    """A classifier that does not fit is refused in one sentence."""
    model, classifier = trained
    lab.given("train", *TINY, *STRIDED, "schedule=linear")
    other = newest_model(lab.folder / "outputs").path
    before = files(lab.folder)
    for command, options, said in (
        (
            "evaluate",
            [f"model_dir={other}", f"guidance.classifier={classifier}"],
            "with the model's schedule",
        ),
        ("evaluate", [f"model_dir={model}", f"guidance.classifier={model}"], "not a noisy classifier"),
        ("sample", [f"model_dir={model}", "guidance.classifier=nowhere"], "nowhere is not a model directory"),
        ("sample", [f"model_dir={model}"], "guidance.classifier has no value"),
        (
            "train",
            [*TINY, *STRIDED, "data=two_moons", "network=diffusion/points", f"guidance.classifier={classifier}"],
            "other data",
        ),
    ):
        if "data=two_moons" in options:
            options = [o for o in options if not o.startswith(("network.", "data.batch"))]
        code, _, err = lab(command, "guidance=classifier", *options)
        assert code == 1, (command, options)
        assert said in err
        assert len(err.strip().splitlines()) == 1, err
    for command in ("evaluate", "sample"):
        lab.refused(command, f"model_dir={classifier}", said="holds a NoisyClassifier, which generates no samples")
    assert files(lab.folder) == before


def test_points_have_classifiers_too(lab):
    """Points have classifiers too and data without classes have none."""
    points = [o for o in SMALL if not o.startswith(("network", "data", "features"))]
    out = lab.done("train", "model=noisy_classifier", "data=mixture", "network.hidden=8", *points)
    assert "accuracy on test images" in out
    lab.refused("train", "model=noisy_classifier", "data=gaussian", *points, said="gaussian has no classes")
