"""Frozen parts, and LoRA: what trains, what is drawn with while it trains, and what is left when it has ended."""

import pytest
import torch
from torch.nn.utils import parametrize

from diffusion_lab.models.muon import Muon
from diffusion_lab.models.optimization import trained
from diffusion_lab.models.tuning import LoRA, add_adapters, freeze, merge_adapters, merged_parameters
from diffusion_lab.training.ema import EMA
from tests.models.stand_ins import SHAPE, of_digits, quiet_trainer, woken


@pytest.fixture
def model():
    """A small U-Net with attention, whose layers all have weights."""
    made = of_digits()
    woken(made.network)
    return made


def output(network):
    x_t = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(x_t, torch.tensor([3, 30]))


def adapted(model, begun=(), **options):
    add_adapters(model.network, LoRA(**{"rank": 2, **options}), seed=1, begun=begun)
    return model


def changed(model):
    """The model, as if its adapters had been trained."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_up"):
                parameter.normal_(std=0.3, generator=generator)
    return model


def test_at_the_start_nothing_has_changed(model):
    before = output(model.network)
    assert torch.equal(output(adapted(model).network), before)


def test_only_factors_and_what_begins_anew_train(model):
    adapted(model, begun=["output.bias"])
    names = {name for name, _ in trained(model.network.named_parameters())}
    assert {name.rpartition(".")[2] for name in names} == {"lora_down", "lora_up", "bias"}
    assert "output.bias" in names
    assert any("qkv" in name for name in names)


def test_the_sum_is_that_of_the_equation(model):
    """W + alpha/rank · B·A, of a linear layer and of a convolution; without it the weight is the old one."""
    base = dict(model.named_parameters())
    before = {name: weight.clone() for name, weight in base.items()}
    changed(adapted(model, alpha=6, target_modules=["qkv", "conv_1"]))
    after, factors = merged_parameters(model), dict(model.named_parameters())
    assert after.keys() == before.keys()
    different = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name.split(".")[-2] for name in different} == {"qkv", "conv_1"}
    for name in different:
        layer = f"{name.removesuffix('.weight')}.parametrizations.weight.0"
        product = factors[f"{layer}.lora_up"] @ factors[f"{layer}.lora_down"]
        torch.testing.assert_close(after[name], before[name] + 3 * product.view_as(before[name]))


def test_merging_leaves_the_plain_network(model):
    """The same function, with the names, types of layers and copies of a network without adapters."""
    names = set(model.state_dict())
    kinds = [type(part) for part in model.network.modules()]
    changed(adapted(model, target_modules=["qkv", "conv_1", "encoder.input"]))
    expected, copy = output(model.network), model.generator()
    merge_adapters(model.network)
    torch.testing.assert_close(output(model.network), expected)
    assert set(model.state_dict()) == names
    assert [type(part) for part in model.network.modules()] == kinds
    torch.testing.assert_close(output(copy.networks["network"]), expected)
    assert {f"network.{name}" for name, _ in copy.networks["network"].named_parameters()} <= names


def test_a_copy_is_merged_and_its_original_is_not(model):
    changed(adapted(model))
    expected = output(model.network)
    copy = model.generator().networks["network"]
    assert not any(map(parametrize.is_parametrized, copy.modules()))
    assert torch.equal(output(model.network), expected)
    assert any("lora_up" in name for name in model.state_dict())


def test_averages_are_those_of_the_sum(model):
    """And drawing with an average uses it in place of weight and addition."""
    adapted(model)
    average = {name: weights.clone() for name, weights in merged_parameters(model).items()}
    expected = output(model.network)
    model.averages["ema_0.9"] = average
    changed(model)
    raw = output(model.network)
    assert not torch.allclose(raw, expected)
    with model.use_weights("ema_0.9"):
        torch.testing.assert_close(output(model.network), expected)
    torch.testing.assert_close(output(model.generator("ema_0.9").networks["network"]), expected)
    assert torch.equal(output(model.network), raw)


def test_factors_are_adamws_in_muon(model):
    adapted(model)
    optimizer = Muon(trained(model.named_parameters()))
    (matrices,) = (group["params"] for group in optimizer.param_groups if "momentum" in group)
    assert matrices == []
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained(model.named_parameters()))


def test_the_same_seed_gives_the_same_factors(model):
    first, second = (adapted(woken_again(), rank=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def woken_again():
    made = of_digits()
    woken(made.network)
    return made


@pytest.mark.parametrize("names", [["encoder"], ["encoder.input.weight", "output"], ["up.0"]])
def test_frozen_parts_keep_their_weights_and_averages(model, names):
    """Nothing of theirs is in the optimizer; the others train."""
    freeze(model.network, names)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = quiet_trainer(3, ema := EMA([0.5]))
    x_0 = torch.rand(8, *SHAPE) * 2 - 1
    trainer.fit(model.train(), torch.utils.data.DataLoader([(x, 0) for x in x_0], batch_size=4))
    held = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen
    assert frozen <= held < set(before)
    assert all(torch.equal(model.averages["ema_0.5"][name], before[name]) for name in frozen)
    assert len(trainer.optimizers[0].state) == len(before) - len(frozen)
    assert ema.num_updates == 3


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["encodr"], r"no part encodr; did you mean encoder"),
        (["encoder", "middle"], "no part middle"),
        ([""], "no part"),
    ],
)
def test_an_unknown_part_is_named(model, names, said):
    with pytest.raises(ValueError, match=f"freeze: the network has {said}"):
        freeze(model.network, names)


def test_all_frozen_is_refused(model):
    with pytest.raises(ValueError, match="leaves nothing of the network to train"):
        freeze(model.network, [name for name, _ in model.network.named_parameters()])


def test_frozen_layers_get_no_addition(model):
    freeze(model.network, ["encoder"])
    adapted(model)
    assert all(name.startswith("up.") for name, _ in trained(model.network.named_parameters()))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"rank": 0}, "lora.rank=0"), ({"alpha": 0}, "lora.alpha=0"), ({"target_modules": ["qk"]}, "no layer qk; did you mean qkv"),
     ({"target_modules": []}, "no layer is left")],
)  # fmt: skip
def test_options_that_adapt_nothing_are_refused(model, options, said):
    with pytest.raises(ValueError, match=said):
        adapted(model, **options)
