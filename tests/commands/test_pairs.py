"""Every pair among schedules, predictions, variances and samplers trains, samples and scores on points, or is refused in one
sentence; so does every pair of what shapes training alone.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.diffusion import GaussianDiffusion
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.optimization import Constant, Optimization

from ..pairs import pairs
from .test_conf import FACTS, choices, composed

SCHEDULES, PREDICTIONS, VARIANCES, SAMPLERS = (
    [f"{group}={name}" for name in choices(group)] for group in ("schedule", "prediction", "variance", "sampler")
)
TIMESTEPS = [f"timesteps={name}" for name in choices("timesteps")]
TIMESTEPS += ["timesteps=uniform timesteps.real=true", "timesteps=stratified timesteps.real=true"]
CONTINUOUS = ["objective=vlb_continuous", "decoder=levels", "timesteps=low_discrepancy"]
OBJECTIVES = [f"objective=simple weighting={name}" for name in choices("weighting")]
OBJECTIVES += ["objective=vlb", "objective=vlb_continuous decoder=levels", "objective=flow_map"]
OF_TWO_TIMES = ["objective=flow_map", "timesteps=uniform", "timesteps.real=true"]


@cache
def plain(*options: str) -> dict[str, Any]:
    """A config in plain containers, its references as they stand."""
    return OmegaConf.to_container(composed("data=gaussian", *options), resolve=False)


def built(*options: str) -> DiffusionModel:
    """`group=choice`, or `group.option=value`. Each choice is composed once."""
    chosen = [option.split("=") for option in options]
    cfg = OmegaConf.create(
        plain() | {group: plain(f"{group}={choice}")[group] for group, choice in chosen if "." not in group}
    )
    cfg.schedule.num_timesteps = 24
    if "num_steps" in cfg.sampler.spacing:
        cfg.sampler.spacing.num_steps = 4
    for name, value in chosen:
        if "." in name:
            OmegaConf.update(cfg, name, yaml.safe_load(value))
    cfg.facts = {**cfg.facts, "shape": [2], "channels": 2, "size": 2, "num_levels": None, "bounded": False}
    torch.manual_seed(0)
    parts = {name: instantiate(cfg[name]) for name in ("schedule", "prediction", "variance", "objective", "sampler")}
    return DiffusionModel(
        shape=(2,),
        num_levels=None,
        num_classes=None,
        network=instantiate(cfg.network, hidden=16, num_layers=1),
        timesteps=instantiate(cfg.timesteps),
        guidance=instantiate(cfg.guidance),
        optimization=Optimization(torch.optim.AdamW, Constant()),
        clip_x_0=False,
        condition_dropout=0.1,
        seed=1,
        **parts,
    )


def trained(model: DiffusionModel, x_0: torch.Tensor) -> DiffusionModel:
    """After two steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(2):
        t, w = model.timesteps(len(x_0), torch.Generator().manual_seed(step))
        terms = model.objective(model.forward_process, model.reverse, x_0, t, torch.randn_like(x_0))
        (w * terms["loss"]).mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
    return model


def objective_of(schedule: str, sampler: str) -> list[str]:
    """What can train them."""
    if sampler == "sampler=flow_map":
        return OF_TWO_TIMES
    return CONTINUOUS if schedule == "schedule=learned" else ["objective=vlb"]


@cache
def alone(choice: str) -> object:
    """What the yaml of a `group=choice` builds by itself."""
    group, name = choice.split("=")
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    return instantiate(OmegaConf.create({"facts": FACTS, "part": node.get(group, node)}).part)


def fits(schedule: str, variance: str, sampler: str = "") -> bool:
    """A learned range needs signal and noise of unit variance, and a learned schedule an objective that trains no variance.

    A flow map trains neither.
    """
    if sampler == "sampler=flow_map":
        return schedule != "schedule=learned" and not variance.startswith("variance=learned")
    if not variance.startswith("variance=learned"):
        return True
    return schedule != "schedule=learned" and GaussianDiffusion(alone(schedule)).has_unit_variance


CELLS = [cell for cell in product(SCHEDULES, PREDICTIONS, VARIANCES, SAMPLERS) if fits(cell[0], cell[2], cell[3])]


def quick_first(cells):
    """The first cells, which hold most new pairs each, in the plain run; the others are thorough."""
    return [
        cell if i < len(cells) // 6 else pytest.param(*cell, marks=pytest.mark.thorough) for i, cell in enumerate(cells)
    ]


@pytest.mark.parametrize(("schedule", "prediction", "variance", "sampler"), quick_first(pairs(CELLS)))
def test_a_pair_trains_samples_and_scores(schedule, prediction, variance, sampler):
    x_0 = 0.5 * torch.randn(8, 2)
    model = trained(built(schedule, prediction, variance, sampler, *objective_of(schedule, sampler)), x_0).generator()
    samples = model.sample(torch.arange(3), seed=0)
    likelihood = model.likelihood(x_0[:4], None, 0, torch.arange(4), None)
    assert samples.shape == (3, 2)
    assert samples.isfinite().all()
    num_steps = len(model.sampler.spacing(model.process))
    assert model.nfe == len(model.sampler.evaluation_times(num_steps))
    if model.sampler.two_times:
        assert likelihood is None
        return
    assert likelihood.bits_per_dim.isfinite().all()
    own = model.sampler.draws_from_reverse_process
    assert len(likelihood.curve["t"]) == (num_steps if own else min(model.bound_steps, model.process.num_timesteps))


@pytest.mark.parametrize(
    ("schedule", "prediction", "timesteps", "objective"),
    quick_first(pairs(list(product(SCHEDULES, PREDICTIONS, TIMESTEPS, OBJECTIVES)))),
)
def test_a_pair_of_what_shapes_training_trains(schedule, prediction, timesteps, objective):
    """A pair of what shapes training trains or is refused in one sentence."""
    options = [schedule, prediction, "variance=fixed_small", *timesteps.split(), *objective.split()]
    real, density = "real=true" in timesteps or "low_discrepancy" in timesteps, "normal" in timesteps
    continuous = objective.startswith("objective=vlb_continuous")
    if schedule == "schedule=learned" and not continuous:
        refusal = r"^schedule LearnedSchedule is trained by .*; use objective=vlb_continuous with decoder=levels$"
    elif continuous and (density or not real):
        refusal = r"^objective ContinuousBound is an integral over continuous t, and timesteps .*; use timesteps=low_discrepancy$"
    elif objective == "objective=flow_map" and not (real or (density and alone(schedule).is_real(None))):
        refusal = (
            r"^objective FlowMap is differentiated in t, and timesteps .*; use timesteps=uniform timesteps.real=true$"
        )
    elif objective == "objective=vlb" and (real or density):
        refusal = r"^objective VariationalBound holds a sum over the steps of the chain, and .*; use timesteps=strat.*$"
    else:
        trained(built(*options), 0.5 * torch.randn(8, 2))
        return
    with pytest.raises(ValueError, match=refusal):
        built(*options)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_learned_range_is_trained_or_refused(schedule):
    options = [schedule, "variance=learned", "objective=hybrid"]
    if fits(schedule, "variance=learned"):
        assert built(*options).reverse.variance.outputs_per_channel == 1
    else:
        with pytest.raises(ValueError, match=r"; use objective=vlb_continuous with |; use variance=fixed_small "):
            built(*options)
