"""benchmarks/units.py: the correlation length of a process that has a known one."""

import math
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def units(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import units

    yield units
    sys.modules.pop("units", None)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_correlation_length_of_an_autoregression(units, axis):
    """x_i = ρ·x_{i−1} + √(1 − ρ²)·ε has the autocorrelation ρ^lag, which is 1/e at −1/log ρ."""
    generator, rho = torch.Generator().manual_seed(0), math.exp(-1 / 5)
    eps = torch.randn(60, 500, 4, generator=generator)
    steps = [eps[0]]
    for row in eps[1:]:
        steps.append(rho * steps[-1] + math.sqrt(1 - rho**2) * row)
    x = torch.stack(steps, dim=1).movedim(1, 1 + axis)  # (500, 60, 4) or (500, 4, 60)
    length, error = units.with_error(lambda x: units.correlation_length(x, axis), x)
    assert abs(length - 5) < 4 * error
    assert error < 0.2
