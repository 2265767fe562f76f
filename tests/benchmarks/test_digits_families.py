"""What README and benchmarks say of the four families on digits, with clusters and without, is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RULERS = ("fd_digits_cnn", "fd_digits_resnet")
DIFFUSION = {
    "own": "digits_draws/plain_dpmsolver_sde_25_from_noise_-8.0_to_8.0_2048_samples",
    "clusters": "digits_draws/default_on_clusters_2048_samples",
}


def of_2048(family, labels, value):
    """The mean over two draws, of the models of seeds 1, 2 and 3."""
    name = DIFFUSION[labels] if family == "diffusion" else f"digits_families/{family}_{labels}_2048_samples"
    files = [[RESULTS / f"{name}_seed_{seed}_draw_{draw}.json" for draw in (0, 1)] for seed in (1, 2, 3)]
    return np.array([[json.loads(file.read_text())["values"][value] for file in row] for row in files]).mean(axis=1)


def bits(family, labels):
    files = [RESULTS / "digits_families" / f"{family}_{labels}_seed_{seed}.json" for seed in (1, 2, 3)]
    return np.array([json.loads(file.read_text())["values"]["bits_per_dim"] for file in files])


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("family", ["diffusion", "gan", "vae", "flow"])
def test_every_family_is_closer_on_clusters_in_every_seed(family, ruler):
    assert (of_2048(family, "clusters", ruler) < of_2048(family, "own", ruler)).all()


@pytest.mark.parametrize("labels", ["own", "clusters"])
def test_the_gan_is_as_close_as_diffusion_on_digits(labels):
    for ruler in RULERS:
        ours, theirs = (of_2048(family, labels, ruler) for family in ("diffusion", "gan"))
        interval = stats.ttest_ind(theirs, ours, equal_var=False).confidence_interval(0.95)
        assert interval.low < 0 < interval.high


@pytest.mark.parametrize(("family", "more"), [("vae", 0.10), ("flow", 0.14)])
def test_clusters_cost_vae_and_flow_bits(family, more):
    assert (bits(family, "clusters") - bits(family, "own")).mean() == pytest.approx(more, abs=0.005)
