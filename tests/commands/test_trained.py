"""evaluate and sample: a trained model keeps its own config, and only what did not shape training may change."""

import json

import numpy as np
import pytest
from PIL import Image

from .conftest import STRIDED, TINY, files


def runs_of(lab):
    return [json.loads(path.read_text()) for path in sorted((lab.folder / "outputs" / "runs").glob("*/metrics.json"))]


@pytest.mark.thorough
def test_evaluate_starts_from_the_choices_of_training(lab):
    lab.given("train", *TINY, "sampler=ddim", *STRIDED)
    code, out, err = lab("evaluate")
    assert code == 0, err
    assert "already scored" in out
    code, _, err = lab("evaluate", "sampler.spacing.num_steps=2")
    assert code == 0, err
    samplers = {run["protocol"]["model"]["sampler"] for run in runs_of(lab)}
    assert samplers == {f"DDIMSampler(spacing=EvenSpacing(num_steps={k}), eta=0.0)" for k in (2, 3)}
    assert all(run["protocol"]["samples"]["num_images"] == 8 for run in runs_of(lab))
    assert lab("evaluate", "sampler=ddpm")[0] == 0
    assert "AncestralSampler(spacing=AllSteps())" in {run["protocol"]["model"]["sampler"] for run in runs_of(lab)}


def test_another_spacing_keeps_the_sampler_of_training(lab):
    lab.given("train", *TINY, "sampler=ddim", "sampler.eta=0.5", *STRIDED)
    for options in (["sampler/spacing=quadratic", *STRIDED], ["sampler/spacing=all"]):
        code, _, err = lab("evaluate", *options)
        assert code == 0, err
    assert {run["protocol"]["model"]["sampler"] for run in runs_of(lab)} == {
        "DDIMSampler(spacing=EvenSpacing(num_steps=3), eta=0.5)",
        "DDIMSampler(spacing=QuadraticSpacing(num_steps=3), eta=0.5)",
        "DDIMSampler(spacing=AllSteps(), eta=0.5)",
    }


def test_every_step_is_a_spacing_of_the_default_sampler_too(lab):
    code, _, err = lab("train", *TINY, "sampler/spacing=all")
    assert code == 0, err
    (run,) = runs_of(lab)
    assert run["protocol"]["model"]["sampler"].startswith("DPMSolverSampler(spacing=AllSteps(), ")
    assert run["values"]["nfe"] == 24


def test_the_bound_kind_tells_which_chain_it_is_of(lab):
    lab.given("train", *TINY, "sampler=ddim", *STRIDED)
    lab("evaluate", "sampler=ddpm")
    kinds = {run["protocol"]["bound"]["kind"] for run in runs_of(lab)}
    assert kinds == {
        "bound of the full chain",
        "bound of 24 ancestral steps even in log SNR; this sampler has no bound of its own",
    }


def test_a_variance_that_training_did_not_read_may_be_swapped(lab):
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small")
    code, _, err = lab("evaluate", "variance=fixed_large")
    assert code == 0, err
    small, large = sorted(runs_of(lab), key=lambda run: "Large" in run["protocol"]["model"]["variance"])
    assert small["values"]["bits_per_dim"] != large["values"]["bits_per_dim"]
    code, _, err = lab("evaluate", "variance=learned")
    assert code == 1
    assert "FixedSmall" in err


def test_a_variance_that_training_read_may_not(lab):
    lab.given("train", *TINY, *STRIDED)
    code, _, err = lab("evaluate", "variance=fixed_large")
    assert code == 1
    assert "variance=FixedLarge: this model was trained with LearnedRange" in err
    assert lab("evaluate", "variance=learned")[0] == 0


def test_options_of_training_are_no_options_of_evaluate(lab):
    lab.given("train", *TINY, *STRIDED)
    code, _, err = lab("evaluate", "schedule=linear")
    assert code == 1
    assert "schedule" in err
    assert len(err.strip().splitlines()) == 1


def test_a_model_is_found_by_its_folder(lab):
    lab.given("train", *TINY, *STRIDED, "seed=1")
    (first,) = (lab.folder / "outputs" / "models").iterdir()
    lab.given("train", *TINY, *STRIDED, "seed=2")
    code, out, _ = lab("evaluate", f"model_dir={first}", "sampler.spacing.num_steps=2")
    assert code == 0
    assert first.name in out


@pytest.mark.parametrize("form", ["grid", "png", "npz"])
def test_sample_writes_what_is_asked(lab, form):
    lab.given("train", *TINY, *STRIDED)
    code, _, err = lab("sample", "num_images=5", "batch_size=2", f"format={form}", "to=drawn")
    assert code == 0, err
    names = files(lab.folder / "drawn")
    if form == "grid":
        assert names == ["samples.png"]
    elif form == "png":
        assert names == [f"{i:06d}.png" for i in range(5)]
        with Image.open(lab.folder / "drawn" / names[0]) as image:
            assert image.size == (8, 8)
            assert image.mode == "L"
    else:
        with np.load(lab.folder / "drawn" / "samples.npz") as archive:
            assert archive["arr_0"].shape == (5, 8, 8, 1)
            assert archive["arr_0"].dtype == np.uint8
            assert archive.files == ["arr_0"]  # no classes, so no arr_1


def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in(lab):
    lab.given("train", *TINY, *STRIDED)
    drawn = {}
    for batch_size in (1, 2, 5):
        lab("sample", "num_images=5", f"batch_size={batch_size}", "format=npz", f"to=drawn{batch_size}")
        with np.load(lab.folder / f"drawn{batch_size}" / "samples.npz") as archive:
            drawn[batch_size] = archive["arr_0"]
    assert np.array_equal(drawn[1], drawn[5])
    assert np.array_equal(drawn[2], drawn[5])


def test_a_trajectory_is_an_animation_from_noise_to_image(lab):
    lab.given("train", *TINY, *STRIDED)
    code, _, err = lab("sample", "num_images=4", "trajectory=true")
    assert code == 0, err
    with Image.open(lab.folder / "samples" / "trajectory.gif") as gif:
        assert gif.n_frames == 4  # x_T and three steps


@pytest.mark.parametrize("option", ["format=jpg", "num_images=0", "batch_size=0", "seed=-1", "weights=ema_0.1"])
def test_sample_refuses_what_makes_no_sense(lab, option):
    lab.given("train", *TINY, *STRIDED)
    before = files(lab.folder)
    code, _, err = lab("sample", option)
    assert code == 1
    assert option.split("=")[1] in err
    assert files(lab.folder) == before


def test_broken_weights_are_named(lab):
    lab.given("train", *TINY, *STRIDED)
    (raw,) = (lab.folder / "outputs" / "models").glob("*/raw.safetensors")
    raw.write_bytes(raw.read_bytes()[:100])
    code, _, err = lab("sample")
    assert code == 1
    assert "raw.safetensors does not hold the weights of this model" in err
