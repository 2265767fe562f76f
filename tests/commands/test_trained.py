"""evaluate and sample: a trained model keeps its own config, and only what did not shape training may change."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from .conftest import STRIDED, TINY, files, scored


@pytest.mark.thorough
def test_evaluate_starts_from_the_choices_of_training(lab):
    lab.given("train", *TINY, "sampler=ddim", "sampler.eta=0.5", *STRIDED)
    assert "already scored" in lab.done("evaluate")
    for options in (["sampler.spacing.num_steps=2"], ["sampler/spacing=quadratic", *STRIDED], ["sampler/spacing=all"]):
        lab.done("evaluate", *options)
    assert {run["protocol"]["model"]["sampler"] for run in scored(lab.folder)} == {
        "DDIMSampler(spacing=EvenSpacing(num_steps=3), eta=0.5)",
        "DDIMSampler(spacing=EvenSpacing(num_steps=2), eta=0.5)",
        "DDIMSampler(spacing=QuadraticSpacing(num_steps=3), eta=0.5)",
        "DDIMSampler(spacing=AllSteps(), eta=0.5)",
    }
    assert all(run["protocol"]["samples"]["num_images"] == 8 for run in scored(lab.folder))


def test_the_bound_kind_tells_which_chain_it_is_of(lab):
    lab.given("train", *TINY, *STRIDED)
    lab.done("evaluate", "sampler=ddpm")
    kinds = {run["protocol"]["bound"]["kind"] for run in scored(lab.folder)}
    assert "bound of the full chain" in kinds
    assert len(kinds) == 2


def test_a_variance_that_training_did_not_read(lab):
    """A variance that training did not read may be swapped."""
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small")
    lab.done("evaluate", "variance=fixed_large")
    small, large = sorted(scored(lab.folder), key=lambda run: "Large" in run["protocol"]["model"]["variance"])
    assert small["values"]["bits_per_dim"] != large["values"]["bits_per_dim"]
    lab.refused("evaluate", "variance=learned", said="FixedSmall")


def test_a_variance_that_training_read_may_not(lab):
    lab.given("train", *TINY, *STRIDED)
    lab.refused(
        "evaluate", "variance=fixed_large", said="variance=FixedLarge: this model was trained with LearnedRange"
    )
    assert lab("evaluate", "variance=learned")[0] == 0


def test_a_model_is_found_by_its_folder(lab):
    lab.given("train", *TINY, *STRIDED)
    (first,) = (lab.folder / "outputs" / "models").iterdir()
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small")
    assert first.name in lab.done("evaluate", f"model_dir={first}", "sampler.spacing.num_steps=2")
    first.rename(lab.folder / "trained")  # the name of the choices of training, too
    lab.done("sample", "model_dir=trained", "sampler=trained", "num_images=2", "to=drawn")


def test_a_later_training_that_is_not_finished_is_named(lab):
    lab.given("train", *TINY, *STRIDED)
    (model,) = (lab.folder / "outputs" / "models").iterdir()
    later = model.with_name("digits-diffusion-begun")
    later.mkdir()
    shutil.copy(model / "config.yaml", later)
    for moment, said in ((1, True), (-1, False)):
        changed = (model / "training.json").stat().st_mtime + moment
        os.utime(later / "config.yaml", (changed, changed))
        code, _, err = lab("sample", "num_images=2", f"to=drawn{moment}")
        assert code == 0
        assert (f"{later.relative_to(lab.folder)} is not finished" in err) == said


def test_sample_writes_what_is_asked(lab):
    lab.given("train", *TINY, *STRIDED)
    for form in ("grid", "png", "npz"):
        lab.done("sample", "num_images=5", "batch_size=2", f"format={form}", f"to={form}")
    assert files(lab.folder / "grid") == ["samples.png"]
    assert files(lab.folder / "png") == [f"{i:06d}.png" for i in range(5)]
    with Image.open(lab.folder / "png" / "000000.png") as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    with np.load(lab.folder / "npz" / "samples.npz") as archive:
        assert archive.files == ["arr_0"]  # no classes, so no arr_1
        assert (archive["arr_0"].shape, archive["arr_0"].dtype) == ((5, 8, 8, 1), np.uint8)


def test_a_trajectory_is_an_animation_from_noise_to_image(lab):
    lab.given("train", *TINY, *STRIDED)
    lab.done("sample", "num_images=4", "trajectory=true")
    with Image.open(lab.folder / "samples" / "trajectory.gif") as gif:
        assert gif.n_frames == 4  # x_T and three steps
