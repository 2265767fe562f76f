"""`diffusion_lab.load`: a trained model from Python draws, scores and refuses as the commands do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import load
from diffusion_lab.config.sample_options import Drawing
from diffusion_lab.config.scores import planned_scores
from diffusion_lab.data.densities import TwoMoons
from diffusion_lab.sampling import ClassifierFree, ClassifierGuidance, DDIMSampler, EvenSpacing, LogSNRSpacing
from diffusion_lab.training.ranks import request_of

from .conftest import TRANSFORMERS

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), flags=re.DOTALL)
GUIDED = ["sampler=ddim", "sampler.spacing.num_steps=3", "condition=3"]
GUIDED += ["guidance=classifier_free", "guidance.scale=2.0"]


@pytest.fixture
def model(lab, trained_model, request):
    """A conditional model, the newest of the working directory; a U-Net, or the parameter."""
    trained = trained_model(getattr(request, "param", "diffusion_conditional"))
    shutil.copytree(trained, lab.folder / "outputs" / "models" / "small")
    return load()


NETWORKS = ["diffusion_conditional", *TRANSFORMERS]
EVERY_NETWORK = pytest.mark.parametrize("model", NETWORKS, indirect=True)
ONE_PLAINLY = pytest.mark.parametrize(
    "model", [NETWORKS[0], *(pytest.param(name, marks=pytest.mark.thorough) for name in TRANSFORMERS)], indirect=True
)


@ONE_PLAINLY
def test_it_draws_what_the_command_draws_in_every_format(lab, model):
    assert lab("sample", *GUIDED, "num_images=5", "seed=7", "format=npz")[0] == 0
    with np.load("samples/samples.npz") as archive:
        drawn = archive["arr_0"]
    options = {"seed": 7, "sampler": "ddim", "num_steps": 3, "condition": 3}
    options |= {"guidance": "classifier_free", "scale": 2.0}
    x = model.sample(5, **options)
    assert (x.dtype, x.shape) == (torch.float32, (5, 1, 8, 8))
    assert -1 <= x.min() < x.max() <= 1
    assert np.array_equal(model.sample(5, format="numpy", **options), drawn)
    assert np.array_equal([np.asarray(image) for image in model.sample(5, format="pil", **options)], drawn[..., 0])
    assert lab("sample", *GUIDED, "num_images=5", "seed=7")[0] == 0
    with Image.open("samples/samples.png") as grid:
        assert np.array_equal(model.sample(5, format="grid", **options), grid)
    *_, x_0 = model.trajectory(5, **options)
    assert torch.allclose(x_0, x, atol=0.1)  # which is rounded to a grey level
    assert not np.array_equal(model.sample(5, format="numpy", **options | {"seed": 8}), drawn)


def test_what_is_not_said_is_as_it_was_trained(model):
    trained = repr(model.module.sampler)
    model.sample(1, sampler="heun", num_steps=2)
    assert "Heun" in repr(model.module.sampler)
    model.sample(1)
    assert repr(model.module.sampler) == trained
    model.trajectory(1, sampler="heun", num_steps=2)
    assert "Heun" in repr(model.module.sampler)


@dataclass(frozen=True)
class HalfNoise(DDIMSampler):
    """A user's own."""

    eta: float = 0.5


def test_an_object_is_the_choice_of_its_values(model):
    drawn = model.sample(3, 3, sampler="ddim", num_steps=3, guidance="classifier_free", scale=3.0)
    ddim, guidance = DDIMSampler(EvenSpacing(3)), ClassifierFree(3)
    assert torch.equal(model.sample(3, 3, sampler=ddim, guidance=guidance), drawn)
    assert torch.equal(model.sample(3, 3, sampler=DDIMSampler(EvenSpacing(9)), num_steps=3, guidance=guidance), drawn)
    model.sample(1, sampler=HalfNoise(LogSNRSpacing(4, log_snr_min=-6)), overrides=["sampler.eta=0.25"])
    assert model.module.sampler == HalfNoise(LogSNRSpacing(4, log_snr_min=-6), 0.25)


def test_a_class_of_a_notebook_may_change(model, monkeypatch):
    for eta in (0.25, 0.75):
        own = dataclass(frozen=True)(type("Own", (DDIMSampler,), {"__annotations__": {"eta": float}, "eta": eta}))
        own.__module__ = "__main__"
        monkeypatch.setattr("__main__.Own", own, raising=False)
        model.sample(1, sampler=own(EvenSpacing(2)))
        assert type(model.module.sampler) is own
    with pytest.raises(ValueError, match="put your class into a file"):
        model.score(sampler=own(EvenSpacing(2)), metrics="quick", features="pixels", num_samples=4)


