"""DiT and JiT by what every part of the lab relies on when it calls a network, and by the counts of their papers."""

import pytest
import torch
from torch import nn

from diffusion_lab.models.muon import Muon
from diffusion_lab.networks import Transformer
from diffusion_lab.networks.dropout import keyed, set_keys
from diffusion_lab.networks.transformer_blocks import GatedMLP, LayerNorm, TransformerBlock

DIT: dict = {}
JIT = {
    **dict.fromkeys(("rotary", "qk_norm", "rms_norm", "gated_mlp"), True),
    "bottleneck": 128,
    "num_context": None,
}
AXES = pytest.mark.parametrize("sides", [(16,), (8, 8), (4, 4, 6)])
RECIPES = pytest.mark.parametrize("recipe", [DIT, JIT], ids=["dit", "jit"])


def small(recipe, sides=(8, 8), num_classes=3, **options):
    torch.manual_seed(0)
    sizes = {"width": 16, "num_blocks": 3, "num_heads": 2, "patch_size": 2}
    return Transformer(1, 2, sides, num_classes, **{**sizes, **recipe, **options})


def woken(network):
    """With other weights where they start at zero, so that every part matters."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def inputs(sides=(8, 8)):
    x_t = torch.randn(3, 1, *sides, generator=torch.Generator().manual_seed(2))
    return x_t, torch.tensor([0, 500, 999]), torch.tensor([0, 1, 2])


@RECIPES
def test_first_output_is_exactly_zero(recipe):
    assert not small(recipe)(*inputs()).any()


@RECIPES
@AXES
def test_every_parameter_has_a_gradient(recipe, sides):
    network = woken(small(recipe, sides, learned_positions=True))
    network(*inputs(sides)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@RECIPES
@AXES
def test_training_from_the_zero_start_reaches_all(recipe, sides):
    network = small(recipe, sides)
    start = {name: parameter.clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(4):
        optimizer.zero_grad()
        (network(*inputs(sides)) - 1).square().mean().backward()
        optimizer.step()
    assert [name for name, parameter in network.named_parameters() if torch.equal(parameter, start[name])] == []


def test_a_block_starts_as_the_identity():
    network, h = small(JIT), torch.randn(3, 16, 16)
    assert all(torch.equal(block(h, torch.randn(3, 16)), h) for block in network.trunk.blocks)


def test_a_block_is_its_equation():
    """The formula of the module's docstring, with attention as a sum over tokens."""
    block = woken(TransformerBlock(8, 2, LayerNorm, GatedMLP, qk_norm=False, dropout=0)).double()
    h, e = torch.randn(2, 5, 8).double(), torch.randn(2, 8).double()
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (e @ block.modulation.weight.T + block.modulation.bias).split(
        8, 1
    )

    def normed(h, shift, scale):
        deviation = h - h.mean(-1, keepdim=True)
        variance = deviation.square().mean(-1, keepdim=True)
        return deviation / (variance + 1e-6).sqrt() * (1 + scale[:, None]) + shift[:, None]

    q, k, v = block.attention.qkv(normed(h, shift_1, scale_1)).chunk(3, -1)
    heads = [(q[..., c] @ k[..., c].mT / 2).softmax(-1) @ v[..., c] for c in (slice(0, 4), slice(4, 8))]
    expected = h + gate_1[:, None] * block.attention.project(torch.cat(heads, -1))
    a, b = block.mlp.first(normed(expected, shift_2, scale_2)).chunk(2, -1)
    expected = expected + gate_2[:, None] * block.mlp.last(a * a.sigmoid() * b)
    torch.testing.assert_close(block(h, e), expected)


@RECIPES
def test_timesteps_and_labels_matter_row_by_row(recipe):
    network = woken(small(recipe))
    x_t, timesteps, y = inputs()
    output = network(x_t, timesteps, y)
    later, relabelled = network(x_t, torch.tensor([1, 500, 999]), y), network(x_t, timesteps, torch.tensor([0, 1, 0]))
    assert not torch.allclose(output[0], later[0], atol=1e-4)
    torch.testing.assert_close(output[1:], later[1:])
    assert not torch.allclose(output[2], relabelled[2], atol=1e-4)
    torch.testing.assert_close(output[:2], relabelled[:2])
    torch.testing.assert_close(network(x_t, timesteps), network(x_t, timesteps, torch.full((3,), 3)))
    torch.testing.assert_close(network(x_t, timesteps.double(), y), output)
    assert not torch.allclose(network(x_t, timesteps + 0.5, y)[0], output[0], atol=1e-4)


