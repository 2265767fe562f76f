"""Every two choices of schedule, variance, prediction and sampler train, sample and score together; .ci/run has them all."""

import json
from itertools import product

import pytest

from ..pairs import pairs
from .conftest import TINY
from .test_conf import choices

SAMPLERS = {  # its options, NFE, and which chain its bound is of
    "ddpm": ([], 24, "bound of the full chain"),
    "strided": (["sampler.spacing.num_steps=3"], 3, "bound of a strided chain"),
    "ddim": (["sampler.spacing.num_steps=3"], 3, "bound of a strided chain: the ancestral one on this sampler's steps"),
}
AXES = (choices("schedule"), [v for v in choices("variance") if v != "fixed"], choices("prediction"), list(SAMPLERS))
ENOUGH = set(pairs(*AXES))
CELLS = [
    pytest.param(*cell, marks=[] if cell in ENOUGH else pytest.mark.thorough, id="-".join(cell))
    for cell in product(*AXES)
]


@pytest.mark.parametrize(("schedule", "variance", "prediction", "sampler"), CELLS)
def test_a_cell_trains_samples_and_scores(lab, schedule, variance, prediction, sampler):
    options, nfe, kind = SAMPLERS[sampler]
    chosen = [f"schedule={schedule}", f"variance={variance}", f"prediction={prediction}", f"sampler={sampler}"]
    code, _, err = lab("train", *TINY, *chosen, *options)
    assert code == 0, err
    (path,) = (lab.folder / "outputs" / "runs").glob("*/metrics.json")
    run = json.loads(path.read_text())
    assert run["values"]["nfe"] == nfe
    assert run["values"]["bits_per_dim"] > 0
    assert run["values"]["fd_pixels"] > 0
    assert run["protocol"]["bound"]["kind"] == kind


def test_every_sampler_is_here():
    assert set(SAMPLERS) == set(choices("sampler"))
