"""An imported network is the published one: its outputs are those that the published code has with the same weights."""

import json
import re
from pathlib import Path

import pytest
import torch

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.from_openai import GUIDED, PRESETS, described
from diffusion_lab.interop.openai_weights import heads_last, published_shapes, to_our_network

from . import by_rule
from .networks import network_of

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())
SMALL, FULL = PUBLISHED["small"], PUBLISHED["full"]
QUICK = ("CIFAR-10, L_hybrid", "LSUN", "guided 64", "classifier")  # together they have every option


@torch.no_grad()
def output(case, legacy_heads=None):
    classifier = case["kind"] == "classifier"
    network, found = network_of(case["code"], case["flags"], classifier)
    legacy = found.legacy_heads if legacy_heads is None else legacy_heads
    network.load_state_dict(to_our_network(by_rule.weights(published_shapes(network)), network, legacy))
    x, timesteps, y = by_rule.inputs(case["batch"], case["size"])
    return network(x, timesteps, y) if found.conditional and not classifier else network(x, timesteps)


def agree(found, case):
    values, rms = by_rule.shown(found)
    assert list(found.shape) == case["shape"]
    assert values == pytest.approx(case["values"], abs=1e-4)
    assert rms == pytest.approx(case["rms"], abs=1e-5)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in SMALL]
)
def test_a_narrow_network_is_the_published_one(name):
    agree(output(SMALL[name]), SMALL[name])


def of_one_network(names):
    """The first of the files whose networks differ in nothing but their weights."""
    first = {}
    for name in names:
        code, flags = PRESETS[name]
        network = re.sub("--(dropout|use_kl|noise_schedule|diffusion_steps) [^ ]+", "", flags).split()
        first.setdefault((code, *sorted(network)), name)
    return list(first.values())


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["cifar10_uncond_50M_500K", "128x128_classifier"])
def test_a_published_checkpoint_as_large_as_it_is(name):
    code, flags = PRESETS[name]
    agree(output(FULL[name] | {"code": code, "flags": flags}), FULL[name])


@pytest.mark.thorough
@pytest.mark.parametrize("name", of_one_network(FULL))
def test_the_network_of_a_published_file_has_as_many_parameters(name):
    code, flags = PRESETS[name]
    with torch.device("meta"):
        network, _ = network_of(code, flags, name.endswith("classifier"))
    assert sum(parameter.numel() for parameter in network.parameters()) == FULL[name]["parameters"]


@pytest.mark.thorough
def test_the_order_of_heads_matters():
    case = SMALL["guided 128"]
    values, _ = by_rule.shown(output(case, legacy_heads=False))
    assert max(abs(a - b) for a, b in zip(values, case["values"], strict=True)) > 1e-2


def test_rows_head_by_head_become_queries_keys_values():
    rows = torch.arange(12)  # 0q 0k 0v 1q 1k 1v, two channels each
    assert heads_last(rows, 2).tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]


TINY = "--image_size 8 --channel_mult 1 --num_channels 32 --num_res_blocks 1 --attention_resolutions 8 --num_heads 1"


@pytest.fixture(scope="module")
def tiny():
    network, _ = network_of(GUIDED, TINY)
    return network, by_rule.weights(published_shapes(network))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("input_blocks.1.0.in_layers.0.weight"), "it has no input_blocks.1.0.in_layers.0.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "it has extra, which that network does not have"),
        (lambda w: w.update({"out.0.bias": torch.zeros(33)}), "out.0.bias is (33,) in the file and (32,)"),
        (lambda w: w.update({"out.0.bias": torch.zeros(32, 2)}), "out.0.bias is (32, 2) in the file and (32,)"),
        (lambda w: w["out.0.bias"].fill_(torch.nan), "out.0.bias holds values that are not finite"),
        (lambda w: w.update({"out.0.bias": torch.zeros(32, dtype=torch.int64)}), "values that are not finite"),
    ],
    ids=["missing", "unknown", "length", "dimensions", "nan", "whole numbers"],
)
def test_weights_of_another_network_are_named(tiny, change, said):
    network, weights = tiny
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    change(weights)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        to_our_network(weights, network, legacy_heads=True)


def test_half_precision_becomes_float32(tiny):
    network, weights = tiny
    halves = {name: tensor.half() for name, tensor in weights.items()}
    assert {tensor.dtype for tensor in to_our_network(halves, network, legacy_heads=True).values()} == {torch.float32}


def test_a_published_file_says_how_its_heads_are_stored():
    legacy = {name for name in PRESETS if described(*PRESETS[name], name.endswith("classifier")).legacy_heads}
    assert PRESETS.keys() - legacy == {"64x64_diffusion"}
