"""Every family through the same commands: one experiment, bad input, a kill, a sweep of all of them."""

import pytest

from diffusion_lab.data.densities import GaussianDensity, RingMixture
from diffusion_lab.store import newest_model

from ..families.test_families import FAMILIES
from .conftest import STRIDED, scored
from .conftest import TINY as TINY_DIFFUSION
from .test_resume import Training, assert_same_bits, interrupted

COMMON = [option for option in TINY_DIFFUSION if not option.startswith(("network.", "schedule."))]
SMALL = {
    "diffusion": [option for option in TINY_DIFFUSION if option.startswith(("network.", "schedule."))] + STRIDED,
    "gan": ["network.base_channels=8", "network.channel_multipliers=[1]", "network.latent_size=4"],
    "vae": ["network.base_channels=8", "network.channel_multipliers=[1]", "network.latent_dim=4"],
    "flow": ["network.hidden=8", "network.num_steps=1"],
}


# All that is random in training or changes beside the weights, at once: what a checkpoint must hold. Diffusion: in test_resume.
EVERYTHING = {
    ("gan",): ["regularizer.every=3", "model.spectral_norm=true", "model.max_grad_norm=1.0"],
    ("vae",): ["network.dropout=0.2", "model.beta=2.0"],
    ("vae", "prior=standard_normal"): ["network.dropout=0.2", "model.free_bits=0.1"],
    ("flow",): ["network.dropout=0.2"],
}
EVERYTHING |= {(name,): [] for name in FAMILIES if name not in SMALL}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def tiny(family, *more):
    return [f"model={family}", *SMALL.get(family, []), *COMMON, *more]


def test_one_command_is_a_whole_experiment(lab, family):
    """One command is a whole experiment and the same again finds it."""
    lab.done("train", *tiny(family, "conditional=true"))
    (run,) = scored(lab.folder)
    assert run["protocol"]["model"]["family"] == family
    assert {"fd_pixels", "nfe", "seconds_per_1000_samples", "training_seconds", "parameters"} <= set(run["values"])
    assert ("bits_per_dim" in run["values"]) != ("bits_per_dim" in run["protocol"]["absent"])
    pictures = ["samples.png", "interpolation.png", *(["reconstructions.png"] if family == "vae" else [])]
    assert {"config.yaml", *pictures} <= {file.name for file in lab.folder.glob("outputs/runs/*/*")}
    out = lab.done("train", *tiny(family, "conditional=true"))
    assert "this model is already trained" in out
    assert "already scored" in out
    lab.done("sample", "num_images=3", "label=4", "format=npz")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("network.nonsense=1", "nonsense"),
        ("evaluation.weights=best", "evaluation.weights=best"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(lab, family, option, said):
    lab.refused("train", *tiny(family), option, said=said)


def test_weights_of_another_family_are_refused(lab, family):
    other = FAMILIES[FAMILIES.index(family) - 1]
    lab.given("train", *tiny(family, "score=false"))
    mine = newest_model(lab.folder / "outputs")
    lab.given("train", *tiny(other, "score=false"))
    theirs = newest_model(lab.folder / "outputs")
    mine.weights("raw").write_bytes(theirs.weights("raw").read_bytes())
    lab.refused("evaluate", f"model_dir={mine.path}", said="raw.safetensors does not hold the weights of this model")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case",
    EVERYTHING,
    ids="-".join,
)
def test_a_killed_training_is_the_training(tmp_path, zygote, case):
    options = [option for option in tiny(*case) if not option.startswith(("trainer.max_steps", "evaluation"))]
    options += ["trainer.max_steps=16", "callbacks.checkpoint.every_n_steps=3", "score=false"]
    options += ["conditional=true", "data.flip=true", *EVERYTHING[case]]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    assert interrupted(torn, 3, 16) >= 2
    assert_same_bits(whole, torn)