@ONE_PLAINLY
def test_images_are_noised_and_their_bits_are_counted(model):
    x_0, generator = model.images("test", 4), model.module.generator("raw")
    assert torch.equal(x_0, next(model.data.batches("test", 4))[0])
    process, eps = generator.process, torch.randn_like(x_0)
    noised = process.q_sample(x_0, process.full(process.num_timesteps, x_0), eps)
    assert (noised - eps).square().mean() < 0.2
    given = generator.bits_per_dim(x_0, condition=torch.full((4,), 3))
    assert torch.equal(generator.bits_per_dim(x_0, condition=3), given)
    assert not torch.equal(generator.bits_per_dim(x_0), given)
    torch.testing.assert_close(generator.bits_per_dim(x_0[:2], 3), given[:2])
    with pytest.raises(ValueError, match=r"x_0 has the shape \(8, 8\): it must be \(B, 1, 8, 8\)"):
        generator.bits_per_dim(x_0[0, 0])
    with pytest.raises(ValueError, match="There is no split 'all'"):
        model.images("all")


def test_edits_are_those_of_the_command(lab, model):
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save("mask.png")
    for edit, options in (
        ({"denoise": (5, 12)}, ["denoise.image=5", "denoise.t=12"]),
        ({"interpolate": (5, 8)}, ["interpolate.images=[5,8]"]),
        ({"inpaint": (5, Path("mask.png"))}, ["inpaint.image=5", "inpaint.mask=mask.png"]),
    ):
        lab.done("sample", *options, "num_images=2", "condition=3", "sampler.spacing.num_steps=2")
        with Image.open("samples/samples.png") as grid:
            assert np.array_equal(model.edit(2, 3, **edit, num_steps=2, format="grid"), grid)
    for edit in ({}, {"inpaint": (5, "mask.png", 30)}):
        with pytest.raises(ValueError, match="give inpaint="):
            model.edit(2, **edit)
    with pytest.raises(ValueError, match="give only one"):
        model.edit(2, denoise=(5, 12), interpolate=(5, 8))


NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


@pytest.fixture
def named(lab, model):
    """The folder of a model whose data have names for their classes."""
    file = model.path / "training.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "conditions": {"classes": {"names": NAMES}}}))
    return model.path


def test_a_class_is_a_number_or_a_name(lab, named):
    model = load(named)
    numbers = model.sample(4, condition=[3, 5, 7])
    assert torch.equal(model.sample(4, condition=["Dress", 5, "sneaker"]), numbers)
    lab.done("sample", "num_images=4", "format=npz", "condition=[3,5,sneaker]")
    with np.load("samples/samples.npz") as archive:
        assert archive["arr_1"].tolist() == [3, 5, 7, 3]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("snaeker", "condition=snaeker: outputs/models/small has the classes 0 … 9, such as Sneaker"),
        ("1999", "such as T-shirt/top, Trouser"),
        ("[0,1,2]", "give from one to num_images=2 classes"),
    ],
)
def test_a_class_that_is_not_there_is_refused(lab, named, label, said):
    lab.refused("sample", "model_dir=outputs/models/small", "num_images=2", f"condition={label}", said=said)


def test_chains_start_from_a_given_x_T(model):
    x_T, ddim = next(model.trajectory(3, seed=7)), {"sampler": "ddim", "num_steps": 3}
    assert torch.equal(model.sample(3, seed=7, x_T=x_T, **ddim), model.sample(3, seed=7, **ddim))
    assert torch.equal(next(model.trajectory(3, x_T=x_T)), x_T)
    other = model.sample(3, seed=7, x_T=x_T.flip(0), overrides=["batch_size=2"], condition=4, **ddim)
    assert torch.allclose(other.flip(0), model.sample(3, seed=7, condition=4, **ddim), atol=1e-5)
    with pytest.raises(ValueError, match=re.escape("for 4 images it must be (4, 1, 8, 8)")):
        model.sample(4, x_T=x_T)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["condition=30"], {"condition": 30}),
        (["sampler.spacing.num_steps=many"], {"num_steps": "many"}),
        (["schedule=linear"], {"overrides": ["schedule=linear"]}),
    ],
    ids=str,
)
def test_a_mistake_is_a_value_error_with_the_sentence(lab, model, options, arguments):
    code, _, err = lab("sample", "model_dir=outputs/models/small", *options)
    assert code == 1
    with pytest.raises(ValueError, match=re.escape(err.strip().removeprefix("diffusion-lab sample: "))):
        load("outputs/models/small").sample(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"overrides": ["to=folder"]}, "to=folder has no effect in a call from Python"),
        ({"overrides": ["hydra/launcher=local"]}, "hydra/launcher=local has no effect"),
        ({"overrides": ["devices=2"]}, "one device"),
        ({"overrides": "sampler=ddim"}, "overrides='sampler=ddim' is not a list: give ['sampler=ddim']"),
        ({"guidance": ClassifierGuidance(len, 3)}, "guidance: no option can hold a builtin_function_or_method"),
        ({"format": "jpeg"}, "format=jpeg: choose one of tensor, numpy, pil, grid"),
    ],
    ids=str,
)
def test_what_would_have_no_effect_is_refused(model, arguments, said):
    with pytest.raises((ValueError, TypeError), match=re.escape(said)):
        model.sample(1, **arguments)


