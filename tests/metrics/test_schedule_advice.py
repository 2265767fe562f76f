from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.analysis.advice import ScheduleAdvice
from diffusion_lab.diffusion import CosineSchedule, GaussianDiffusion
from diffusion_lab.metrics import schedule_advice
from diffusion_lab.metrics.settings import Evaluation

PROCESS = GaussianDiffusion(CosineSchedule(100))


def scores(monkeypatch, own, last):
    advice = ScheduleAdvice(own, 1, torch.tensor([3, 40, last]), 2.0, 2, [2, 3], [2.2, 2.0], [3.0, 2.5])
    monkeypatch.setattr(schedule_advice, "schedule_advice", lambda generator, x_0, y: advice)
    subject = SimpleNamespace(
        diffusion=SimpleNamespace(process=PROCESS),
        data=SimpleNamespace(choosing_split="train"),
        settings=Evaluation(),
        batches=lambda *_: iter([(torch.zeros(4, 1, 2, 2), None, torch.arange(4))]),
    )
    return schedule_advice.StepAdvice().score(subject)


def test_the_advice_is_a_gain_a_number_and_options(monkeypatch):
    found = scores(monkeypatch, own=2.25, last=90)
    assert found.values == {"advised_gain": 0.25, "advised_steps": 2}
    options = dict(part.split("=") for part in found.details["advised_gain"].split() if "=" in part)
    assert options["sampler.spacing.num_steps"] == "3"
    assert float(options["sampler.spacing.log_snr_min"]) == pytest.approx(
        float(PROCESS.log_snr(torch.tensor([90]))), rel=1e-3
    )


def test_without_a_gain_no_options_are_advised(monkeypatch):
    found = scores(monkeypatch, own=2.0, last=100)
    assert found.values["advised_gain"] == 0
    assert "=" not in found.details["advised_gain"]
