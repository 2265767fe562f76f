"""diffusion-lab export: what is written draws what our own sampler draws, without diffusion_lab."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from diffusion_lab import load
from diffusion_lab.diffusion import SampleNoise

from .conftest import STRIDED, TINY, TRANSFORMERS, files, scored

WIDE = ["network.base_channels=128", "network.channel_multipliers=[1,1]", "network.attention_resolutions=[4]"]
WIDE += ["network.head_channels=64", "condition=classes", "score=false"]
DDIM = ["sampler=ddim", "sampler.spacing.num_steps=5"]


@pytest.fixture
def small(lab, trained_model, request):
    """A small conditional model, the newest of the working directory; a U-Net, or the parameter."""
    folder = lab.folder / "outputs" / "models" / "small"
    shutil.copytree(trained_model(getattr(request, "param", "diffusion_conditional")), folder)
    return folder


def randomised(folder: Path) -> None:
    """Weights that say something: after two steps of training most outputs are still 0."""
    file = folder / "raw.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file({k: 0.03 * torch.randn(v.shape, generator=generator) for k, v in load_file(file).items()}, file)


def card_of(folder: Path) -> tuple[dict, str]:
    """The front matter and the text of a card."""
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize(
    ("options", "guidance", "label"),
    [
        ([], {}, None),
        pytest.param(
            ["condition=clusters"], {"guidance": "classifier_free", "scale": 2.5}, 29, marks=pytest.mark.thorough
        ),
        ([*TRANSFORMERS["dit"], "condition=classes"], {"guidance": "classifier_free", "scale": 2.5}, 9),
    ],
    ids=["default", "clusters, guided", "dit, guided"],
)
def test_the_pipeline_draws_what_our_sampler_draws(lab, options, guidance, label):
    """README's model, whose norms have different numbers of groups; and a DiT, whose frequencies of t are not diffusers'."""
    diffusers = pytest.importorskip("diffusers")
    lab.given("train", *options, "trainer.max_steps=2", "score=false", "val.every_n_steps=0")
    (folder,) = (lab.folder / "outputs" / "models").iterdir()
    randomised(folder)
    guided = ["guidance=classifier_free", "guidance.scale=2.5"] if guidance else []
    lab.done("export", "weights=raw", "to=pipe", *DDIM, *guided)
    *_, ours = load(folder).trajectory(
        4, seed=3, sampler="ddim", num_steps=5, condition=label, weights="raw", **guidance
    )
    pipeline = diffusers.DiffusionPipeline.from_pretrained("pipe", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    x_T = SampleNoise(3, torch.arange(4)).initial((1, 8, 8))
    theirs = pipeline(latents=x_T, class_labels=label, output_type="pt").images * 2 - 1
    assert ours.std() > 0.1
    assert torch.allclose(theirs, ours.clamp(-1, 1), atol=1e-3)
    part, theirs = (
        ("transformer", "DiTTransformer2DModel")
        if (lab.folder / "pipe" / "transformer").is_dir()
        else ("unet", "UNet2DModel")
    )
    with pytest.raises((TypeError, NotImplementedError)):  # never another function without a word
        getattr(diffusers, theirs).from_pretrained("pipe", subfolder=part)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("small", "sampler"),
    [("diffusion_conditional", "strided"), ("dit", "ddim"), ("jit", "strided")],
    indirect=["small"],
)
def test_the_program_draws_what_our_sampler_draws(lab, small, sampler):
    """The U-Net with the other sampler: test_shapes.py."""
    lab.done("export", "format=program", "batch_size=4", f"sampler={sampler}", "sampler.spacing.num_steps=3")
    draw = torch.export.load("export/sampler.pt2").module()
    keyed = SampleNoise(3, torch.arange(4))
    x_T, y = keyed.initial((1, 8, 8)), torch.full((4,), 7)
    model = load(small)
    ours = model.sample(4, seed=3, sampler=sampler, num_steps=3, condition=7)
    times = model.module.process.respace(model.module.sampler.spacing(model.module.process)).timesteps + 1
    noise = [torch.stack([keyed(int(t), x_T) for t in times.flip(0)])] if sampler != "ddim" else []
    assert torch.allclose(draw(x_T, *noise, y), ours, atol=1e-3)


def test_the_card_says_what_it_is(lab, monkeypatch):
    """With the scores of this model, and not those of another or of a file that is none."""
    lab.given("train", *TINY, *STRIDED)
    (own,) = (lab.folder / "outputs" / "runs").iterdir()
    (score,) = scored(lab.folder)
    fingerprint, values = score["protocol"]["fingerprint"], score["values"]
    other = {"fingerprint": "another"}
    for name, content in {
        "other": score | {"protocol": score["protocol"] | other},
        "none": {"values": {"a": 1}},
    }.items():
        shutil.copytree(own, own.with_name(name))
        (own.with_name(name) / "metrics.json").write_text(json.dumps(content))
    formats = {"diffusers": lambda *_: ({"a": b""}, "Run it.", "x")}
    monkeypatch.setattr("diffusion_lab.commands.export._FORMATS", formats)
    code, _, err = lab("export", "to=new/card")
    assert code == 0, err
    assert "none/metrics.json is not a valid score: protocol is missing" in err
    assert files(lab.folder / "new") == ["card/README.md", "card/a"]
    head, text = card_of(lab.folder / "new" / "card")
    assert {"library_name": "x", "license": "unknown"}.items() <= head.items()
    assert "CC BY 4.0" in text
    assert fingerprint in text
    assert "| `schedule` | `cosine` |" in text
    assert text.count(f"| `fd_pixels` | {values['fd_pixels']:.3f} |") == 1
    assert str(lab.folder) not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["weights=ema_2"], "ema_2"),
        (["to=outputs"], "to=outputs already exists and is not overwritten"),
        (["guidance=classifier_free", "guidance.interval=[1,9]"], "the pipeline does not support guidance"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_refused(lab, small, options, said):
    lab.refused("export", *options, said=said)


@pytest.mark.thorough
def test_models_that_no_program_draws_are_refused(lab, trained_model):
    for name in ("gan", "diffusion_points", "vae"):
        shutil.copytree(trained_model(name), lab.folder / name)
    for name in ("gan", "diffusion_points"):
        lab.refused("export", f"model_dir={name}", said="format=program")
    lab.refused("export", "model_dir=vae", "format=program", "sampling=draws", said="use sampling=means")
