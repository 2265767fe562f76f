"""Given images: the order of their file says nothing of them."""

import pytest
import torch

from diffusion_lab.data.digits import Digits
from diffusion_lab.data.in_memory import OneSet
from diffusion_lab.diffusion.levels import to_levels
from diffusion_lab.metrics.features import Pixels
from diffusion_lab.metrics.given import GivenImages
from diffusion_lab.metrics.score import score
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.shards import silent
from diffusion_lab.metrics.sliced_wasserstein import SlicedWasserstein

N = 900


@pytest.fixture
def given(tmp_path):
    """given(order) -> the first N digits in this order, "by class" or "mixed", as a source of samples."""
    data = Digits(batch_size=8, seed=0)
    x, y = next(data.batches("train", N, limit=N))
    orders = {"by class": y.argsort(), "mixed": torch.arange(N)}
    levels = to_levels(x, 17).to(torch.uint8)

    def source(order):
        rows = orders[order]
        return GivenImages(OneSet(order, levels[rows], 17, order), y[rows], {}, tmp_path, "cpu")

    return source


@pytest.mark.thorough
def test_a_file_that_is_sorted_by_class_has_the_distance_of_a_mixed_one(given, tmp_path):
    found = {}
    for order in ("by class", "mixed"):
        scores = score(
            given(order), Digits(batch_size=8, seed=0), [Pixels()], [SlicedWasserstein(num_images=200)], Evaluation()
        )
        found[order] = scores.values["sliced_wasserstein"]
    assert found["by class"] == pytest.approx(found["mixed"], rel=0.25)


@pytest.mark.parametrize("count", [None, 50, N])
def test_an_image_its_features_and_its_label_have_one_place(given, tmp_path, count):
    source = given("by class")
    references = source.references(Digits(batch_size=8, seed=0), [Pixels()], silent)
    (drawn,) = source.samples(references, Evaluation(num_samples=count), silent)
    assert len(drawn.images) == len(drawn.features) == (count or N)
    assert torch.equal(drawn.images.flatten(1), drawn.features)
    x, y = next(Digits(batch_size=8, seed=0).batches("train", N, limit=N))
    same = (drawn.images.flatten(1)[:, None] == x.flatten(1)).all(2)
    assert len(same.int().argmax(1).unique()) == len(same)
    assert torch.equal(y[same.int().argmax(1)], drawn.y)
