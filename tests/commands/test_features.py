"""`diffusion-lab features`: features of a user's own images, trained without labels, and scores by them."""

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import STRIDED, TINY, scored


@pytest.fixture
def pictures(lab):
    """Two dozen colour pictures of 64×64 pixels."""
    (lab.folder / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for number in range(24):
        pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(lab.folder / "pictures" / f"{number}.png")
    return ["data=image_folder", "data.root=pictures", "data.image_size=64", "data.num_workers=0"]


def test_features_of_ones_own_images_score_them(lab, pictures):
    out = lab.done("features", *pictures, "num_steps=2", "batch_size=8")
    (weights,) = (lab.folder / "outputs").glob("features/*.safetensors")
    assert f"features.own.weights=outputs/features/{weights.name}" in out

    samples = torch.randint(0, 256, (8, 64, 64, 3), generator=torch.Generator().manual_seed(0)).numpy()
    np.savez("samples.npz", samples.astype(np.uint8))
    own = ["features=own", f"features.own.weights={weights}", "metrics=frechet_distance"]
    lab.done("evaluate", "samples=samples.npz", *pictures, *own)
    (score,) = scored(lab.folder)
    assert score["values"]["fd_own"] > 0
    assert weights.stem.endswith(score["protocol"]["features"]["identity"][:12])


@pytest.mark.thorough
def test_other_weights_under_one_name_are_another_score(lab):
    """A score is identified by the content of the weights, not by their path."""
    lab.given("train", "data=digits", *TINY, *STRIDED)
    own = ["features=own", "features.own.weights=own.safetensors", "metrics=frechet_distance"]
    for seed in (0, 1):
        options = ["data=digits", "num_steps=1", "batch_size=8", "to=own.safetensors", f"seed={seed}"]
        assert lab("features", *options)[0] == 0
        lab.done("evaluate", *own)
    found = scored(lab.folder)
    scores = [score for score in found if "fd_own" in score["values"]]
    assert len({score["protocol"]["features"]["identity"] for score in scores}) == 2
    assert len({score["values"]["fd_own"] for score in scores}) == 2


@pytest.mark.parametrize("weights", ["missing.safetensors", "junk.safetensors"])
def test_weights_that_cannot_be_used_are_named(lab, weights):
    (lab.folder / "junk.safetensors").write_bytes(b"no weights")
    np.savez("samples.npz", np.zeros((4, 8, 8, 1), np.uint8))
    lab.refused(
        "evaluate",
        "samples=samples.npz",
        "data=digits",
        "features=own",
        f"features.own.weights={weights}",
        said=weights,
    )
