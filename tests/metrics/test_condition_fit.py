"""Regression of what samples have on what was asked for."""

import pytest
import torch

from diffusion_lab.conditions import Condition
from diffusion_lab.metrics.condition_fit import ConditionFit, fits
from tests.metrics.stand_ins import GaussianModel, TinyImages
from tests.metrics.test_score import scored


def test_slope_and_correlation_are_those_of_a_linear_relation():
    """c = s·a + e has slope s, and correlation s/√(s² + var(e)/var(a)); each entry has its own."""
    generator = torch.Generator().manual_seed(0)
    asked, error = (torch.randn(20000, 2, generator=generator) for _ in range(2))
    slope, correlation = fits(asked, torch.tensor([0.5, -2.0]) * asked + torch.tensor([0.0, 1.0]) * error + 3)
    assert slope.tolist() == pytest.approx([0.5, -2.0], abs=0.03)
    assert correlation.tolist() == pytest.approx([1.0, -2 / 5**0.5], abs=0.01)


class Corners(Condition):
    """The first and the last pixel."""

    names = ("first", "last")

    def of(self, x, given):
        return x.flatten(1)[:, [0, -1]]


class Mirrored(GaussianModel):
    """x has the first pixel that was asked for, and the opposite of the last."""

    conditions = ((2,),)

    def decode(self, z, y=None):
        return torch.stack([y[:, 0], z[:, 0, 0, 1], z[:, 0, 1, 0], -y[:, 1]], 1).clamp(-1, 1).reshape(-1, 1, 2, 2)


def test_each_entry_is_measured_and_the_worst_is_named(tmp_path):
    data = TinyImages()
    data.condition_on({"corners": Corners()})
    values = scored(tmp_path, Mirrored(), data, metrics=[ConditionFit()]).values
    for name in ("slope", "correlation"):
        of_entries = values[f"condition_{name}_first"], values[f"condition_{name}_last"], values[f"condition_{name}"]
        assert of_entries == pytest.approx((1, -1, -1))


def test_without_a_vector_there_is_a_reason(tmp_path):
    absent = scored(tmp_path, GaussianModel(num_classes=3), metrics=[ConditionFit()]).protocol["absent"]
    assert absent.keys() == {"condition_slope", "condition_correlation"}
