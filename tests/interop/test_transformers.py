"""DiT of diffusers and JiT, as azula runs it, and the models that we make of their files: the same outputs."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.opening import opened

from .strangers import STEPS, model_of, random_weights

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")

DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 3,
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 3,
    "out_channels": 6,
    "num_embeds_ada_norm": 5,
}


def dit_folder(folder, **options):
    """A DiT with one embedder for all blocks, as trained ones have it, and its scheduler."""
    import diffusers

    network = diffusers.DiTTransformer2DModel(**{**DIT, **options})
    random_weights(network)
    first = network.transformer_blocks[0].norm1.emb.state_dict()
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    network.save_pretrained(folder / "transformer")
    diffusers.DDIMScheduler(STEPS, clip_sample=False).save_pretrained(folder / "scheduler")
    return network


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize(("eps", "error"), [(1e-6, 1e-5), (1e-5, 1e-4)])
def test_a_dit_of_diffusers_is_ours(tmp_path, eps, error):
    """DiT's norms have ε = 1e-6; diffusers writes 1e-5 where nobody says so."""
    pytest.importorskip("diffusers")
    theirs = dit_folder(tmp_path, norm_eps=eps)
    found = opened(tmp_path, {})
    assert (found.shape, found.num_classes) == ((3, 8, 8), 5)
    model = model_of(found)
    x_t, t, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 20, 39]), torch.tensor([0, 3, 4, 5])
    with torch.no_grad():
        expected, actual = theirs(x_t, t, y).sample, model.network(x_t, t, y)
    assert expected.std() > 0.3
    torch.testing.assert_close(actual, expected, atol=error, rtol=error)


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"activation_fn": "gelu"}, "activation_fn=gelu is not supported"),
        ({"attention_bias": False}, "attention_bias=False is not supported"),
        ({"out_channels": 5}, "one or two outputs"),
    ],
)
def test_another_dit_is_refused(tmp_path, options, said):
    pytest.importorskip("diffusers")
    dit_folder(tmp_path, **options)
    with pytest.raises(CheckpointError, match=said):
        opened(tmp_path, {})


@pytest.mark.needs("diffusers")
def test_blocks_with_embedders_of_their_own_are_refused(tmp_path):
    pytest.importorskip("diffusers")
    dit_folder(tmp_path)
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"][0, 0] += 1
    save_file(tensors, file)
    found = opened(tmp_path, {})
    with pytest.raises(CheckpointError, match="embeds the time and the class once"):
        model_of(found)


def jit_of(monkeypatch):
    """A small JiT, and its positions, which are fixed."""
    pytest.importorskip("azula")
    monkeypatch.setattr(torch, "compile", lambda function: function)  # its blocks are compiled where they are defined
    from azula.plugins.jit._src.model import JiT

    sizes = {"hidden_size": 32, "depth": 6, "num_heads": 2, "num_classes": 5, "bottleneck_dim": 20}
    theirs = JiT(16, 4, 3, **sizes, in_context_len=3, in_context_start=2).eval()
    positions = theirs.pos_embed.clone()
    random_weights(theirs)
    theirs.pos_embed.data.copy_(positions)
    return theirs


@pytest.mark.needs("azula")
@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        ("pos_embed", lambda tensor: tensor + 0.1, "pos_embed is not JiT's sinusoids"),
        ("in_context_posemb", lambda tensor: tensor[0], "in_context_posemb has not 3 axes"),
        ("in_context_posemb", lambda tensor: tensor[:0], "trunk.inputs.context is"),
    ],
)
def test_other_positions_are_refused(tmp_path, monkeypatch, name, other, said):
    state = jit_of(monkeypatch).state_dict()
    torch.save(state | {name: other(state[name])}, tmp_path / "jit.pth")
    with pytest.raises(CheckpointError, match=said):
        model_of(opened(tmp_path / "jit.pth", {}))


@pytest.mark.needs("azula")
@pytest.mark.parametrize("training", [False, True])
def test_a_jit_of_azula_is_ours(tmp_path, training, monkeypatch):
    """From a state dict, and from a training's file, whose average is read; at the time of our chain's signal and noise."""
    theirs = jit_of(monkeypatch)
    state = theirs.state_dict()
    if training:
        average = {f"net.{name}": tensor for name, tensor in state.items()}
        state = {"model": {name: 2 * tensor for name, tensor in average.items()}, "model_ema1": average, "epoch": 3}
    torch.save(state, tmp_path / "jit.pth")

    found = opened(tmp_path / "jit.pth", {})
    assert (found.shape, found.num_classes) == ((3, 16, 16), 5)
    model = model_of(found)
    x_t, t, y = torch.randn(4, 3, 16, 16), torch.tensor([1, 2, 500, 1000]), torch.tensor([0, 3, 4, 5])
    u = model.process.sigma(t)
    assert float(u[-1]) > 0.999
    with torch.no_grad():
        expected, actual = theirs(x_t, (1 - u).float(), y), model.network(x_t, t - 1, y)
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
