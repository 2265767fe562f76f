from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.metrics.bits_per_dim import aggregate, score_likelihood
from diffusion_lab.models.base import Likelihood
from tests.metrics.stand_ins import GaussianModel, Silent, TinyImages


def scored(model=None, progress=lambda *_: None, seed=0, **bound):
    return score_likelihood(model or GaussianModel(), TinyImages(), seed, progress, **bound)


def row(bits, error=None, curve=None):
    bits = torch.tensor(bits).double()
    return Likelihood(bits, "kind", {"prior": bits / 4}, curve, error)


def test_mean_and_its_error_over_images():
    score = aggregate([[row([1.0, 2.0]), row([6.0])]])
    assert score.bits_per_dim == 3
    assert score.standard_error == pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5)
    assert score.parts == {"prior": 0.75}
    assert score.num_images == 3
    assert score.noise_error is None


def test_errors_that_batches_state_add_up_in_variance():
    score = aggregate([[row([1.0, 2.0], error=0.3), row([6.0], error=0.8)]])
    assert score.noise_error == pytest.approx((0.6**2 + 0.8**2) ** 0.5 / 3)
    assert aggregate([[row([1.0, 2.0], error=0.3), row([6.0])]]).noise_error is None


def test_the_curve_is_a_mean_over_images_not_over_batches():
    steps = torch.tensor([1, 5])
    a = row([1.0, 1.0], curve={"t": steps, "terms": torch.tensor([[1.0, 0.0], [3.0, 0.0]])})
    b = row([1.0], curve={"t": steps, "terms": torch.tensor([[5.0, 9.0]])})
    assert aggregate([[a, b]]).curve == {"t": [1, 5], "terms": [3.0, 3.0]}


def test_terms_that_differ_between_batches_are_not_averaged():
    a = row([1.0], curve={"t": torch.tensor([1, 5])})
    b = row([1.0], curve={"t": torch.tensor([1, 6])})
    with pytest.raises(ValueError, match="different t in different batches"):
        aggregate([[a, b]])


def test_the_batch_size_changes_rounding_only():
    one, many = scored(batch_size=40), scored(batch_size=3)
    assert many.bits_per_dim == pytest.approx(one.bits_per_dim, rel=1e-12)
    assert many.curve["terms"] == pytest.approx(one.curve["terms"], rel=1e-6)


def test_only_so_many_images_are_read_and_no_more_than_there_are():
    seen = []
    assert scored(num_images=10, batch_size=4, progress=lambda *what: seen.append(what)).num_images == 10
    assert [done for _, done, _ in seen] == [4, 8, 10]
    assert scored(num_images=256).num_images == 40


def test_the_error_from_noise_is_that_of_repeated_measurements():
    repeated = [scored(num_draws=4, seed=seed) for seed in range(40)]
    spread = np.std([score.bits_per_dim for score in repeated], ddof=1)
    stated = np.mean([score.noise_error for score in repeated])
    assert stated == pytest.approx(spread, rel=0.4)  # 40 repetitions know it to 11 %
    # the same error written out: noise of 0.1·√2 an image, 40 images, 4 draws
    assert stated == pytest.approx(0.1 * 2**0.5 / (40 * 4) ** 0.5, rel=0.05)


def test_draws_have_noise_of_their_own_and_share_none_with_the_next_seed():
    seeds = []

    class Recording(GaussianModel):
        def likelihood(self, x_0, y, seed, indices, max_terms):
            seeds.append(seed)
            return super().likelihood(x_0, y, seed, indices, max_terms)

    for seed in range(3):
        scored(Recording(), num_draws=3, batch_size=40, seed=seed)
    assert len(set(seeds)) == 9


def test_a_model_without_likelihood_is_asked_once():
    assert scored(Silent()) is None


def test_an_unconditional_model_gets_no_labels_and_indices_run_on():
    asked = []

    class Recording(GaussianModel):
        def likelihood(self, x_0, y, seed, indices, max_terms):
            asked.append((y, indices.tolist(), max_terms))
            return super().likelihood(x_0, y, seed, indices, max_terms)

    scored(Recording(), num_images=5, batch_size=3, max_terms=7)
    assert asked == [(None, [0, 1, 2], 7), (None, [3, 4], 7)]
    asked.clear()
    scored(Recording(num_classes=3), num_images=5, batch_size=5)
    assert len(asked[0][0]) == 5


@pytest.mark.parametrize(
    ("kind", "stated", "more"),
    [
        ("ELBO given the class", "bound: ELBO, for an image and its cluster", 3 / 4),
        (
            "bound of 2 steps given the class; not its own",
            "bound of 2 steps, for an image and its cluster; not its own",
            3 / 4,
        ),
        ("bound of 2 steps", "bound of 2 steps", 0),
    ],
)
def test_what_was_stated_given_the_cluster_has_the_bits_of_the_cluster_too(kind, stated, more):
    class OfKind(GaussianModel):
        def likelihood(self, *arguments):
            return replace(super().likelihood(*arguments), kind=kind)

    data = TinyImages()
    alone = score_likelihood(OfKind(num_classes=3), data, 0, lambda *_: None)
    data.clusters = SimpleNamespace(
        of=lambda x: torch.zeros(len(x), dtype=torch.int64), bits=lambda y: torch.full((len(y),), 3.0).double()
    )
    both = score_likelihood(OfKind(num_classes=3), data, 0, lambda *_: None)
    assert both.kind == stated
    assert both.bits_per_dim == pytest.approx(alone.bits_per_dim + more)


def test_the_stand_in_is_keyed_by_image():
    # What the tests above rest on.
    noise = SampleNoise(0, torch.arange(4)).initial((2,))
    assert torch.equal(SampleNoise(0, torch.tensor([2])).initial((2,))[0], noise[2])