@pytest.mark.thorough
def test_a_sweep_of_all_families_is_one_report(lab):
    """A sweep of all families is one report that sets them side by side.

    With what all of them have; an option that only one has is dropped for the others.
    """
    models = f"model={','.join(FAMILIES)}"
    out = lab.done("train", "-m", models, *SMALL["diffusion"], *COMMON)
    assert f"{len(FAMILIES)} models: {len(FAMILIES)} to train" in out
    page = next((lab.folder / "outputs" / "sweeps").glob("*/report/report.html")).read_text()
    assert page.count('class="card family"') == len(FAMILIES)
    table = next((lab.folder / "outputs" / "sweeps").glob("*/report/table.csv")).read_text()
    assert all(family in table for family in FAMILIES)


@pytest.mark.thorough
def test_an_option_that_only_one_family_has_is_dropped(lab):
    """An option that only one family has is dropped for the others.

    Also where the default family, which Hydra composes first, does not have it.
    """
    options = ["network.latent_dim=4", "network.channel_multipliers=[1]", "network.base_channels=8", *COMMON]
    assert "2 models: 2 to train" in lab.done("train", "-m", "model=gan,vae", *options, "score=false")
    configs = [(path / "config.yaml").read_text() for path in (lab.folder / "outputs" / "models").iterdir()]
    assert sorted("latent_dim: 4" in config for config in configs) == [False, True]
    lab.refused(
        "train", "-m", "model=gan,flow", *options, "score=false", said="there is no option 'network.latent_dim'"
    )


LEARNS = {
    "diffusion": ["data.batch_size=512", "optimizer=adamw"],
    "vae": ["network.hidden=32", "network.num_layers=1", "prior.network.num_steps=2", "prior.network.hidden=16"],
    "flow": ["network.hidden=32", "network.num_layers=1", "network.num_steps=2"],
}
KNOWN = {
    "gaussian": (GaussianDensity(8, 0), []),
    "mixture": (RingMixture(8, 0, num_components=2, std=0.3), ["data.num_components=2", "data.std=0.3"]),
}


@pytest.mark.thorough
@pytest.mark.parametrize("data", KNOWN)
@pytest.mark.parametrize("stated", LEARNS)
def test_no_family_has_fewer_bits_than_the_entropy(lab, stated, data):
    """Of densities whose entropy is known; trained until the bound is near, so that a wrong sign or factor would show."""
    density, options = KNOWN[data]
    out = lab.done(
        *("train", f"model={stated}", f"data={data}", *options, "trainer.max_steps=130"),
        *("data.batch_size=128", "optimizer.lr=5e-3", "lr_scheduler.warmup_steps=10", "ema.decays=[0.9]"),
        *("evaluation.num_samples=64", "metrics.bits_per_dim.num_images=500", "metrics.bits_per_dim.batch_size=500"),
        *("callbacks.sample_grid.every_n_steps=0", *LEARNS[stated]),
    )
    (run,) = scored(lab.folder)
    values = run["values"]
    assert values["entropy_bits_per_dim"] == density.entropy_bits()
    assert "the data's entropy" in out
    lowest = density.entropy_bits() - 3 * values["bits_per_dim_standard_error"]
    assert lowest < values["bits_per_dim"] < density.entropy_bits() + 0.5
    if stated == "vae":  # many draws are nearer to the likelihood, from the same side
        highest = values["bits_per_dim"] + 4 * values["bits_per_dim_noise_error"]
        assert lowest < values["bits_per_dim_importance_weighted"] <= highest


def test_a_way_to_draw_that_only_one_family(lab):
    """A way to draw that only one family has is dropped for the others."""
    command = ["train", "-m", "model=gan,vae", *COMMON, "hydra.sweeper.dry_run=true"]
    out = lab.done(*command, "sampling=means,draws")
    assert "2 models" in out
    assert "3 cells" in out
    lab.refused(*command[:2], "model=gan,diffusion", *command[3:], "sampling=draws", said="sampling")


def test_several_models_in_one_command_are_refused(lab):
    """Each has the choices that it was trained with."""
    lab.refused(
        "evaluate",
        "-m",
        "model_dir=outputs/models/a,outputs/models/b",
        "hydra/sweeper=basic",
        said="give one model, and run the command once for each",
    )
