from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion_lab.metrics.bits_per_dim import BitsPerDim, joined
from diffusion_lab.metrics.metric import Scores, Subject
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import silent
from diffusion_lab.models.generator import Likelihood
from tests.metrics.stand_ins import GaussianModel, TinyImages


def scored(model=None, progress=silent, seed=0, data=None, **bound) -> Scores:
    source = SimpleNamespace(generator=model or GaussianModel())
    return BitsPerDim(**bound).score(Subject(source, data or TinyImages(), [], Evaluation(seed=seed), progress))


class Recording(GaussianModel):
    """What it was asked for."""

    def __init__(self, num_classes=None):
        super().__init__(num_classes)
        self.asked = []

    def likelihood(self, x_0, y, seed, indices, max_terms):
        self.asked.append((y, seed, indices.tolist(), max_terms))
        return super().likelihood(x_0, y, seed, indices, max_terms)


def row(bits, error=None, curve=None):
    bits = torch.tensor(bits).double()
    return Likelihood(bits, "kind", {"prior": bits / 4}, curve, error)


def test_errors_that_batches_state_add_up_in_variance():
    both = joined([row([1.0, 2.0], error=0.3), row([6.0], error=0.8)])
    assert both.standard_error == pytest.approx((0.6**2 + 0.8**2) ** 0.5 / 3)
    assert both.bits_per_dim.tolist() == [1, 2, 6]
    assert joined([row([1.0, 2.0], error=0.3), row([6.0])]).standard_error is None


def test_the_curve_is_a_mean_over_images_not_over_batches():
    steps = torch.tensor([1, 5])
    a = row([1.0, 1.0], curve={"t": steps, "terms": torch.tensor([[1.0, 0.0], [3.0, 0.0]])})
    b = row([1.0], curve={"t": steps, "terms": torch.tensor([[5.0, 9.0]])})
    curve = joined([a, b]).curve
    assert {name: entry.tolist() for name, entry in curve.items()} == {"t": [1, 5], "terms": [3.0, 3.0]}


def test_the_batch_size_changes_rounding_only():
    one, many = scored(batch_size=40), scored(batch_size=3)
    assert many.values == pytest.approx(one.values, rel=1e-12)
    assert many.curves["bits_per_dim"]["terms"] == pytest.approx(one.curves["bits_per_dim"]["terms"], rel=1e-6)


def test_only_so_many_images_are_read_and_no_more_than_there_are():
    seen = []
    few = scored(num_images=10, batch_size=4, progress=lambda *what: seen.append(what))
    assert few.protocol["bound"]["num_images"] == 10
    assert [done for _, done, _ in seen] == [4, 8, 10]
    assert scored(num_images=256).protocol["bound"]["num_images"] == 40


def test_the_error_from_noise_is_that_of_repeated_measurements():
    repeated = [scored(num_draws=4, seed=seed).values for seed in range(40)]
    spread = np.std([values["bits_per_dim"] for values in repeated], ddof=1)
    stated = np.mean([values["bits_per_dim_noise_error"] for values in repeated])
    assert stated == pytest.approx(spread, rel=0.4)  # 40 repetitions know it to 11 %
    # the same error written out: noise of 0.1·√2 an image, 40 images, 4 draws
    assert stated == pytest.approx(0.1 * 2**0.5 / (40 * 4) ** 0.5, rel=0.05)


def test_draws_have_noise_of_their_own_and_share_none_with_the_next_seed():
    model = Recording()
    for seed in range(3):
        scored(model, num_draws=3, batch_size=40, seed=seed)
    assert len({seed for _, seed, _, _ in model.asked}) == 9


def test_an_unconditional_model_gets_no_labels_and_indices_run_on():
    model = Recording()
    scored(model, num_images=5, batch_size=3, max_terms=7)
    assert [(y, indices, terms) for y, _, indices, terms in model.asked] == [(None, [0, 1, 2], 7), (None, [3, 4], 7)]
    conditional = Recording(num_classes=3)
    scored(conditional, num_images=5, batch_size=5)
    assert len(conditional.asked[0][0]) == 5


OF_BOTH = "for an image and its cluster"


@pytest.mark.parametrize(
    ("kind", "stated", "more"),
    [
        ("ELBO given the class", f"bound: ELBO, {OF_BOTH}", 3 / 4),
        ("bound of 2 steps given the class; not its own", f"bound of 2 steps, {OF_BOTH}; not its own", 3 / 4),
        ("bound of 2 steps", "bound of 2 steps", 0),
    ],
)
def test_what_was_stated_given_the_cluster_has_the_bits_of_the_cluster_too(kind, stated, more):
    class OfKind(GaussianModel):
        def likelihood(self, *arguments):
            return replace(super().likelihood(*arguments), kind=kind)

    data = TinyImages()
    alone = scored(OfKind(num_classes=3), data=data)
    data.prepare()
    data.conditions["classes"].bits = lambda y: torch.full((len(y),), 3.0).double()
    both = scored(OfKind(num_classes=3), data=data)
    assert both.protocol["bound"]["kind"] == stated
    assert both.values["bits_per_dim"] == pytest.approx(alone.values["bits_per_dim"] + more)
