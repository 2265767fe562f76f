import copy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.fingerprints import (
    DRAWING,
    GIVEN,
    MEASURING,
    SCORING,
    TRAINING,
    Code,
    fingerprint,
    named_in,
    scored_part,
    training_part,
)
from diffusion_lab.store.option_names import canonical_json

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")

ROOT = Path(__file__).parents[2]

CONFIG = {
    "seed": 0,
    "data": {"_target_": "a.Digits", "batch_size": 64, "flip": False, "root": "/data", "path": "/p", "num_workers": 2}
    | {"on_error": "name", "max_pixels": 100},
    "model": {"_target_": "a.Model"},
    "network": {"base_channels": 32, "channel_multipliers": [1, 2], "dropout": 0.0, "activation_checkpointing": False},
    "schedule": {"num_timesteps": 1000},
    "prediction": {"_target_": "a.Noise"},
    "objective": {"_target_": "a.Simple"},
    "timesteps": {"_target_": "a.Uniform"},
    "ema": {"decays": [0.999]},
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.999]},
    "lr_scheduler": {"warmup": 100},
    "trainer": {
        "max_steps": 1000,
        "max_time": None,
        "precision": "32-true",
        "gradient_clip_val": 1.0,
        "accumulate_grad_batches": 1,
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "log_every_n_steps": 10,
        "enable_progress_bar": True,
    },
    "sampler": {"spacing": {"num_steps": 50}},
    "evaluation": {"num_samples": None},
    "features": {"name": "digits_cnn"},
    "guidance": {"scale": 1.0},
    "logger": {"save_dir": "logs"},
    "callbacks": {"sample_grid": {"every": 100}, "mine": None},
    "val": {"every_n_steps": 200},
    "model_dir": None,
    "retrain": False,
    "rescore": False,
    "compile": False,
}
SHAPES_NOTHING = [
    *("sampler.spacing.num_steps", "evaluation.num_samples", "features.name", "guidance.scale", "logger.save_dir"),
    *("callbacks.sample_grid.every", "val.every_n_steps", "model_dir", "retrain", "rescore", "compile"),
    *("data.root", "data.path", "data.on_error", "data.max_pixels", "data.num_workers"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.accumulate_grad_batches", "trainer.log_every_n_steps", "trainer.enable_progress_bar"),
    "network.activation_checkpointing",
]


def leaves(node, prefix=""):
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


SHAPES_TRAINING = [key for key in leaves(CONFIG) if key not in SHAPES_NOTHING]


def changed(key, value="changed", config=CONFIG):
    config = copy.deepcopy(config)
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


def name_of(config, data="d" * 64, code="c" * 64):
    return fingerprint(training_part(config), data, code)


# ---- fingerprint ----


@pytest.mark.parametrize("key", SHAPES_NOTHING)
def test_what_does_not_shape_training_changes_nothing(key):
    assert name_of(changed(key)) == name_of(CONFIG)


@pytest.mark.parametrize("key", SHAPES_TRAINING)
def test_what_shapes_training_changes_the_fingerprint(key):
    assert name_of(changed(key)) != name_of(CONFIG)


def test_a_whole_excluded_group_may_be_missing():
    without = {key: value for key, value in CONFIG.items() if key not in ("sampler", "guidance", "logger")}
    assert name_of(without) == name_of(CONFIG)


def test_a_name_is_excluded_where_it_stands_and_nowhere_else():
    config = changed("network.base_channels")
    config["network"]["sampler"] = 1
    assert training_part(config)["network"]["sampler"] == 1
    assert "root" not in training_part(config)["data"]


def test_a_callback_that_the_user_adds_counts_with_its_options_and_what_it_may_look_at():
    mine = {"_target_": "mine.Callback", "every": 3}
    names = {name_of(CONFIG)}
    for changes in ({}, {"callbacks.mine.every": 4}, {"val.every_n_steps": 1}, {"trainer.log_every_n_steps": 1}):
        config = changed("callbacks.mine", mine)
        for key, value in changes.items():
            config = changed(key, value, config)
        names |= {name_of(config), name_of(changed("callbacks.sample_grid.every", 7, config))}
    assert len(names) == 5
    assert training_part(changed("callbacks.mine", mine))["callbacks"] == {"mine": mine}
    assert training_part(changed("callbacks.sample_grid", mine))["callbacks"] == {"sample_grid": mine}


def test_data_and_code_change_the_fingerprint():
    names = {name_of(CONFIG), name_of(CONFIG, data="e" * 64), name_of(CONFIG, code="e" * 64)}
    assert [len(name) for name in names] == [64] * 3


def test_canonical_json_is_one_text_for_one_content():
    assert canonical_json({"b": (1, 2.50), "a": "ᾱ"}) == canonical_json({"a": "ᾱ", "b": [1, 2.5]})
    assert canonical_json({"lr": 1e-3}) == '{"lr":0.001}'
    assert canonical_json(0.1 + 0.2) != canonical_json(0.3)


def test_dotted_names_are_found_wherever_they_stand():
    config = {
        "a": {"_target_": "mine.A", "parts": [{"path": "mine.b"}, "32-true", "plain", 1.5, None]},
        "b": "torch.nn.SiLU",
    }
    assert sorted(named_in(config)) == ["mine.A", "mine.b", "torch.nn.SiLU"]


# ---- code: which modules of the lab count ----


def config_of(*options):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=[*options]), resolve=False)


