"""What README says of samplers on digits is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

FEW = Path(__file__).parents[2] / "benchmarks" / "results" / "few"
RULERS = ("fd_digits_cnn", "fd_digits_resnet")


def of_2048(sampler, value):
    """Of the models of seeds 1, 2 and 3."""
    scores = [
        json.loads((FEW / f"digits_{sampler}_2048_samples_fp32_seed_{seed}.json").read_text()) for seed in (1, 2, 3)
    ]
    assert {score["protocol"]["samples"]["num_images"] for score in scores} == {2048}
    return np.array([score["values"][value] for score in scores])


@pytest.mark.parametrize("ruler", RULERS)
def test_ten_evaluations_are_not_behind_fifty(ruler):
    ten, fifty = of_2048("fast_10_data_moments", ruler), of_2048("ancestral_50", ruler)
    assert (of_2048("fast_10_data_moments", "nfe") == 10).all()
    assert stats.ttest_rel(ten, fifty).confidence_interval(0.95).low < 0
    assert ten.mean() < 1.1 * fifty.mean()


def test_five_are_behind_ten_and_fifty_by_the_second_ruler_in_every_seed():
    five = of_2048("fast_digits_5", RULERS[1])
    for others in ("fast_10_data_moments", "ancestral_50"):
        assert (five > 1.5 * of_2048(others, RULERS[1])).all()


@pytest.mark.parametrize("other", ["ancestral_100", "ancestral_50_quadratic"])
def test_two_rulers_do_not_agree_on_what_is_better_than_the_default(other):
    ahead = [(of_2048(other, ruler) < of_2048("ancestral_50", ruler)).all() for ruler in RULERS]
    assert not all(ahead)
