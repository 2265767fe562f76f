"""Given images: the order of their file says nothing of them."""

import pytest
import torch

from diffusion_lab.data.digits import Digits
from diffusion_lab.data.in_memory import OneSet
from diffusion_lab.diffusion.levels import to_levels
from diffusion_lab.metrics.features import Pixels
from diffusion_lab.metrics.given import GivenImages
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import silent
from diffusion_lab.store import CacheDirectory

N = 900


@pytest.mark.parametrize("count", [None, 50, N])
def test_an_image_its_features_and_its_label_have_one_place(tmp_path, count):
    """The file is sorted by class; a part of it is not the first classes."""
    data = Digits(batch_size=8, seed=0)
    x, y = next(data.batches("train", N, limit=N))
    order = y.argsort()
    levels = to_levels(x[order], 17).to(torch.uint8)
    source = GivenImages(OneSet("sorted", levels, 17, "sorted"), y[order], {}, CacheDirectory(tmp_path), "cpu")
    references = source.references(data, [Pixels()], silent)
    (drawn,) = source.samples(references, Evaluation(num_samples=count), False, silent)
    assert len(drawn.images) == len(drawn.features) == (count or N)
    assert torch.equal(drawn.images.flatten(1), drawn.features)
    assert len(drawn.y[:50].unique()) > 5
    same = (drawn.images.flatten(1)[:, None] == x.flatten(1)).all(2)
    assert len(same.int().argmax(1).unique()) == len(same)
    assert torch.equal(y[same.int().argmax(1)], drawn.y)