@pytest.fixture(scope="module")
def counted():
    """counted("model=gan") -> for training, scoring and drawing, the modules that count."""
    code = Code([str(ROOT)])

    def modules(*options):
        config = config_of(*options)
        found = {
            "training": code.reached(named_in(training_part(config)), TRAINING),
            "scoring": code.reached(named_in(scored_part(config)), SCORING),
            "drawing": code.reached(named_in(scored_part({**config, "metrics": None})), DRAWING),
        }
        return {purpose: {name.removeprefix("diffusion_lab.") for name in names} for purpose, names in found.items()}

    return modules


ALL, AFTER = "training scoring drawing", "scoring drawing"
COUNTED = {
    "diffusion.chain diffusion.noise diffusion.timesteps diffusion.objectives diffusion.variances diffusion.streams": ALL,
    "models.diffusion models.trainable models.condition_dropout models.optimization models.weight_files": ALL,
    "networks.unet networks.blocks networks.norm": ALL,
    "data.order data.digits data.module training.ema training.profiles": ALL,
    "config.build": "training scoring",
    "config.training commands.fit commands.train training.snapshots": "training",
    "training.finite training.trainer": "training",
    "sampling.sampler sampling.steps sampling.spacings sampling.guidance diffusion.starts sampling.rounding": AFTER,
    "models.generator models.diffusion_generator models.measured": AFTER,
    "config.loading config.weight_files metrics.samples metrics.shards": AFTER,
    "metrics.measuring metrics.reference metrics.features": AFTER,
    "metrics.score metrics.metric metrics.frechet_distance store.measures": "scoring",
    "diffusion.real_schedules families.gan.gan families.vae.vae families.flow.networks data.cifar commands.sample": "",
    "store.files store.directories report.page": "",
    "metrics.given metrics.copying metrics.sliced_wasserstein": "",
    "training.trackers training.monitor training.sample_grid training.checkpoints store.lease": "",
}


@pytest.mark.parametrize(("names", "purposes"), COUNTED.items())
def test_modules_count_where_they_matter(counted, names, purposes):
    found = counted("data=digits")
    for name in names.split():
        assert (name, " ".join(purpose for purpose in found if name in found[purpose])) == (name, purposes)


def test_what_the_config_names_counts(counted):
    gan = counted("model=gan")
    assert "families.gan.gan" in gan["training"]
    assert not {"models.diffusion", "diffusion.objectives"} & (gan["training"] | gan["scoring"])
    assert "sampling.solvers" in counted("sampler=heun")["drawing"] - counted("sampler=ddpm")["drawing"]
    assert "training.trackers" in counted("+callbacks.mine._target_=diffusion_lab.training.trackers.Mine")["training"]


def test_every_place_is_there():
    code = Code([str(ROOT)])
    for scope in (TRAINING, SCORING, GIVEN, DRAWING, MEASURING):
        places = {f"diffusion_lab.{name}" for name in scope.places | scope.left_out}
        assert [name for name in places | scope.roots if code.module(name) is None] == []


def test_no_validation_is_the_training_without_that_option():
    """With some, the identity of the data tells the trainings apart."""
    none = {**CONFIG, "data": {**CONFIG["data"], "validation": 0}}
    assert training_part(none) == training_part(CONFIG)
