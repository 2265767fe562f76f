"""objective=flow_map and sampler=flow_map, as a user asks for them."""

import shutil

import numpy as np
import pytest
import torch

from diffusion_lab import load
from diffusion_lab.config import guiding_models
from diffusion_lab.config.untrusted import load_config
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.store import ModelDirectory, newest_model

from .conftest import NARROW, TINY, scored

FLOW_MAP = ["objective=flow_map", "variance=fixed_small"]
FEW = [
    *("trainer.max_steps=2", "val.every_n_steps=2", "ema.decays=[0.9]", "snapshots.averages=0"),
    *("evaluation.num_samples=8", "features=pixels", "metrics=[frechet_distance,network_evaluations,bits_per_dim]"),
    "metrics.bits_per_dim.num_images=4",
]
POINTS = ["data=two_moons", "network.hidden=8", "schedule.num_timesteps=24", *FEW]
SERIES = ["data=gaussian_field", "data.shape=[1,12]", "data.num_train=40", "data.num_test=20", *TINY]
OF_IMAGES = [option for option in TINY if not option.startswith("network.")]
ARRAYS = ["data=arrays", "data.train=x.npy", "data.train_labels=y.npy", "data.train_vectors=v.npy"]
ARRAYS += ["data.train_fields=f.npy", "condition=[classes,field,vector]", "guidance=classifier_free"]
KINDS = {  # of a residual, network, data and conditions
    "points": ["objective/residual=eulerian", *POINTS, "condition=classes", "objective.guidance=1.5"],
    "dit": ["objective/residual=lagrangian", *ARRAYS, "network=diffusion/dit", *NARROW, *OF_IMAGES],
    "unet": ["objective/residual=eulerian", *ARRAYS, *TINY],
    "jit": ["objective/residual=progressive", "network=diffusion/jit", *NARROW, *OF_IMAGES, "prediction=start"],
    "series": ["objective/residual=consistency", *SERIES, "objective.to_clean_end=true", "sampler.restarts=true"],
}


@pytest.fixture
def arrays(lab):
    """Images with a class, a vector and a field."""
    random = np.random.default_rng(0)
    np.save(lab.folder / "x.npy", random.integers(0, 256, (40, 8, 8), dtype=np.uint8))
    np.save(lab.folder / "y.npy", np.arange(40) % 3)
    np.save(lab.folder / "v.npy", random.normal(300, 20, (40, 2)))
    np.save(lab.folder / "f.npy", random.integers(0, 256, (40, 2, 4, 4), dtype=np.uint8))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_map_goes_through_all_commands(lab, arrays, kind):
    """Its samples need one evaluation and have no likelihood; those of its velocity have a bound."""
    options = [*KINDS[kind], *FEW, *FLOW_MAP]
    lab.done("train", *options)
    lab.done("evaluate", "sampler=ddim", "sampler.spacing.num_steps=3")
    lab.done("evaluate", "sampler.spacing.num_steps=2")
    by_sampler = {
        (run["values"]["nfe"], "DDIM" in run["protocol"]["model"]["sampler"]): run for run in scored(lab.folder)
    }
    guided = 2 if "guidance=classifier_free" in options else 1
    assert {*by_sampler} == {(guided, False), (2 * guided, False), (3 * guided, True)}
    for (_, is_ddim), run in by_sampler.items():
        assert ("bits_per_dim" in run["values"]) == is_ddim
        assert is_ddim or "sampler=ddim" in run["protocol"]["absent"]["bits_per_dim"]
    lab.done("sample", "num_images=3", "format=npz", "trajectory=true")
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        drawn = archive["arr_0"]
    model = load()
    assert "ema_0.9" in model.module.weight_names
    assert np.array_equal(model.sample(3, format="numpy"), drawn)
    for weights in ("raw", "ema_0.9"):
        assert model.sample(2, weights=weights, num_steps=4).isfinite().all()
    for sampler in ("heun", "dpm_solver_sde", "strided"):
        assert model.sample(2, sampler=sampler, num_steps=2).isfinite().all()
    lab.refused("export", "to=pipe", said="conditioned on other things" if kind == "unet" else "format=program")


@pytest.mark.thorough
def test_a_program_draws_in_few_evaluations(lab):
    lab.done("train", "network=diffusion/dit", *NARROW, *OF_IMAGES, "condition=classes", *FLOW_MAP, "score=false")
    model, x_T, y = load(), SampleNoise(3, torch.arange(2)).initial((1, 8, 8)), torch.full((2,), 7)
    for sampler, num_steps in (("flow_map", 2), ("ddim", 2)):
        chosen = [f"sampler={sampler}", f"sampler.spacing.num_steps={num_steps}"]
        lab.done("export", "format=program", "batch_size=2", f"to={sampler}", *chosen)
        draw = torch.export.load(lab.folder / sampler / "sampler.pt2").module()
        ours = model.sample(2, seed=3, sampler=sampler, num_steps=num_steps, condition=7)
        assert torch.allclose(draw(x_T, y), ours, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["objective=simple", "variance=fixed_small", "sampler=flow_map"],
            "use another sampler, or train with objective=flow_map",
        ),
        ([*FLOW_MAP, "objective.guidance=2"], "use condition=classes, or objective.guidance=1"),
        ([*FLOW_MAP, "objective.teacher=nowhere"], "objective.teacher=nowhere holds no finished model"),
    ],
    ids=str,
)
def test_a_flow_map_that_cannot_be_is_refused(lab, options, said):
    lab.refused("train", *POINTS, *options, said=said)


