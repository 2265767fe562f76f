"""`diffusion-lab features`: features of a user's own images, trained without labels, and scores by them."""

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import scored


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


@pytest.mark.parametrize("weights", ["missing.safetensors", "junk.safetensors"])
def test_weights_that_cannot_be_used_are_named(lab, weights):
    (lab.folder / "junk.safetensors").write_bytes(b"no weights")
    np.savez("samples.npz", np.zeros((4, 8, 8, 1), np.uint8))
    own = ["features=own", f"features.own.weights={weights}"]
    lab.refused("evaluate", "samples=samples.npz", "data=digits", *own, said=weights)
