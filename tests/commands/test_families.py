"""Every family through the same commands, then what only one of them has."""

import numpy as np
import pytest

from diffusion_lab.data.densities import RingMixture

from ..families.test_families import FAMILIES
from .conftest import STRIDED, TINY, scored
from .test_resume import assert_survives

COMMON = [option for option in TINY if not option.startswith(("network.", "schedule."))]
SMALL = {
    "diffusion": [option for option in TINY if option.startswith(("network.", "schedule."))] + STRIDED,
    "gan": ["network.base_channels=8", "network.channel_multipliers=[1]", "network.latent_size=4"],
    "vae": ["network.base_channels=8", "network.channel_multipliers=[1]", "network.latent_dim=4"],
    "flow": ["network.hidden=8", "network.num_steps=1"],
    "noisy_classifier": [option for option in TINY if option.startswith(("network.", "schedule."))],
}


# All that is random in training or changes beside the weights, at once: what a checkpoint must hold. Diffusion: in test_resume.
EVERYTHING = {
    ("gan",): ["regularizer.every=3", "model.spectral_norm=true", "model.max_grad_norm=1.0"],
    ("vae",): ["network.dropout=0.2", "model.beta=2.0"],
    ("flow",): ["network.dropout=0.2"],
}
EVERYTHING |= {(name,): [] for name in FAMILIES if name not in SMALL}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def tiny(family, *more):
    return [f"model={family}", *SMALL.get(family, []), *COMMON, *more]


def test_one_command_is_a_whole_experiment(lab, family):
    """The same again finds it."""
    lab.given("train", *tiny(family, "condition=classes"))
    (run,) = scored(lab.folder)
    assert run["protocol"]["model"]["family"] == family
    assert {"fd_pixels", "nfe", "seconds_per_1000_samples", "training_seconds", "parameters"} <= set(run["values"])
    assert ("bits_per_dim" in run["values"]) != ("bits_per_dim" in run["protocol"]["absent"])
    pictures = ["samples.png", "interpolation.png", *(["reconstructions.png"] if family == "vae" else [])]
    assert {"config.yaml", *pictures} <= {file.name for file in lab.folder.glob("outputs/runs/*/*")}
    out = lab.done("train", *tiny(family, "condition=classes"))
    assert "this model is already trained" in out
    assert "already scored" in out
    lab.done("sample", "num_images=3", "condition=4", "format=npz")


@pytest.mark.thorough
@pytest.mark.parametrize("case", EVERYTHING, ids="-".join)
def test_a_killed_training_is_the_training(tmp_path, zygote, case):
    options = [option for option in tiny(*case) if not option.startswith(("trainer.max_steps", "evaluation"))]
    options += ["trainer.max_steps=16", "callbacks.checkpoint.every_n_steps=3", "score=false"]
    options += ["condition=classes", "data.flip=true", *EVERYTHING[case]]
    assert_survives(zygote.start, tmp_path, *options, kills=3, steps=16)


@pytest.mark.thorough
def test_a_sweep_of_all_families_is_one_report(lab):
    """An option that only one of them has is dropped for the others."""
    models = f"model={','.join(FAMILIES)}"
    out = lab.done("train", "-m", models, *SMALL["diffusion"], *COMMON)
    assert f"{len(FAMILIES)} models: {len(FAMILIES)} to train" in out
    page = next((lab.folder / "outputs" / "sweeps").glob("*/report/report.html")).read_text()
    assert page.count('class="card family"') == len(FAMILIES)
    table = next((lab.folder / "outputs" / "sweeps").glob("*/report/table.csv")).read_text()
    assert all(family in table for family in FAMILIES)


