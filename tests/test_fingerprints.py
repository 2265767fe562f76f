import ast
import copy
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.definitions import Code
from diffusion_lab.fingerprints import (
    DRAWING_ROOTS,
    GIVEN_ROOTS,
    SCORING_ROOTS,
    TRAINING_ROOTS,
    canonical_json,
    drawing_code,
    fingerprint,
    named_in,
    scored_part,
    scoring_code,
    training_code,
    training_part,
)

ROOT = Path(__file__).parent.parent

CONFIG = {
    "seed": 0,
    "data": {"_target_": "a.Digits", "batch_size": 64, "flip": False, "root": "/data", "path": "/p", "num_workers": 2},
    "model": {"_target_": "a.Model"},
    "network": {"base_channels": 32, "channel_multipliers": [1, 2], "dropout": 0.0},
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
    *(
        "callbacks.sample_grid.every",
        "val.every_n_steps",
        "model_dir",
        "retrain",
        "rescore",
        "compile",
        "data.root",
        "data.path",
    ),
    *("data.num_workers", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.log_every_n_steps", "trainer.enable_progress_bar"),
]


def leaves(node, prefix=""):
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


SHAPES_TRAINING = [key for key in leaves(CONFIG) if key not in SHAPES_NOTHING]


def changed(key, value="changed"):
    config = copy.deepcopy(CONFIG)
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


def name_of(config, data="d" * 64, code="c" * 64):
    return fingerprint(training_part(config), data, code)


# ---- fingerprint ----


def test_a_fingerprint_is_64_hex_digits_and_a_function_of_its_arguments():
    assert name_of(CONFIG) == name_of(copy.deepcopy(CONFIG))
    assert len(name_of(CONFIG)) == 64
    assert int(name_of(CONFIG), 16)


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
        config = changed("callbacks.mine", copy.deepcopy(mine))
        for key, value in changes.items():
            *parents, last = key.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = value
        names.add(name_of(config))
        config["callbacks"]["sample_grid"]["every"] = 7
        names.add(name_of(config))
    assert len(names) == 5
    assert training_part(changed("callbacks.mine", mine))["callbacks"] == {"mine": mine}
    assert training_part(changed("callbacks.sample_grid", mine))["callbacks"] == {"sample_grid": mine}


def test_the_order_of_keys_changes_nothing():
    backwards = dict(reversed(CONFIG.items()))
    backwards["data"] = dict(reversed(CONFIG["data"].items()))
    assert name_of(backwards) == name_of(CONFIG)


def test_a_new_key_changes_the_fingerprint():
    assert name_of(CONFIG | {"weighting": {"gamma": 5}}) != name_of(CONFIG)


def test_data_and_code_change_the_fingerprint():
    names = {name_of(CONFIG), name_of(CONFIG, data="e" * 64), name_of(CONFIG, code="e" * 64)}
    assert len(names) == 3


def test_training_part_leaves_the_config_alone():
    before = copy.deepcopy(CONFIG)
    training_part(CONFIG)
    assert before == CONFIG


def test_canonical_json_is_one_text_for_one_content():
    assert canonical_json({"b": (1, 2.50), "a": "ᾱ"}) == canonical_json({"a": "ᾱ", "b": [1, 2.5]})
    assert canonical_json({"lr": 1e-3}) == '{"lr":0.001}'
    assert canonical_json(0.1 + 0.2) != canonical_json(0.3)


def test_what_is_not_plain_is_refused():
    with pytest.raises(TypeError):
        fingerprint({"path": Path()}, "", "")


def test_dotted_names_are_found_wherever_they_stand():
    config = {
        "a": {"_target_": "mine.A", "parts": [{"path": "mine.b"}, "32-true", "plain", 1.5, None]},
        "b": "torch.nn.SiLU",
    }
    assert sorted(named_in(config)) == ["mine.A", "mine.b", "torch.nn.SiLU"]


# ---- code: what a change of the package retrains and scores anew ----

with initialize_config_dir(str(CONF), version_base="1.3"):
    TRAINED = {
        path.stem: OmegaConf.to_container(compose("train", overrides=[f"model={path.stem}"]))
        for path in sorted((CONF / "model").glob("*.yaml"))
    }
DIFFUSION, GAN = TRAINED["diffusion"], TRAINED["gan"]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package that may be edited, and its code."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "diffusion_lab", folder / "diffusion_lab", ignore=shutil.ignore_patterns("__pycache__"))
    return folder, Code([str(folder)])


def digests(code, config):
    training, scored = training_part(config), scored_part(config)
    return {
        "training": training_code(code, training),
        "scoring": scoring_code(code, scored),
        "drawing": drawing_code(code, scored),
    }


def with_statement(source, name):
    """`source` with one more statement in the definition called `name` ("Class.method"), or with a value changed."""
    body = ast.parse(source).body
    for part in name.split("."):
        (found,) = [
            node
            for node in body
            if getattr(node, "name", None) == part
            or part in [getattr(t, "id", "") for t in getattr(node, "targets", [])]
        ]
        body = getattr(found, "body", [])
    lines = source.splitlines(keepends=True)
    if isinstance(found, ast.Assign):
        return source.replace(ast.get_source_segment(source, found), f"{name} = 12345")
    last = found.body[-1]
    start = min([last.lineno, *(decorator.lineno for decorator in getattr(last, "decorator_list", []))]) - 1
    return "".join([*lines[:start], f"{' ' * last.col_offset}new = 1\n", *lines[start:]])


def changed_by(package, config, file, edit):
    """What an edit of the package changes for a run with this config."""
    folder, code = package
    was = digests(code, config)
    path = folder / "diffusion_lab" / file
    before = path.read_text() if path.exists() else None
    path.write_text(edit(before or ""))
    name = "diffusion_lab." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    edited = Code([str(folder)])
    edited._modules |= {
        other: module for other, module in code._modules.items() if other != name
    }  # saves reading them again
    try:
        now = digests(edited, config)
    finally:
        path.unlink() if before is None else path.write_text(before)
    return " ".join(what for what in was if was[what] != now[what])


ALL, AFTER = "training scoring drawing", "scoring drawing"


@pytest.mark.parametrize(
    ("changed", "file", "name"),
    [
        # what training is made of
        (ALL, "diffusion/process.py", "GaussianDiffusion.q_sample"),
        (ALL, "diffusion/noise.py", "derive_seed"),
        (ALL, "diffusion/timesteps.py", "StratifiedTimesteps"),
        (ALL, "diffusion/objectives.py", "Objective"),
        (ALL, "diffusion/variances.py", "LearnedRange"),
        (ALL, "models/diffusion.py", "DiffusionModel.training_step"),
        (ALL, "models/diffusion.py", "DiffusionModel._labels"),
        (ALL, "models/diffusion.py", "DiffusionModel.__init__"),
        (ALL, "models/base.py", "GenerativeModel"),
        (ALL, "models/trainable.py", "TrainableModel.on_train_batch_start"),
        (ALL, "diffusion/streams.py", "DROPOUT"),
        (ALL, "models/optimization.py", "CosineDecay.after_warmup"),
        (ALL, "models/budget.py", "budget_used"),
        (ALL, "callbacks/ema.py", "EMA.on_train_batch_end"),
        (ALL, "data/order.py", "BatchOrder"),
        (ALL, "data/digits.py", "Digits"),
        (ALL, "data/base.py", "DataModule.prepare"),
        (ALL, "networks/unet.py", "UNet.forward"),
        (ALL, "networks/blocks.py", "ResidualBlock.forward"),
        (ALL, "networks/norm.py", "EPS"),
        ("training", "from_config/trainer.py", "build_trainer"),
        ("training", "from_config/build.py", "build_model"),
        ("training", "callbacks/finite.py", "SkipNotFinite"),
        ("training", "callbacks/power_averages.py", "PowerAverages"),
        ("training", "callbacks/snapshots.py", "Snapshots"),
        ("training", "commands/fit.py", "fit"),
        ("training", "commands/train.py", "run"),
        ("training scoring", "from_config/build.py", "_prepared"),
        (ALL, "callbacks/profiles.py", "Profile.decay"),
        (ALL, "callbacks/profiles.py", "TRACKED"),
        # what only draws or scores
        (AFTER, "callbacks/profiles.py", "combination"),
        (AFTER, "from_config/power_averages.py", "build_average"),
        (AFTER, "from_config/power_averages.py", "_plan"),
        (AFTER, "from_config/trained.py", "load_weights"),
        (AFTER, "models/drawn.py", "DrawnDiffusion.sample"),
        (AFTER, "models/diffusion.py", "DiffusionModel.likelihood"),
        (AFTER, "models/drawn.py", "DrawnDiffusion.encode"),
        (AFTER, "models/drawn.py", "DrawnDiffusion.trajectory"),
        (AFTER, "models/drawn.py", "DrawnDiffusion.nfe"),
        (AFTER, "models/bound.py", "bound_kind"),
        (AFTER, "models/drawn.py", "DrawnDiffusion._deterministic"),
        (AFTER, "models/drawn.py", "_MOST_LATENT_STEPS"),
        (AFTER, "models/base.py", "GenerativeModel.interpolate"),
        (AFTER, "models/base.py", "Likelihood"),
        (AFTER, "diffusion/samplers.py", "Sampler"),
        (AFTER, "diffusion/samplers.py", "AncestralSampler"),
        (AFTER, "diffusion/spacings.py", "EvenSpacing"),
        (AFTER, "diffusion/guidance.py", "Unguided"),
        (AFTER, "evaluation/drawing.py", "draw_once"),
        ("scoring", "evaluation/frechet.py", "frechet_distance"),
        ("scoring", "evaluation/cost.py", "TrainingCost"),
        ("scoring", "callbacks/ema.py", "default_weights"),
        # what neither trains nor scores this model
        ("", "diffusion/guidance.py", "ClassifierFree"),
        ("", "diffusion/variances.py", "FixedSmall"),
        ("", "diffusion/schedules.py", "SigmoidSchedule"),
        ("", "models/gan.py", "GAN.training_step"),
        ("", "models/vae.py", "VAE.training_step"),
        ("", "networks/flow.py", "Flow"),
        ("", "data/cifar.py", "CIFAR"),
        ("", "callbacks/saving.py", "Saving"),
        ("", "callbacks/monitor.py", "Monitor"),
        ("", "callbacks/sample_grid.py", "SampleGrid"),
        ("", "callbacks/tracking.py", "WeightsAndBiases"),
        ("", "commands/sample.py", "run"),
        ("", "files.py", "write_whole"),
    ],
)
def test_an_edit_of_the_package_retrains_and_scores_anew_what_it_touches(package, changed, file, name):
    assert changed_by(package, DIFFUSION, file, lambda source: with_statement(source, name)) == changed


NEW = "\n\nclass Newest(nn.Module):\n    pass\n\n\ndef new():\n    return Newest()\n"


def test_what_is_new_and_what_is_said_better_change_nothing(package, tmp_path):
    folder, code = package
    shutil.copytree(folder / "diffusion_lab", tmp_path / "diffusion_lab")
    for file in tmp_path.rglob("*.py"):
        future = "from __future__ import annotations\n"
        before, _, after = file.read_text().rpartition(future)
        file.write_text(f"# better words\n{before}{future if before else ''}\n\n{after}{NEW}")
    assert digests(Code([str(tmp_path)]), DIFFUSION) == digests(code, DIFFUSION)
    assert digests(Code([str(tmp_path)]), GAN) == digests(code, GAN)


@pytest.mark.parametrize("file", ["diffusion/newest.py", "models/newest.py", "networks/newest.py"])
def test_a_new_file_changes_nothing(package, file):
    assert changed_by(package, DIFFUSION, file, lambda _: f"from torch import nn\n{NEW}") == ""
    folder = file.partition("/")[0]
    hand_on = f"from diffusion_lab.{folder}.newest import Newest\n"
    assert changed_by(package, DIFFUSION, f"{folder}/__init__.py", lambda source: source + hand_on) == ""


def test_a_sampler_counts_for_what_draws_with_it_only(package):
    by_ddim = DIFFUSION | {"sampler": DIFFUSION["sampler"] | {"_target_": "diffusion_lab.diffusion.DDIMSampler"}}

    def edit(source):
        return with_statement(source, "AncestralSampler")

    assert changed_by(package, DIFFUSION, "diffusion/samplers.py", edit) == AFTER
    assert changed_by(package, by_ddim, "diffusion/samplers.py", edit) == ""


def test_families_do_not_touch_each_other(package):
    assert changed_by(package, GAN, "models/gan.py", lambda s: with_statement(s, "GAN.training_step")) == ALL
    assert changed_by(package, GAN, "models/gan.py", lambda s: with_statement(s, "GAN.sample")) == AFTER
    assert changed_by(package, GAN, "models/diffusion.py", lambda s: with_statement(s, "DiffusionModel")) == ""
    assert changed_by(package, GAN, "diffusion/process.py", lambda s: with_statement(s, "GaussianDiffusion")) == ""


@pytest.mark.parametrize("root", [*TRAINING_ROOTS, *SCORING_ROOTS, *DRAWING_ROOTS, *GIVEN_ROOTS])
def test_every_root_is_there(root):
    assert Code([str(ROOT)]).named(root)


@pytest.mark.parametrize("name", TRAINED)
def test_every_class_that_a_config_names_is_found(name):
    ours = [target for target in named_in(TRAINED[name]) if target.startswith("diffusion_lab.")]
    assert len(ours) > 5
    assert [target for target in ours if not Code([str(ROOT)]).named(target)] == []


def test_a_second_digest_reads_nothing(monkeypatch):
    code = Code([str(ROOT)])
    first = training_code(code, DIFFUSION)
    monkeypatch.setattr(Path, "read_bytes", None)
    monkeypatch.setattr(ast, "parse", None)
    assert training_code(code, DIFFUSION) == first, "a plan makes one for each cell"


def test_no_validation_is_the_training_without_that_option():
    """With some, the identity of the data tells the trainings apart."""
    none = {**CONFIG, "data": {**CONFIG["data"], "validation": 0}}
    assert training_part(none) == training_part(CONFIG)
