"""Every pair among schedules, predictions and samplers trains, samples and scores on points, or is refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate

from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.optimization import Constant, Optimization

from .test_conf import choices, composed

SCHEDULES, PREDICTIONS, SAMPLERS = choices("schedule"), choices("prediction"), choices("sampler")


def combinations() -> list[tuple[str, str, str]]:
    """Few triples that hold every pair: the next one is that with the most pairs that are still missing."""
    triples = [(a, b, c) for a in SCHEDULES for b in PREDICTIONS for c in SAMPLERS]
    pairs = {triple: {(i, j, triple[i], triple[j]) for i in range(3) for j in range(i)} for triple in triples}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        chosen.append(max(triples, key=lambda triple: len(pairs[triple] & missing)))
        missing -= pairs[chosen[-1]]
    return chosen


def built(schedule: str, prediction: str, sampler: str, *options: str) -> DiffusionModel:
    named = [f"schedule={schedule}", f"prediction={prediction}", f"sampler={sampler}", "schedule.num_timesteps=40"]
    steps = [] if sampler == "ddpm" else ["sampler.spacing.num_steps=4"]
    cfg = composed("data=gaussian", *named, *steps, *options)
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
        label_dropout=0.1,
        seed=1,
        **parts,
    )


@pytest.mark.parametrize(("schedule", "prediction", "sampler"), combinations())
def test_a_pair_trains_samples_and_scores(schedule, prediction, sampler):
    model = built(schedule, prediction, sampler, "variance=fixed_small", "objective=vlb")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x_0 = 0.5 * torch.randn(32, 2)
    for step in range(2):
        t, w = model.timesteps(32, torch.Generator().manual_seed(step))
        terms = model.objective(model.process, model.reverse, x_0, t, torch.randn(32, 2))
        (w * terms["loss"]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        samples = model.sample(torch.arange(6), seed=0)
        likelihood = model.likelihood(x_0[:4], None, 0, torch.arange(4), None)
    assert samples.shape == (6, 2)
    assert samples.isfinite().all()
    assert likelihood.bits_per_dim.isfinite().all()
    looks = model.sampler.looks(len(likelihood.curve["t"]))
    assert model.nfe == len(looks)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_learned_range_is_trained_or_refused_in_one_sentence(schedule):
    if schedule in ("rectified", "edm"):
        with pytest.raises(
            ValueError, match=r"^variance LearnedRange needs .* use variance=fixed_small objective=simple$"
        ):
            built(schedule, "velocity", "strided", "variance=learned")
    else:
        assert built(schedule, "velocity", "strided", "variance=learned").reverse.variance.outputs_per_channel == 1
