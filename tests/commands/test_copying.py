"""metrics=copying as a user meets it: numbers, a picture of the nearest training images, a part of the report."""

import numpy as np
import pytest
from PIL import Image

from .conftest import STRIDED, TINY, scored

SMALL = ["network.base_channels=24", "network.channel_multipliers=[1,2]", "network.head_channels=24", "optimizer=adamw"]
SMALL += [
    "sampler=ddim",
    "sampler.spacing.num_steps=10",
    "callbacks.sample_grid.every_n_steps=0",
    "trainer.max_time=null",
]
SMALL += ["evaluation.num_samples=200"]


def values(lab):
    found = scored(lab.folder)
    (content,) = [content for content in found if "copying" in content["protocol"]]
    return content


def test_a_score_has_a_picture_of_the_nearest_training(lab):
    """A score has a picture of the nearest training images and the report shows it."""
    lab.given("train", *TINY, *STRIDED, "conditional=true")
    assert "copying (digits_cnn)" in lab.done("evaluate", "metrics=copying", "features=[digits_cnn,pixels]")
    found = values(lab)["values"]
    for name in ("copying_digits_cnn", "copying_pixels", "copies_digits_cnn", "copies_pixels"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    (picture,) = lab.folder.glob("outputs/runs/*/nearest.png")
    with Image.open(picture) as image:
        assert image.size == (8 * 50 + 2, 3 * 50 + 2)  # eight samples: themselves, by pixels, by features
    lab.done("report", "runs=outputs/runs", "to=report")
    assert "Nearest training images" in (lab.folder / "report" / "report.html").read_text()


def test_images_without_held_out_images_say_the_reason(lab):
    levels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez("given.npz", arr_0=levels)
    lab.done("evaluate", "samples=given.npz", "reference=given.npz", "features=pixels", "metrics=copying")
    (run,) = scored(lab.folder)
    absent = run["protocol"]["absent"]
    assert absent["copying_pixels"] == "needs held-out images besides the training images, but given.npz has none"
    assert not list(lab.folder.rglob("nearest.png"))


@pytest.mark.thorough
@pytest.mark.parametrize(("images", "num_steps", "copies"), [(64, 400, True), ("null", 100, False)])
def test_a_model_trained_on_64_images_is_caught(lab, images, num_steps, copies):
    """A model trained on 64 images is caught and a normal one is not."""
    lab.done("train", "metrics=copying", *SMALL, f"train_images={images}", f"trainer.max_steps={num_steps}")
    found = values(lab)["values"]
    if copies:
        assert found["copying_pixels_low"] > 0.6
    else:
        assert found["copies_pixels_low"] < 0.02
