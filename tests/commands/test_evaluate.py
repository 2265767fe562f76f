"""evaluate: measured variances, starts, moments of a training, and metrics that are chosen, as a user meets them."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from diffusion_lab.metrics import reference
from diffusion_lab.store import newest_model

from .conftest import STRIDED, TINY, files, scored
from .test_scoring import scores

IMAGES = "evaluation.statistics_images=40"  # two shards
SIMPLE = [*TINY, *STRIDED, "objective=simple", "variance=fixed_small"]


def passes(lab):
    return sorted((lab.folder / "outputs" / "cache" / "statistics").glob("*/*.safetensors"))


def variances(lab):
    return {run["protocol"]["model"]["variance"].partition("(")[0]: run for run in scores(lab.folder / "outputs")}


@pytest.mark.thorough
def test_any_number_of_steps_and_of_samplers_take_one_pass(lab):
    lab.given("train", *SIMPLE)
    for options in (["sampler=strided", "sampler.spacing.num_steps=10"], ["decoder=levels"], ["evaluation.seed=1"]):
        lab.done("evaluate", "variance=analytic", IMAGES, *options)
    first, second = passes(lab)
    assert first.parent == second.parent
    name = newest_model(lab.folder / "outputs").path.name
    assert first.parent.name.startswith(f"{name}-ema_0.999-40-")
    said = variances(lab)
    assert said["FixedSmall"]["values"]["bits_per_dim"] > said["Analytic"]["values"]["bits_per_dim"]
    assert said["Analytic"]["protocol"]["model"]["variance"].startswith("Analytic(statistics=40 training images, ")
    lab.done("evaluate", "variance=analytic", "evaluation.statistics_images=8")
    assert len(passes(lab)) == 3


def test_sample_draws_with_it(lab):
    lab.given("train", *SIMPLE, IMAGES)
    drawn = {}
    for variance in ("fixed_small", "analytic"):
        options = ["sampler=strided", *STRIDED, f"variance={variance}", f"to={variance}"]
        lab.done("sample", "num_images=2", "format=png", *options)
        drawn[variance] = [(lab.folder / variance / name).read_bytes() for name in files(lab.folder / variance)]
    assert drawn["fixed_small"] != drawn["analytic"]
    assert len(passes(lab)) == 2  # as many images as the model was scored with


def test_sample_refuses_a_variance_that_its_sampler(lab):
    """Sample refuses a variance that its sampler does not use."""
    lab.given("train", *SIMPLE)
    lab.refused("sample", "num_images=2", "variance=fixed_large", said="variance has no effect with this sampler")


def test_a_family_without_a_variance_says_so(lab):
    tiny = ["model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false"]
    lab.given("train", *tiny)
    lab.refused("evaluate", "variance=analytic", said="is not a diffusion model and has no variance")


# ---- start=data_moments as a user meets it: a choice of scoring and of drawing, from the training images of the model ----


CUT = ["sampler=strided", "sampler/spacing=log_snr", "sampler.spacing.num_steps=3", "sampler.spacing.log_snr_min=-3"]


def test_a_short_chain_starts_from_the_moments_of_the_data(lab):
    lab.given("train", *TINY, *CUT, "condition=classes")
    lab.done("evaluate", *CUT, "start=data_moments")
    by_start = {run["protocol"]["model"]["start"].partition("(")[0]: run for run in scores(lab.folder / "outputs")}
    noise, moments = by_start["NoiseStart"], by_start["MomentsStart"]
    assert moments["values"]["bits_per_dim"] < noise["values"]["bits_per_dim"]
    assert moments["values"]["fd_pixels"] != noise["values"]["fd_pixels"]
    said = moments["protocol"]["model"]["start"]
    assert said.startswith("MomentsStart(moments=DataMoments(of='1437 training images, ")
    assert "by class" in said
    drawn = {}
    for start in ("noise", "data_moments"):
        lab.done("sample", *CUT, "num_images=2", "format=png", f"start={start}", f"to={start}")
        drawn[start] = [(lab.folder / start / name).read_bytes() for name in files(lab.folder / start)]
    assert drawn["noise"] != drawn["data_moments"]


# ---- evaluation.at: one training, scored at several of its moments ----


SIX = [*TINY, *STRIDED, "trainer.max_steps=6", "metrics=quick"]
AT = "evaluation.at=[2steps,32images,end]"


def test_a_training_keeps_and_scores_the_moments(lab):
    lab.given("train", *SIX, AT)
    runs = {run["protocol"]["weights"]: run for run in scored(lab.folder)}
    assert runs.keys() == {"at_2steps", "at_32images", "ema_0.999"}
    taken = {name: (run["values"]["training_steps"], run["values"]["training_images"]) for name, run in runs.items()}
    assert taken == {"at_2steps": (2, 16), "at_32images": (4, 32), "ema_0.999": (6, 48)}
    seconds = [runs[name]["values"]["training_seconds"] for name in ("at_2steps", "at_32images", "ema_0.999")]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert runs["at_2steps"]["protocol"]["moment"] == "the training as it was at step 2 of 6"
    assert "moment" not in runs["ema_0.999"]["protocol"]
    before = files(lab.folder)
    for command in (["train", *SIX], ["evaluate", "evaluation.at=[2steps,end]"]):
        assert "already scored" in lab.done(*command)  # the same scores as those of the moments one by one
    assert files(lab.folder) == before


def test_scoring_moments_anew_computes_the_values_of_real_images_once(lab, monkeypatch):
    lab.given("train", *SIX, AT)
    written, write = [], reference.write_tensors
    monkeypatch.setattr(
        reference, "write_tensors", lambda path, *content: (written.append(path), write(path, *content))
    )
    lab.done("evaluate", AT, "rescore=true")
    assert written
    assert len(written) == len({*written})


@pytest.mark.thorough
def test_each_moment_is_a_cell_of_a_sweep(lab):
    axes = ["model=vae", "evaluation.at=[2steps,end]"]
    small = [option for option in SIX if not option.startswith(("network.", "schedule", "sampler"))]
    lab.done("train", "-m", *axes, *small)
    (sweep,) = lab.folder.glob("outputs/sweeps/*/sweep.json")
    content = json.loads(sweep.read_text())
    assert content["axes"] == {"evaluation.weights": ["at_2steps", "end"]}
    assert len({cell["run"] for cell in content["cells"]}) == 2
    assert len(list((lab.folder / "outputs/models").iterdir())) == 1
    assert (sweep.parent / "report/figures/training_cost_fd_pixels.png").is_file()
    for wrong, said in (
        (["evaluation.at=[1steps],[2steps]"], "evaluation.at cannot differ between the cells of a sweep"),
        (["evaluation.at=[1steps]", "evaluation.weights=raw,auto"], "remove one of the two"),
    ):
        lab.refused("train", "-m", *small, *wrong, said=said)


# ---- metrics=schedule_advice as a user meets it: options to type, which do what was said of them ----


ADVICE = ["metrics=schedule_advice", "features=pixels", "evaluation.statistics_images=16"]


@pytest.mark.thorough
def test_the_advised_options_can_be_typed(lab):
    """The report repeats them."""
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small")
    lab.done("evaluate", *ADVICE)
    (found,) = [run for run in scored(lab.folder) if "advised_gain" in run["values"]]
    (said,) = [measure["detail"] for measure in found["measures"] if measure["name"] == "advised_gain"]
    assert found["values"]["advised_gain"] > 0
    assert found["values"]["advised_steps"] <= 3
    options = re.findall(r"sampler\S*=\S+", said)
    assert options[:3] == ["sampler=strided", "sampler/spacing=optimal", "sampler.spacing.num_steps=3"]
    lab.done("evaluate", *ADVICE, *options)
    assert any(abs(run["values"].get("advised_gain", 1)) < 0.01 for run in scored(lab.folder))
    lab.done("report", "runs=outputs/runs", "to=report")
    assert options[1] in (lab.folder / "report" / "report.html").read_text()
    assert (lab.folder / "report" / "figures" / "bits_by_num_steps.pdf").is_file()


# ---- metrics=copying as a user meets it: numbers, a picture of the nearest training images, a part of the report ----


@pytest.mark.thorough
def test_a_score_has_a_picture_of_the_nearest_training(lab):
    lab.given("train", *TINY, *STRIDED, "condition=classes")
    assert "copying (digits_cnn)" in lab.done("evaluate", "metrics=copying", "features=[digits_cnn,pixels]")
    (found,) = [run["values"] for run in scored(lab.folder) if "copying" in run["protocol"]]
    for name in ("copying_digits_cnn", "copying_pixels", "copies_digits_cnn", "copies_pixels"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    (picture,) = lab.folder.glob("outputs/runs/*/nearest.png")
    with Image.open(picture) as image:
        assert image.size == (8 * 50 + 2, 3 * 50 + 2)  # eight samples: themselves, by pixels, by features
    lab.done("report", "runs=outputs/runs", "to=report")
    assert "Nearest training images" in (lab.folder / "report" / "report.html").read_text()


# ---- metrics=diagnose as a user meets it: curves by log SNR in the score and as plots of the report ----


DIAGNOSE = ["metrics=diagnose", "metrics.distance_by_log_snr.num_points=3", "metrics.distance_by_log_snr.num_images=40"]
DIAGNOSE += ["metrics.error_by_log_snr.num_points=3", "metrics.error_by_log_snr.num_images=8", "features=pixels"]


def test_a_model_is_diagnosed_and_the_report_draws_it(lab):
    lab.given("train", *TINY, *STRIDED, "condition=classes")
    out = lab.done("evaluate", *DIAGNOSE)
    assert "fd_pixels_share_above_0" in out
    (curves,) = [run["curves"] for run in scored(lab.folder) if "error_by_log_snr" in run["curves"]]
    distances, errors = curves["distance_by_log_snr"], curves["error_by_log_snr"]
    assert len(distances["fd_pixels"]) == len(distances["log_snr"]) == 3
    assert distances["fd_pixels"][0] < distances["fd_pixels"][-1]
    assert all(
        error >= least for error, least in zip(errors["velocity_mse"], errors["least_velocity_mse"], strict=True)
    )
    lab.done("report", "runs=outputs/runs", "to=report")
    figures = {path.name for path in (lab.folder / "report" / "figures").iterdir()}
    assert {"distance_by_log_snr_fd_pixels.pdf", "error_by_log_snr_velocity_mse.pdf"} <= figures


def test_a_family_without_a_chain_says_so(lab):
    lab.given("train", "model=flow", "network=flow/8x8", "trainer.max_steps=1", "score=false")
    lab.done("evaluate", *DIAGNOSE, "evaluation.num_samples=8")
    (run,) = scored(lab.folder)
    absent = run["protocol"]["absent"]
    assert absent["largest_excess_error"] == absent["fd_pixels_share_above_0"] == "this family has no noisy chain"
