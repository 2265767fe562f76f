"""benchmarks/estimate.py: a recipe's hours and memory follow from counted operations."""

import importlib.util
import sys
from pathlib import Path

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusion_lab.networks import Transformer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "estimate.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("estimate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "estimate", module)  # its dataclass looks it up
    spec.loader.exec_module(module)
    return module


@pytest.mark.thorough
@pytest.mark.usefixtures("hydra_in_less_time")
def test_hours_follow_from_operations(script):
    recipe = script.Recipe("experiment=fast_imagenet64 network=diffusion/dit network.size=XXS", (3, 16, 16))
    found = script.estimate(recipe, peak=1e15, mfu=0.5)
    images, giga = found["million images"], found["GFLOPs an evaluation"]
    assert found["hours of training"] == pytest.approx(3 * images * giga * 1e15 / (0.5 * 1e15) / 3600)
    assert found["with network.activation_checkpointing=true"] < found["GB of activations"] / 3


def test_attention_keeps_no_matrix_of_weights(script):
    """Four times as many tokens keep four times as much, beside what does not depend on them."""

    def kept(side):
        with FakeTensorMode(allow_non_fake_inputs=True):
            network = Transformer(3, 3, side, 10, size="XXS", patch_size=2)
            return script.kept_bytes(network, (3, side, side), 2) - script.kept_bytes(network, (3, side, side), 1)

    assert kept(64) / kept(32) == pytest.approx(4, rel=0.03)
