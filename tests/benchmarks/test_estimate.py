"""benchmarks/estimate.py: a recipe's hours and memory follow from counted operations."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "estimate.py"


@pytest.mark.thorough
def test_hours_follow_from_operations():
    spec = importlib.util.spec_from_file_location("estimate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    one, half = (module.estimate("fast_cifar10", 1e15, mfu) for mfu in (0.5, 0.25))
    assert half["hours of training"] == pytest.approx(2 * one["hours of training"])
    images, giga = one["million images"], one["GFLOPs an evaluation"]
    assert one["hours of training"] == pytest.approx(3 * images * giga * 1e15 / (0.5 * 1e15) / 3600)
    assert one["with network.activation_checkpointing=true"] < one["GB of activations"] / 3