def test_another_sampler_makes_another_generator(model):
    """It draws as that of `evaluate sampler=…` does, and the first one draws as before."""
    options = ["sampler=ddim", "sampler.spacing.num_steps=2", "sampler.eta=0.5"]
    cfg = model.config("evaluate", options)
    (planned,) = planned_scores(cfg, request_of(cfg, prefix=""))
    scored = planned.plan.source.generator
    model.sample(1)
    first, indices, y = model.module.generator("ema_0.9"), torch.arange(3), torch.tensor([0, 1, 2])
    drawn, protocol = first.sample(indices, 5, y), first.protocol()
    other = replace(first, sampler=DDIMSampler(EvenSpacing(2), eta=0.5))
    assert torch.equal(other.sample(indices, 5, y), scored.sample(indices, 5, y))
    assert other.protocol() == scored.protocol()
    assert (other.nfe, first.nfe) == (2, 6)
    assert torch.equal(first.sample(indices, 5, y), drawn)
    assert first.protocol() == protocol != other.protocol()


def test_points_are_no_images_and_none_is_drawn(trained_model, monkeypatch):
    points = load(trained_model("diffusion_points"))
    monkeypatch.setattr(Drawing, "images", None)
    with pytest.raises(ValueError, match="the samples are points"):
        points.sample(2, format="pil")


def test_no_tracker_logs_a_score_from_python(lab, model):
    settings = lab.folder / "conf" / "local" / "default.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("defaults:\n  - override /logger: tensorboard\n")
    options = {"sampler": "ddim", "num_steps": 2, "num_samples": 4, "metrics": "quick", "features": "pixels"}
    assert not [*model.score(**options).path.rglob("*tfevents*")]


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a model directory"):
        load(tmp_path)
    with pytest.raises(ValueError, match="outputs"):
        load(outputs=tmp_path / "outputs")


def test_own_choices_are_found_in_their_folder(lab, model):
    own = lab.folder / "my choices" / "sampler" / "slow.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults:\n  - ddim\n  - _self_\neta: 0.5\n")
    with pytest.raises(ValueError, match="sampler=slow"):
        model.sample(1, sampler="slow")
    own_model = load(config_dir="my choices")
    own_model.sample(1, sampler="slow", num_steps=2)
    assert own_model.module.sampler.eta == 0.5


@pytest.mark.thorough
@EVERY_NETWORK
def test_it_scores_as_the_command_does(lab, model):
    options = ["sampler=ddim", "sampler.spacing.num_steps=2", "metrics=[quick]", "features=pixels"]
    lab.done("evaluate", *options, "evaluation.num_samples=8")
    (metrics,) = lab.folder.glob("outputs/runs/*/metrics.json")
    written = metrics.read_bytes()
    what = {"num_samples": 8, "metrics": ["quick"], "features": "pixels"}
    score = model.score(sampler="ddim", num_steps=2, **what)
    assert score.path.resolve() == metrics.parent
    assert score.values == json.loads(written)["values"]
    assert metrics.read_bytes() == written  # it was there already
    assert model.score(model.data, sampler=DDIMSampler(EvenSpacing(2)), **what) == score
    assert model.score(overrides=[*options, "sampler.spacing.num_steps=3"], num_samples=8).path != score.path
    with pytest.raises(ValueError, match=r"evaluation\.weights=ema_2: choose one of auto, raw, ema_0.9"):
        model.score(weights="ema_2")
    with pytest.raises(ValueError, match="was not trained on this"):
        model.score(TwoMoons(batch_size=16, seed=0), **what)


@pytest.mark.thorough
def test_the_page_does_what_it_says(model, capfd):
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save("mask.png")
    namespace = {}
    for block in BLOCKS:
        exec(block.replace("(5, 400)", "(5, 12)"), namespace)  # this chain has 12 steps
    assert namespace["x"].shape == (4, 1, 8, 8)
    assert namespace["same"] == namespace["score"]
    assert str(namespace["score"].path) in capfd.readouterr().out


def test_the_package_alone_imports_nothing_heavy():
    check = "import sys, diffusion_lab; print({'torch', 'hydra', 'numpy', 'lightning'} & sys.modules.keys())"
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        __import__("diffusion_lab").lod  # noqa: B018