LEARNS = {
    "diffusion": ["data.batch_size=512", "optimizer=adamw"],
    "vae": ["network.hidden=32", "network.num_layers=1", "prior.network.num_steps=2", "prior.network.hidden=16"],
    "flow": ["network.hidden=32", "network.num_layers=1", "network.num_steps=2"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("stated", LEARNS)
def test_no_family_has_fewer_bits_than_the_entropy(lab, stated):
    """Of a density whose entropy is known; trained until the bound is near, so that a wrong sign or factor would show."""
    density = RingMixture(8, 0, num_components=2, std=0.3)
    lab.done(
        *("train", f"model={stated}", "data=mixture", "data.num_components=2", "data.std=0.3", "trainer.max_steps=130"),
        *("data.batch_size=128", "optimizer.lr=5e-3", "lr_scheduler.warmup_steps=10", "ema.decays=[0.9]"),
        *("evaluation.num_samples=64", "metrics.bits_per_dim.num_images=500", "metrics.bits_per_dim.batch_size=500"),
        *("callbacks.sample_grid.every_n_steps=0", *LEARNS[stated]),
    )
    (run,) = scored(lab.folder)
    values = run["values"]
    assert values["entropy_bits_per_dim"] == density.entropy_bits()
    lowest = density.entropy_bits() - 3 * values["bits_per_dim_standard_error"]
    assert lowest < values["bits_per_dim"] < density.entropy_bits() + 0.5
    if stated == "vae":  # many draws are nearer to the likelihood, from the same side
        highest = values["bits_per_dim"] + 4 * values["bits_per_dim_noise_error"]
        assert lowest < values["bits_per_dim_importance_weighted"] <= highest


def test_a_way_to_draw_that_only_one_family(lab):
    """It is dropped for the others."""
    command = ["train", "-m", "model=gan,vae", *COMMON, "hydra.sweeper.dry_run=true"]
    out = lab.done(*command, "sampling=means,draws")
    assert "2 models" in out
    assert "3 cells" in out
    lab.refused(*command[:2], "model=gan,diffusion", *command[3:], "sampling=draws", said="sampling")


# ---- model=vae as a user asks for it: trained, scored, sampled and edited ----


def test_images_are_interpolated_through_its_latents(lab):
    """They are not edited along steps."""
    lab.given("train", *tiny("vae"), "score=false")
    lab.done("sample", "interpolate.images=[5,6]", "num_images=4", "batch_size=3", "format=npz")
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert archive["arr_0"].shape == (4, 8, 8, 1)
    for options in (["denoise.image=5", "denoise.t=3"], ["inpaint.image=5", "inpaint.mask=mask.png"]):
        lab.refused("sample", *options, "to=other", said="model=vae has no steps to take between noise and image")


def test_on_clusters_each_end_of_an_interpolation(lab):
    """It has its own cluster, which nobody has to name."""
    lab.given("train", *tiny("vae"), "condition=clusters", "condition.clusters.num_clusters=3", "score=false")
    lab.done("sample", "interpolate.images=[5,6]", "num_images=4", "format=npz")
    ends = {}
    for name, images in (("first", "[5,5]"), ("second", "[6,6]")):
        lab.done("sample", f"interpolate.images={images}", "num_images=2", "format=npz", f"to={name}")
        with np.load(lab.folder / name / "samples.npz") as archive:
            ends[name] = archive["arr_0"][0]
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert (archive["arr_0"][0] == ends["first"]).all()
        assert (archive["arr_0"][-1] == ends["second"]).all()


def test_an_autoencoder_is_interpolated_given_the_class(lab):
    lab.given("train", *tiny("vae", "condition=classes"))
    (run,) = scored(lab.folder)
    assert run["protocol"]["bound"]["kind"] == "ELBO given the class"
    lab.done("sample", "condition=3", "interpolate.images=[5,6]", "num_images=3")
    lab.refused("sample", "interpolate.images=[5,6]", "num_images=3", said="set condition=…")
    lab.refused("sample", "condition=10", "interpolate.images=[5,6]", said="0 … 9")


# ---- the flow, as a user asks for it: trained, sampled and scored at other temperatures ----


FLOW = tiny("flow")


@pytest.mark.thorough
def test_the_temperature_is_a_choice_of_scoring(lab):
    lab.given("train", *FLOW)
    assert "this model is already trained" in lab.done("train", *FLOW, "sampling.temperature=0.5")
    lab.done("evaluate", "sampling.temperature=0.7")
    runs = {run["protocol"]["model"]["temperature"]: run["values"] for run in scored(lab.folder)}
    assert set(runs) == {0.5, 0.7, 1.0}
    assert len({values["bits_per_dim"] for values in runs.values()}) == 1
    assert len({values["fd_pixels"] for values in runs.values()}) == 3
    drawn = {}
    for temperature in (1.0, 0.01):
        lab.done("sample", "num_images=4", "format=npz", f"sampling.temperature={temperature}")
        with np.load(lab.folder / "samples" / "samples.npz") as archive:
            drawn[temperature] = archive["arr_0"].astype(float)
    assert drawn[0.01].std(0).mean() < 0.2 * drawn[1.0].std(0).mean()


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("train", "sampling=means", "sampling: this model needs temperature"),
        ("evaluate", "sampling=draws", "sampling: this model needs temperature"),
        ("evaluate", "sampler=ddim", "has no sampler to choose; it has sampling, evaluation, features"),
        ("sample", "guidance.scale=2", "has no guidance to choose"),
        ("sample", "trajectory=true", "no steps between noise and image"),
    ],
)
def test_what_a_flow_cannot_do_is_said_in_one_sentence(lab, command, option, said):
    if command != "train":
        lab.given("train", *FLOW)
    lab.refused(command, *(FLOW if command == "train" else []), option, said=said)
