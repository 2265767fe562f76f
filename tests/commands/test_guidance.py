"""guidance=autoguidance and guidance=classifier, as a user asks for them."""

import json

import pytest
from omegaconf import OmegaConf

from diffusion_lab.store import ModelDirectory, newest_model

from .conftest import STRIDED, TINY, scored

SIX = [*TINY, "sampler=strided", *STRIDED, "trainer.max_steps=6"]
AUTO = "guidance=autoguidance"


def guidance_of(run: dict) -> str:
    return run["protocol"]["model"]["guidance"]


def other_model(lab) -> str:
    """A smaller one on the same data, relative to the folder of the test."""
    lab.given("train", *SIX)
    lab.done("train", *SIX, "trainer.max_steps=2", "network.base_channels=4", "network.head_channels=4")
    return str(newest_model(lab.folder / "outputs").path.relative_to(lab.folder))


def model_of(lab, not_called: str) -> str:
    (model,) = {f"outputs/models/{path.name}" for path in (lab.folder / "outputs/models").iterdir()} - {not_called}
    return model


@pytest.mark.thorough
def test_any_model_is_guided_by_what_it_was(lab):
    """Its evaluations are counted."""
    lab.given("train", *SIX)
    for options in ([], ["guidance.moment=0.4", "guidance.scale=3"], ["guidance.log_snr_interval=[-3,3]"]):
        lab.done("evaluate", AUTO, *options)
    assert "this model is already trained" in lab.done("train", *SIX, AUTO, "guidance.scale=2", "guidance.moment=0.1")
    plain, *guided = sorted(scored(lab.folder), key=lambda run: "Autoguidance" in guidance_of(run))
    assert (plain["values"]["nfe"], len(guided)) == (3, 4)
    by_moment = {guidance_of(run).partition("itself at ")[2][:3]: run for run in guided if "-3" not in guidance_of(run)}
    assert {moment: run["values"]["nfe"] for moment, run in by_moment.items()} == {"0.1": 6, "0.2": 6, "0.4": 6}
    assert {run["values"]["nfe"] for run in guided if "-3" in guidance_of(run)} == {4}
    assert len({run["values"]["bits_per_dim"] for run in scored(lab.folder)}) == 5
    assert {run["protocol"]["bound"]["kind"] for run in guided} == {"bound of a strided chain, guided"}


@pytest.mark.thorough
def test_a_moment_may_be_a_step_or_a_time(lab):
    """A moment may be a step or a time and comes before the weights that it guides."""
    lab.given("train", *SIX, AUTO, "snapshots.at=[1steps,2steps,4steps]", "guidance.moment=2steps")
    (run,) = scored(lab.folder)
    assert "itself at 2steps" in guidance_of(run)
    assert lab("evaluate", AUTO, "guidance.moment=1steps", "evaluation.at=[4steps,end]")[0] == 0
    assert len(scored(lab.folder)) == 3
    for options, said in (
        (
            ["guidance.moment=4steps", "evaluation.at=[2steps]"],
            "guidance.moment=4steps (step 4) is not before at_2steps",
        ),
        (["guidance.moment=2steps", "evaluation.at=[2steps]"], "choose an earlier one"),
        (["guidance.moment=soon"], "guidance.moment: soon is not a moment of a training; write 0.1"),
    ):
        lab.refused("evaluate", AUTO, *options, said=said)


@pytest.mark.thorough
def test_another_model_guides_one_it_fits(lab):
    other = other_model(lab)
    model = model_of(lab, other)
    for options, named in (([], "ema_0.999"), (["guidance.moment=0.4"], "at_0.4")):
        lab.done("evaluate", f"model_dir={model}", AUTO, f"guidance.model={other}", *options)
        assert any(f"worse={other.split('/')[-1]}, {named}" in guidance_of(run) for run in scored(lab.folder))
    for option, said in (
        ("guidance.moment=0.3", "has no weights at_0.3; the weights of earlier moments are at_0.1, at_0.2, at_0.4"),
        ("guidance.model=nowhere", "nowhere is not a model directory"),
    ):
        lab.refused("evaluate", f"model_dir={model}", AUTO, f"guidance.model={other}", option, said=said)
    linear = [*TINY, *STRIDED, "schedule=linear", "schedule.num_timesteps=24", AUTO, f"guidance.model={other}"]
    lab.refused("train", *linear, said="it was trained under CosineSchedule(")
    points = ["data=gaussian", "network=diffusion/points"]
    assert lab("train", *TINY, *STRIDED, *points, AUTO, f"guidance.model={other}")[0] == 1


@pytest.mark.thorough
def test_both_guidances_are_combined(lab):
    lab.given("train", *SIX, "condition=classes")
    both = ["guidance=classifier_free", "guidance.scale=2"]
    for options in (both, [*both, "guidance.worse.moment=0.2"]):
        lab.done("evaluate", *options)
    plain, free, combined = sorted(scored(lab.folder), key=lambda run: len(guidance_of(run)))
    assert [run["values"]["nfe"] for run in (plain, free, combined)] == [3, 6, 6]
    assert "worse=None" in guidance_of(free)
    assert "worse=itself at 0.2 of its training" in guidance_of(combined)
    assert free["values"]["bits_per_dim"] != combined["values"]["bits_per_dim"]
    lab.done("sample", AUTO, "condition=3", "num_images=2")


