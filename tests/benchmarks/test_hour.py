"""What README says of an hour of training is what the committed scores say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

HOUR = Path(__file__).parents[2] / "benchmarks" / "results" / "hour"


def along_the_hour(labels, which, value):
    """The values of a model's five trainings, from the shortest to the longest."""
    runs = [json.loads(path.read_text())["values"] for path in (HOUR / labels).glob(f"{which}_*_steps/metrics.json")]
    return np.array([run[value] for run in sorted(runs, key=lambda run: run["training_steps"])])


@pytest.mark.parametrize("labels", ["without_labels", "with_labels"])
def test_the_flow_states_the_best_bits_of_every_length_and_flow_and_vae_have_the_worst_distances(labels):
    bits = {which: along_the_hour(labels, which, "bits_per_dim") for which in ("flow", "diffusion_unguided", "vae")}
    assert (bits["flow"] < np.minimum(bits["diffusion_unguided"], bits["vae"])).all()
    for ruler in ("fd_fashion_cnn", "fd_fashion_resnet"):
        better = [along_the_hour(labels, which, ruler) for which in ("gan", "diffusion_unguided")]
        worse = [along_the_hour(labels, which, ruler) for which in ("flow", "vae")]
        assert (np.maximum(*better) < np.minimum(*worse)).all()


@pytest.mark.parametrize(
    ("worse", "better", "lead", "interval"),
    [("diffusion_unguided_16000", "flow_19500", 0.061, 0.015), ("vae_18000", "diffusion_unguided_16000", 0.064, 0.028)],
)
def test_the_leads_in_bits_after_an_hour_are_those_of_the_text(worse, better, lead, interval):
    scores = [
        json.loads((HOUR / "without_labels" / f"{run}_steps" / "metrics.json").read_text()) for run in (worse, better)
    ]
    assert scores[0]["values"]["bits_per_dim"] - scores[1]["values"]["bits_per_dim"] == pytest.approx(lead, abs=5e-4)
    blocks = np.subtract(*(score["sources"]["bits_per_dim"]["test images"] for score in scores))  # the same images
    half = stats.t.ppf(0.975, len(blocks) - 1) * blocks.std(ddof=1) / len(blocks) ** 0.5
    assert half == pytest.approx(interval, abs=5e-4)
