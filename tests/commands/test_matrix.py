"""Every schedule × variance × prediction trains two steps, and every sampler samples and scores it."""

import json
from itertools import product

import pytest

from .conftest import TINY

SCHEDULES = ["linear", "cosine", "sigmoid"]
VARIANCES = ["fixed_small", "fixed_large", "learned"]
PREDICTIONS = ["noise", "start", "velocity"]
SAMPLERS = {"ddpm": 24, "strided": 3, "ddim": 3}


@pytest.mark.parametrize(("schedule", "variance", "prediction"), list(product(SCHEDULES, VARIANCES, PREDICTIONS)))
def test_a_cell_trains_samples_and_scores(lab, schedule, variance, prediction):
    choices = [f"schedule={schedule}", f"variance={variance}", f"prediction={prediction}"]
    for sampler, nfe in SAMPLERS.items():
        steps = [] if sampler == "ddpm" else [f"sampler.spacing.num_steps={nfe}"]
        code, out, err = lab("train", *TINY, *choices, f"sampler={sampler}", *steps)
        assert code == 0, err
        assert ("trained already" in out) == (sampler != "ddpm")
    runs = [json.loads(path.read_text()) for path in (lab.folder / "outputs" / "runs").glob("*/metrics.json")]
    assert sorted(run["values"]["nfe"] for run in runs) == sorted(SAMPLERS.values())
    assert all(run["values"]["bits_per_dim"] > 0 and run["values"]["fd_pixels"] > 0 for run in runs)
    assert len({run["protocol"]["bound"]["kind"] for run in runs}) == 3