@RECIPES
def test_a_patch_sees_where_it_is(recipe):
    """Patches that change places change more than their places, unlike those of a network without positions."""
    network = woken(small(recipe))
    x_t, timesteps, y = inputs()
    turned = network(x_t.roll(2, dims=3), timesteps, y)
    assert not torch.allclose(turned, network(x_t, timesteps, y).roll(2, dims=3), atol=1e-3)


@RECIPES
@pytest.mark.parametrize("sides", [(4, 16), (7, 10), (12,), (7,), (4, 4, 4), (3, 6, 5)])
def test_it_takes_one_to_three_axes_of_any_length(recipe, sides):
    network = woken(small(recipe, sides))
    output = network(*inputs(sides))
    assert output.shape == (3, 2, *sides)
    assert output.isfinite().all()
    assert network.classifier()(*inputs(sides)[:2]).shape == (3, 2)


@RECIPES
def test_activation_checkpointing_changes_no_gradient(recipe):
    """With the dropout of a training."""
    gradients = []
    for checkpointing in (False, True):
        network = woken(small(recipe, dropout=0.3, activation_checkpointing=checkpointing)).train()
        set_keys(keyed(network), 5, torch.arange(3))
        network(*inputs()).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(map(torch.equal, *gradients))


@RECIPES
def test_evaluation_after_training_drops_nothing(recipe):
    network, plain = woken(small(recipe, dropout=0.3)), woken(small(recipe)).eval()
    set_keys(keyed(network.train()), 5, torch.arange(3))
    assert not torch.allclose(network(*inputs()), plain(*inputs()), atol=1e-3)
    torch.testing.assert_close(network.eval()(*inputs()), plain(*inputs()))


@RECIPES
def test_held_channels_are_the_same_outputs(recipe):
    """And train their own weights only."""
    network = woken(small(recipe, held_channels=1))
    output = network(*inputs())
    torch.testing.assert_close(output, woken(small(recipe))(*inputs()))
    output[:, 1:].square().sum().backward()
    trained = {
        name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert trained == {"output.weight", "output.bias"}


@RECIPES
def test_autocast_output_is_float32_and_close(recipe):
    network = woken(small(recipe))
    expected = network(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        actual = network(*inputs())
    assert actual.dtype == torch.float32
    assert 0 < (actual - expected).norm() / expected.norm() < 0.05


@RECIPES
def test_a_classifier_takes_its_blocks(recipe):
    classifier = woken(small(recipe, num_classes=None).classifier())
    logits = classifier(*inputs()[:2])
    assert logits.shape == (3, 2)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_muon_takes_the_hidden_matrices_only():
    network = small(JIT, learned_positions=True)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    *_, matrices = Muon(network.named_parameters()).param_groups
    inside = {names[id(parameter)].split(".")[-2] for parameter in matrices["params"]}
    assert inside == {"0", "2", "qkv", "project", "first", "last", "modulation"}
    assert not any(names[id(parameter)].startswith(("trunk.inputs", "output.")) for parameter in matrices["params"])


PUBLISHED = [("S", 32.87), ("B", 130.32), ("L", 457.84), ("XL", 674.83)]


@pytest.mark.parametrize(("size", "millions"), PUBLISHED)
def test_dit_has_the_parameters_of_its_paper(size, millions):
    """Peebles & Xie 2023, table 4 (33, 130, 458 and 675 million), on latents of 32×32×4 with a learned variance."""
    with torch.device("meta"):
        network = Transformer(4, 8, 32, 1000, size=size, patch_size=2)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_jit_has_the_parameters_of_its_paper():
    """Li & He 2025: 131 million for B/16 at 256×256."""
    with torch.device("meta"):
        network = Transformer(3, 3, 256, 1000, size="B", patch_size=16, **JIT)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(131.1, abs=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": "M"}, "network.size=M must be one of XXS, XS, S, B, L, XL"),
        ({"width": 10, "num_heads": 4}, "network.width=10 must be a multiple of"),
        ({"patch_size": 0}, "network.patch_size=0"),
        ({"dropout": 1.0}, "network.dropout=1.0"),
        ({"num_context": -1}, "network.num_context=-1"),
        ({"bottleneck": 0}, "network.bottleneck=0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        small(DIT, **options)
