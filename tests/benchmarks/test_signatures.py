"""What benchmarks/README.md says of the papers' signatures in distance is what the committed scores say."""

import json
from functools import cache
from pathlib import Path

import pytest

from diffusion_lab.report.compare import Measured, difference

DISTANCES = Path(__file__).parents[2] / "benchmarks" / "results" / "signatures" / "distances"
RULERS = ("fd_fashion_cnn", "fd_fashion_resnet")


@cache
def measured(variance, spacing, num_steps, ruler):
    """Of three trainings."""
    runs = {
        seed: json.loads((DISTANCES / f"{variance}_{spacing}_{num_steps}_seed_{seed}" / "metrics.json").read_text())
        for seed in ("1", "2", "3")
    }
    values = {seed: run["values"][ruler] for seed, run in runs.items()}
    return Measured(values, {}, {seed: run["sources"][ruler] for seed, run in runs.items()})


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("num_steps", [5, 10, 20, 50, 100])
def test_the_wide_variance_is_worse_than_the_narrow_one_beyond_the_interval_and_there_is_no_crossover(num_steps, ruler):
    lead = difference(
        measured("fixed_large", "even", num_steps, ruler), measured("fixed_small", "even", num_steps, ruler)
    )
    assert lead.mean > lead.margin


@pytest.mark.parametrize("ruler", RULERS)
def test_training_by_the_bound_has_the_worst_distance_at_fifty_steps(ruler):
    by_the_bound = measured("vlb", "even", 50, ruler)
    for variance in ("fixed_small", "fixed_large", "analytic", "learned"):
        lead = difference(by_the_bound, measured(variance, "even", 50, ruler))
        assert lead.mean > lead.margin


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("num_steps", [10, 20])
def test_the_steps_of_the_least_bound_are_no_better_for_the_narrow_variance(num_steps, ruler):
    cost = difference(
        measured("fixed_small", "optimal", num_steps, ruler), measured("fixed_small", "even", num_steps, ruler)
    )
    assert cost.mean > cost.margin


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("num_steps", [5, 10])
def test_but_for_the_wide_one_they_are_better(num_steps, ruler):
    gain = difference(
        measured("fixed_large", "even", num_steps, ruler), measured("fixed_large", "optimal", num_steps, ruler)
    )
    assert gain.mean > gain.margin


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
def test_the_variance_of_the_least_bound_costs_distance_beside_the_narrow_one(num_steps, ruler):
    cost = difference(measured("analytic", "even", num_steps, ruler), measured("fixed_small", "even", num_steps, ruler))
    assert cost.mean > cost.margin
