"""What README says of ten minutes on Fashion-MNIST without labels is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

SCORES = Path(__file__).parents[2] / "benchmarks" / "results" / "ten_minutes" / "without_labels"
DIFFUSION, GAN = "diffusion_clusters_guided_2_5_steps", "gan_plain"
RULERS = ("fd_fashion_cnn", "fd_fashion_resnet")


def over_seeds(which, value, at_least=3):
    scores = [json.loads(path.read_text()) for path in sorted(SCORES.glob(f"{which}_seed_*/metrics.json"))]
    assert len(scores) >= at_least
    return np.array([score["values"][value] for score in scores])


@pytest.mark.parametrize("ruler", RULERS)
def test_diffusion_is_ahead_of_the_gan_beyond_the_interval(ruler):
    ours, theirs = over_seeds(DIFFUSION, ruler), over_seeds(GAN, ruler)
    interval = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95)
    assert interval.low > 0


@pytest.mark.parametrize("ruler", RULERS)
def test_its_worst_seed_is_ahead_of_the_best_of_the_gan(ruler):
    assert over_seeds(DIFFUSION, ruler).max() < over_seeds(GAN, ruler).min()


@pytest.mark.parametrize("ruler", RULERS)
def test_nothing_is_decided_between_diffusion_and_a_gan_on_clusters(ruler):
    ours, theirs = over_seeds(DIFFUSION, ruler), over_seeds("gan_clusters", ruler, at_least=2)
    interval = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95)
    assert interval.low < 0 < interval.high
    assert (theirs.mean() < ours.mean()) == (ruler == "fd_fashion_cnn")


def test_they_were_scored_alike():
    protocols = [json.loads(path.read_text())["protocol"] for path in SCORES.glob("*/metrics.json")]
    for part in ("data", "reference", "features", "features_fashion_resnet"):
        assert len({json.dumps(protocol[part], sort_keys=True) for protocol in protocols}) == 1
    assert {protocol["samples"]["num_images"] for protocol in protocols} == {2048}
    nfe = over_seeds(DIFFUSION, "nfe")
    assert (nfe == 9).all()