# ---- folders of somebody else ----------------------------------------------------------------------------------------------


def test_a_config_does_not_choose_which_model_is_read(lab):
    """The user may."""
    other = other_model(lab)
    directory = ModelDirectory(lab.folder / model_of(lab, other))
    config = OmegaConf.load(directory.config)
    config.guidance = {
        "_target_": "diffusion_lab.config.guiding_models.autoguidance",
        "scale": 2.0,
        "moment": None,
        "model": other,
        "interval": None,
        "log_snr_interval": None,
        "identity": config.facts.identity,
        "schedule": config.schedule,
    }
    directory.config.write_text(OmegaConf.to_yaml(config))
    directory.choices.write_text(json.dumps(directory.read_choices() | {"guidance": "autoguidance"}))
    here = f"model_dir={directory.path.relative_to(lab.folder)}"
    for command in ("sample", "evaluate"):
        lab.refused(command, here, said="guidance.model")
    for options in ([f"guidance.model={other}"], ["guidance.model=null"], ["guidance=none"]):
        lab.done("sample", here, "num_images=2", *options)


# ---- a noisy classifier is trained, reports its accuracy by t, and guides a model that it fits ----


SMALL = [o for o in TINY if not o.startswith("evaluation")]


@pytest.fixture
def trained(lab):
    """(model directory, classifier directory), relative to the folder of the test."""
    lab.given("train", *TINY, *STRIDED)
    model = newest_model(lab.folder / "outputs").path
    assert "accuracy on test images" in lab.done("train", "model=noisy_classifier", *SMALL)
    (classifier,) = (lab.folder / "outputs" / "models").glob("*noisy_classifier*")
    return tuple(str(path.relative_to(lab.folder)) for path in (model, classifier))


def test_a_classifier_reports_accuracy_by_t(lab, trained):
    """It has no score."""
    folder = lab.folder / trained[1]
    measured = json.loads((folder / "accuracy.json").read_text())
    assert measured["t"] == [1, 2, 4, 5, 6, 8, 9, 11, 12]
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
    (run,) = [run for run in runs if "ClassifierGuidance" in guidance_of(run)]
    assert classifier.split("/")[-1] in guidance_of(run)
    assert run["protocol"]["samples"]["labels"] == "drawn from the shares of the classes in train"
    (plain,) = [run for run in runs if "Unguided" in guidance_of(run)]
    one, steps = plain["values"]["flops_per_sample"] / plain["values"]["nfe"], run["values"]["nfe"]
    assert run["values"]["flops_per_sample"] > 1.5 * steps * one  # the classifier and its gradient too
    assert model in lab.done("sample", *guidance, "condition=3", "num_images=2")  # the classifier is newer


@pytest.mark.thorough
def test_a_model_that_was_trained_with_it_is_evaluated(lab):
    """Its own config names the guidance and the classifier's folder."""
    assert lab("train", "model=noisy_classifier", *SMALL)[0] == 0
    classifier = newest_model(lab.folder / "outputs").path.relative_to(lab.folder)
    guidance = ["guidance=classifier", f"guidance.classifier={classifier}", "guidance.scale=2.0"]
    assert "this model is already trained" not in lab.done("train", *TINY, *STRIDED, *guidance)
    assert "already scored" in lab.done("evaluate")
    lab.done("evaluate", "guidance.scale=3.0")
    named = [guidance_of(run) for run in scored(lab.folder)]
    assert all("ClassifierGuidance" in guidance and classifier.name in guidance for guidance in named)
    assert all(any(f"scale={scale}" in guidance for guidance in named) for scale in ("2.0", "3.0"))
    lab.done("sample", "condition=3", "num_images=2")


@pytest.mark.thorough
def test_a_classifier_that_does_not_fit_is_refused(lab, trained):
    model, classifier = trained
    lab.given("train", *TINY, *STRIDED, "schedule=linear", "schedule.num_timesteps=24")
    other = newest_model(lab.folder / "outputs").path
    points = [
        "data=two_moons",
        "network=diffusion/points",
        *(o for o in TINY if not o.startswith(("network.", "data."))),
    ]
    for command, options, said in (
        ("evaluate", [f"model_dir={other}", f"guidance.classifier={classifier}"], "with the model's schedule"),
        ("evaluate", [f"model_dir={model}", f"guidance.classifier={model}"], "not a noisy classifier"),
        ("sample", [f"model_dir={model}", "guidance.classifier=nowhere"], "nowhere is not a model directory"),
        ("train", [*points, *STRIDED, f"guidance.classifier={classifier}"], "other data"),
    ):
        lab.refused(command, "guidance=classifier", *options, said=said)
    for command in ("evaluate", "sample"):
        lab.refused(command, f"model_dir={classifier}", said="holds a NoisyClassifier, which generates no samples")


def test_points_have_classifiers_too(lab):
    points = [o for o in SMALL if not o.startswith(("network", "data", "features"))]
    out = lab.done("train", "model=noisy_classifier", "data=mixture", "network.hidden=8", *points)
    assert "accuracy on test images" in out
