"""Every choice of schedule, variance, prediction and sampler trains, samples and scores with every other, by the command.

Thorough; `test_pairs` has every two of them in one process. schedule=learned, which needs an objective of its own, is there too.
A sampler does not shape training: all samplers score one model.
"""

import json
from itertools import product

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.diffusion import GaussianDiffusion

from .conftest import TINY
from .test_conf import FACTS, choices, composed

STEPS = ["sampler.spacing.num_steps=3"]
LITTLE = [
    "evaluation.statistics_images=8",
    "bound.num_steps=4",
    "metrics=[network_evaluations,frechet_distance,bits_per_dim]",
]
STRIDED = "bound of 4 ancestral steps even in log SNR; this sampler has no bound of its own"
SAMPLERS = {  # its options, NFE, and which chain its bound is of
    "ddpm": ([], 24, "bound of the full chain"),
    "strided": (STEPS, 3, "bound of a strided chain"),
    "ddim": (STEPS, 3, STRIDED),
    "heun": (STEPS, 5, STRIDED),
    "dpm_solver": (STEPS, 3, STRIDED),
    "ipndm": (STEPS, 3, STRIDED),
}
for name in [name for name in choices("sampler") if name not in SAMPLERS]:
    new = instantiate(composed(f"sampler={name}").sampler)
    SAMPLERS[name] = (
        STEPS,
        len(new.evaluation_times(3)),
        "bound of a strided chain" if new.draws_from_reverse_process else STRIDED,
    )
# fixed is fixed_large, and learned_jointly samples as learned does. regressed needs a trained head: test_variance_head.
VARIANCES = [name for name in choices("variance") if name not in ("fixed", "learned_jointly", "regressed")]


def part(group, name):
    """What a yaml alone builds."""
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    return instantiate(OmegaConf.create({"facts": FACTS, "part": node.get(group, node)}).part)


SCHEDULES = [name for name in choices("schedule") if name != "learned"]
NO_UNIT_VARIANCE = [name for name in SCHEDULES if not GaussianDiffusion(part("schedule", name)).has_unit_variance]
NEED_IT = [name for name in VARIANCES if part("variance", name).needs_unit_variance]
CELLS = [
    cell
    for cell in product(SCHEDULES, VARIANCES, choices("prediction"))
    if cell[0] not in NO_UNIT_VARIANCE or cell[1] not in NEED_IT
]


@pytest.mark.thorough
@pytest.mark.parametrize(("schedule", "variance", "prediction"), CELLS)
def test_a_cell_trains_samples_and_scores(lab, schedule, variance, prediction):
    chosen = [f"schedule={schedule}", f"variance={variance}", f"prediction={prediction}"]
    runs = lab.folder / "outputs" / "runs"
    for sampler, (options, nfe, kind) in SAMPLERS.items():
        code, _, err = lab("train", *TINY, *LITTLE, *chosen, f"sampler={sampler}", *options)
        assert code == 0, f"{sampler}: {err}"
        (path,) = runs.glob("*/metrics.json")
        run = json.loads(path.read_text())
        path.unlink()
        assert run["values"]["nfe"] == nfe, sampler
        assert run["values"]["bits_per_dim"] > 0, sampler
        assert run["values"]["fd_pixels"] > 0, sampler
        assert run["protocol"]["bound"]["kind"] == kind, sampler
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 1


@pytest.mark.parametrize("schedule", NO_UNIT_VARIANCE)
def test_what_may_not_meet_is_refused(lab, schedule):
    code, _, err = lab("train", *TINY, f"schedule={schedule}", "variance=learned")
    assert code == 1
    assert "variance LearnedRange has β_t as its upper bound" in err
    assert len(err.strip().splitlines()) == 1
