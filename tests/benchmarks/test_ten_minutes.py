"""What README says of ten minutes on Fashion-MNIST is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

SCORES = Path(__file__).parents[2] / "benchmarks" / "results" / "ten_minutes"
FEW = SCORES.parent / "few"
WITHOUT, WITH = "without_labels", "with_labels"
CLUSTERS = "diffusion_gradient_clusters_guided_2_5_steps"
CLASSES = "diffusion_classes_guided_1.5_5_steps"
RULERS = ("fd_fashion_cnn", "fd_fashion_resnet")


def over_seeds(labels, which, value, at_least=3):
    scores = [json.loads(path.read_text()) for path in sorted((SCORES / labels).glob(f"{which}_seed_*/metrics.json"))]
    assert len(scores) >= at_least
    return np.array([score["values"][value] for score in scores])


def few(steps, value):
    paths = [FEW / f"clusters_{steps}_seed_{seed}.json" for seed in (1, 2, 3)]
    return np.array([json.loads(path.read_text())["values"][value] for path in paths])


def lead(labels, ours, theirs, ruler):
    """(interval of the difference of the means at 95 %, our share of their mean)."""
    first, second = (over_seeds(labels, which, ruler) for which in (ours, theirs))
    return stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95), first.mean() / second.mean()


@pytest.mark.parametrize("ruler", RULERS)
def test_diffusion_is_ahead_of_the_gan_without_labels_beyond_the_interval_at_a_third_of_its_distance(ruler):
    interval, share = lead(WITHOUT, CLUSTERS, "gan_plain", ruler)
    assert interval.low > 0
    assert share < 1 / 3


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize(("labels", "ours", "trained"), [(WITHOUT, CLUSTERS, 11), (WITH, CLASSES, 6)])
def test_its_worst_seed_is_ahead_of_the_best_of_all_gans(labels, ours, trained, ruler):
    assert over_seeds(labels, ours, ruler).max() < over_seeds(labels, "gan_*", ruler, at_least=trained).min()


@pytest.mark.parametrize("ruler", RULERS)
def test_with_labels_the_lead_is_beyond_the_interval_at_half_the_distance(ruler):
    interval, share = lead(WITH, CLASSES, "gan_classes", ruler)
    assert interval.low > 0
    assert share < 1 / 2
    assert over_seeds(WITH, CLASSES, ruler).mean() < 0.55 * np.median(over_seeds(WITH, "gan_classes", ruler))


@pytest.mark.parametrize("ruler", RULERS)
def test_on_clusters_five_steps_from_moments_are_better_than_ten_and_ten_than_fifty_from_noise(ruler):
    five = over_seeds(WITHOUT, "diffusion_gradient_clusters_unguided_5_steps", ruler)
    ten, fifty = few("few_10_data_moments", ruler), few("ancestral_50", ruler)
    assert (five < ten).all()
    assert (ten < fifty).all()


@pytest.mark.parametrize("ruler", RULERS)
def test_on_the_same_clusters_the_seeds_of_the_gan_lie_too_far_apart_to_decide(ruler):
    interval, share = lead(WITHOUT, CLUSTERS, "gan_gradient_clusters", ruler)
    assert interval.low < 0
    assert share < 1 / 2


@pytest.mark.parametrize("ruler", RULERS)
def test_clusters_by_gradients_are_worth_more_than_those_by_pixels(ruler):
    interval, share = lead(WITHOUT, CLUSTERS, "diffusion_clusters_guided_2_5_steps", ruler)
    assert interval.low > 0
    assert share < 2 / 3


@pytest.mark.parametrize(
    ("labels", "ours", "evaluations"),
    [(WITHOUT, CLUSTERS, 9), (WITH, CLASSES, 9), (WITH, "diffusion_classes_unguided_5_steps", 5)],
)
def test_they_were_scored_alike(labels, ours, evaluations):
    protocols = [
        json.loads(path.read_text())["protocol"]
        for path in (SCORES / labels).glob("*/metrics.json")
        if "mirrored" not in str(path)
    ]
    for part in ("data", "reference", "features", "features_fashion_resnet"):
        assert len({json.dumps(protocol[part], sort_keys=True) for protocol in protocols}) == 1
    assert {protocol["samples"]["num_images"] for protocol in protocols} == {2048}
    assert (over_seeds(labels, ours, "nfe") == evaluations).all()


@pytest.mark.parametrize(("ruler", "value"), [("fd_fashion_cnn", 1.39), ("fd_fashion_resnet", 0.21)])
def test_over_the_gan_with_another_learning_rate_the_lead_with_labels_is_undecided(ruler, value):
    ours, theirs = over_seeds(WITH, CLASSES, ruler), over_seeds(f"{WITH}_warmup_stable_decay", "gan", ruler)
    assert round(theirs.mean(), 2) == value
    assert ours.max() < theirs.min()
    interval = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95)
    assert interval.low < 0 < interval.high