# ---- a teacher, and weights to start from ------------------------------------------------------------------------------

UNSCORED = [*POINTS, "score=false", "val.every_n_steps=0"]


def teacher(lab, name: str, *options: str) -> str:
    """The folder of a diffusion model in the test's."""
    lab.done("train", *UNSCORED, "objective=simple", "variance=fixed_small", "sampler.spacing.num_steps=3", *options)
    newest_model(lab.folder / "outputs").path.rename(lab.folder / name)
    return name


def distilled(lab, by: str, *options: str) -> ModelDirectory:
    lab.done("train", *UNSCORED, *FLOW_MAP, f"objective.teacher={by}", *options)
    return newest_model(lab.folder / "outputs")


def test_a_teacher_is_known_by_its_content(lab, monkeypatch):
    """Two give two models; where one lies is in no name. What it taught is sampled without it, whatever the folder names."""
    one, other = teacher(lab, "one"), teacher(lab, "other", "seed=5", "schedule=linear", "schedule.num_timesteps=30")
    first, second = distilled(lab, one), distilled(lab, other)
    assert first.path != second.path
    (lab.folder / one).rename(lab.folder / "moved")
    out = lab.done("train", *UNSCORED, *FLOW_MAP, "objective.teacher=moved")
    assert "already trained" in out
    assert first.path.name in out

    def read(*_):
        raise AssertionError("a config chose which model is read")

    monkeypatch.setattr(guiding_models, "_other_model", read)
    assert load_config(second).objective.teacher is None
    lab.done("sample", f"model_dir={second.path}", "num_images=2")
    shutil.rmtree(lab.folder / other)
    lab.done("sample", f"model_dir={second.path}", "num_images=2", "sampler=ddim", "sampler.spacing.num_steps=2")


def test_what_a_guided_teacher_taught_is_sampled(lab):
    """Though it was never trained without conditions, which guidance without a teacher would need."""
    by = teacher(lab, "classes", "condition=classes")
    distilled(lab, by, "condition=classes", "objective.guidance=2", "model.condition_dropout=0")
    lab.done("sample", "num_images=2")


@pytest.mark.thorough
def test_a_teacher_that_does_not_fit_is_refused(lab):
    folders = {
        "on other points": teacher(lab, "points", "data=mixture"),
        "with classes": teacher(lab, "classes", "condition=classes"),
    }
    student = [*UNSCORED, *FLOW_MAP]
    clusters = ["condition=clusters", "condition.clusters.num_clusters=4"]
    for by, options, said in (
        (folders["on other points"], [], "was trained on other data or classes"),
        (folders["with classes"], clusters, "was trained with another condition"),
        ("outputs", [], "holds no finished model"),
    ):
        lab.refused("train", *student, *options, f"objective.teacher={by}", said=("objective.teacher=", said))
    lab.done("train", "data=two_moons", "model=vae", "network.latent_dim=2", "trainer.max_steps=1", "score=false")
    newest_model(lab.folder / "outputs").path.rename(lab.folder / "vae")
    lab.refused("train", *student, "objective.teacher=vae", said="it holds a VAE, not a diffusion model")


@pytest.mark.thorough
def test_a_flow_map_starts_from_a_diffusion_model(lab):
    """Of one time; the network of two times is that network until it is trained, at the times that it read."""
    source = teacher(lab, "source", "trainer.max_steps=30", "schedule.num_timesteps=1000")
    still = ["optimizer=adamw", "optimizer.lr=1e-300", "trainer.max_steps=1", "schedule.num_timesteps=1000"]
    options = [*UNSCORED, *FLOW_MAP, *still, f"init_from={source}"]
    lab.refused(
        "train",
        *options,
        said=f"init_from={source}: its network multiplies times by 1.0; use network.timestep_scale=1.0",
    )
    out = lab.done("train", *options, "network.timestep_scale=1")
    assert f"starting from the weights raw of {source}" in out
    options = {"sampler": "ddim", "num_steps": 3, "weights": "raw"}
    started, model = load(newest_model(lab.folder / "outputs").path), load(lab.folder / source)
    torch.testing.assert_close(started.sample(4, **options), model.sample(4, **options))
