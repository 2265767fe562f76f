import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.models.optimization import Constant, CosineDecay, Optimization, WarmupStableDecay


def test_warm_up_rises_linearly_to_one():
    rate = Constant(warmup_steps=4)
    assert [rate(step, 0.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_falls_from_one_to_zero_over_the_budget():
    rate = CosineDecay(warmup_steps=0)
    assert [rate(0, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0], abs=1e-12)
    assert rate(0, 1 / 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


def test_warmup_stable_decay_is_one_until_its_last_share():
    rate = WarmupStableDecay(warmup_steps=0, decay_share=0.25)
    assert [rate(0, p) for p in (0.0, 0.5, 0.75)] == [1.0, 1.0, 1.0]
    assert [rate(0, p) for p in (0.8125, 0.9375, 1.0)] == pytest.approx([1 - 0.5, 1 - math.sqrt(0.75), 0.0], abs=1e-12)
    warming = WarmupStableDecay(warmup_steps=4)
    assert [warming(step, 0.0) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_longer_training_has_the_same_rates_at_first():
    rate = WarmupStableDecay(warmup_steps=10, decay_share=0.2)
    short, long = ([rate(step, step / steps) for step in range(steps)] for steps in (100, 1000))
    assert short[:80] == long[:80]
    assert short[81] < long[81] == 1.0


def test_the_optimizer_follows_the_rate():
    trainer = SimpleNamespace(max_steps=10, callbacks=[])
    weight = torch.nn.Parameter(torch.zeros(1))
    made = Optimization(partial(torch.optim.SGD, lr=2.0), CosineDecay()).configure([("weight", weight)], trainer)
    rates = []
    for _ in range(10):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 10) for step in range(10)])
