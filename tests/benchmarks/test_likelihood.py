"""What README says of bits/dim is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "likelihood"
DIGITS, FASHION = "digits_", "fashion/"


def over_seeds(data, family):
    scores = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{data}{family}_seed_?.json"))]
    assert len(scores) == 3
    return scores


def bits(data, family):
    return np.array([score["values"]["bits_per_dim"] for score in over_seeds(data, family)])


@pytest.mark.parametrize("data", [DIGITS, FASHION])
@pytest.mark.parametrize("other", ["flow", "vae"])
def test_diffusion_states_fewer_bits_than_flow_and_vae_beyond_the_interval(data, other):
    ours, theirs = bits(data, "diffusion"), bits(data, other)
    assert stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95).low > 0
    assert ours.max() < theirs.min()


@pytest.mark.parametrize("data", [DIGITS, FASHION])
def test_they_state_the_bits_of_the_same_images(data):
    protocols = [score["protocol"] for family in ("diffusion", "flow", "vae") for score in over_seeds(data, family)]
    assert len({protocol["data"]["identity"] for protocol in protocols}) == 1
    for part in ("split", "num_images", "seed"):
        assert len({protocol["bound"][part] for protocol in protocols}) == 1


@pytest.mark.parametrize("family", ["diffusion", "flow", "vae"])
def test_on_fashion_mnist_they_were_trained_for_ten_minutes_of_one_thread(family):
    scores = over_seeds(FASHION, family)
    assert {score["protocol"]["cost"]["threads"] for score in scores} == {1}
    assert len({score["values"]["training_steps"] for score in scores}) == 1
    # The fastest of three: other work on the machine slowed some of them.
    assert 9 * 60 < min(score["values"]["training_seconds"] for score in scores) <= 10 * 60
