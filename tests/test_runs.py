import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.runs import (
    TRAINING_CODE,
    ModelDirectory,
    RunError,
    canonical_json,
    code_digest,
    fingerprint,
    model_directory,
    newest_model,
    run_directory,
    training_part,
    write_json,
)

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
    "callbacks": {"grid": {"every": 100}},
    "model_dir": None,
    "retrain": False,
    "rescore": False,
    "compile": False,
}
SHAPES_NOTHING = [
    *("sampler.spacing.num_steps", "evaluation.num_samples", "features.name", "guidance.scale", "logger.save_dir"),
    *("callbacks.grid.every", "model_dir", "retrain", "rescore", "compile", "data.root", "data.path"),
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


# ---- code ----

SOURCE = '''"""What it is."""

import math


class Schedule:
    """ᾱ_t."""

    def alpha_bar(self, t):
        """From t."""
        # the square
        return math.cos(t + 0.008) ** 2

    def nothing(self):
        """Only a docstring."""
'''


@pytest.fixture
def package(tmp_path):
    (tmp_path / "diffusion").mkdir()
    (tmp_path / "diffusion" / "schedules.py").write_text(SOURCE)
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "train.py").write_text("x = 1\n")
    return tmp_path


def digest_of(package, source):
    (package / "diffusion" / "schedules.py").write_text(source)
    return code_digest(package, ["diffusion"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# the square", "# squared"),
        ("        # the square\n", ""),
        ('"""ᾱ_t."""', '"""The product of α up to t."""'),
        ('        """From t."""\n', ""),
        ('"""What it is."""\n\n', ""),
        ("import math\n", "import math\n\n\n\n"),
        ("math.cos(t + 0.008) ** 2", "(\n            math.cos(t+0.0080)**2\n        )"),
        ('"""Only a docstring."""', "pass"),
    ],
)
def test_comments_docstrings_and_formatting_change_nothing(package, old, new):
    assert old in SOURCE
    assert digest_of(package, SOURCE.replace(old, new)) == digest_of(package, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.008", "0.009"),
        ("** 2", "* 2"),
        ("cos", "sin"),
        ("t + 0.008", "0.008 + t"),
        ("alpha_bar", "alpha"),
        ("(self, t)", "(self, t=1)"),
        ('"""Only a docstring."""', "return None"),
        ('"""Only a docstring."""', "return"),
        ("return math", "x = 'a string'; return math"),
    ],
)
def test_any_change_of_code_changes_the_digest(package, old, new):
    assert old in SOURCE
    assert digest_of(package, SOURCE.replace(old, new)) != digest_of(package, SOURCE)


def test_none_and_nothing_differ(package):
    bodies = [
        "return None",
        "return",
        "return []",
        "return [None]",
        "return ''",
        "return 0",
        "return False",
        "return 0.0",
    ]
    digests = {digest_of(package, SOURCE.replace('"""Only a docstring."""', body)) for body in bodies}
    assert len(digests) == len(bodies)


def test_files_count_by_name_and_other_packages_do_not_count(package):
    before = code_digest(package, ["diffusion"])
    (package / "commands" / "train.py").write_text("x = 2\n")
    assert code_digest(package, ["diffusion"]) == before
    assert code_digest(package, ["diffusion", "commands"]) != before
    (package / "diffusion" / "schedules.py").rename(package / "diffusion" / "schedule.py")
    assert code_digest(package, ["diffusion"]) != before
    assert code_digest(package, ["diffusion/schedule.py"])  # a file is a part, too


def test_a_part_that_is_not_there_is_named(package):
    with pytest.raises(RunError, match="networks"):
        code_digest(package, ["networks"])


def test_the_code_that_trains_is_there():
    package = Path(__file__).parent.parent / "diffusion_lab"
    assert code_digest(package) == code_digest(package, reversed(TRAINING_CODE))


@pytest.mark.parametrize("python", ["python3.12", "python3.13", "python3.14"])
@pytest.mark.slow
def test_the_python_version_changes_nothing(python):
    package = Path(__file__).parent.parent / "diffusion_lab"
    program = f"import sys; sys.path.insert(0, {str(package.parent)!r}); sys.dont_write_bytecode = True\n"
    program += f"from pathlib import Path; from diffusion_lab.runs import code_digest; print(code_digest(Path({str(package)!r})))"
    try:
        result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip(f"no {python}")
    assert result.stdout.strip() == code_digest(package)


# ---- files and places ----


def test_json_is_readable_and_whole(tmp_path):
    path = tmp_path / "a" / "metrics.json"
    write_json(path, {"ᾱ": [1, 2.5], "x": None})
    assert json.loads(path.read_text()) == {"ᾱ": [1, 2.5], "x": None}
    assert "ᾱ" in path.read_text()


@pytest.mark.parametrize("content", [{"x": float("nan")}, {"x": object()}])
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, content):
    path = tmp_path / "metrics.json"
    write_json(path, {"x": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"x": 1})

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_are_read_back_or_named(tmp_path):
    run = run_directory(tmp_path, "cell-1")
    with pytest.raises(RunError, match=r"there is no .*runs/cell-1/metrics.json"):
        run.read_metrics()
    run.write_metrics({"values": {"nfe": 50}})
    assert run.read_metrics() == {"values": {"nfe": 50}}
    for broken in (b'{"values": {"nf', b"", b"\xff\xfe", b"[1]"):
        run.metrics.write_bytes(broken)
        with pytest.raises(RunError, match=r"metrics.json"):
            run.read_metrics()


def test_a_model_directory_is_named_by_data_model_and_fingerprint(tmp_path):
    model = model_directory(tmp_path, "digits", "diffusion", "0123456789abcdef" * 4)
    assert model.path == tmp_path / "models" / "digits-diffusion-0123456789ab"
    assert not tmp_path.joinpath("models").exists()  # nothing is made by asking
    model.finish(steps=10, seconds=2.5, images=640, device="cpu")
    assert model.read_training() == {"steps": 10, "seconds": 2.5, "images": 640, "device": "cpu"}


def test_weights_are_listed_by_name(tmp_path):
    model = ModelDirectory(tmp_path)
    for name in ("raw", "ema_0.999", "ema_0.9999"):
        model.weights(name).touch()
    assert model.weight_names == ["ema_0.999", "ema_0.9999", "raw"]


def test_the_newest_model_is_the_one_that_finished_last(tmp_path):
    for age, name in enumerate(["b", "c", "a"]):
        model = model_directory(tmp_path, name, "diffusion", "0" * 64)
        model.finish(1, 1.0, 1)
        os.utime(model.training, ns=(10**18 + age, 10**18 + age))
    unfinished = model_directory(tmp_path, "d", "diffusion", "0" * 64)
    unfinished.path.mkdir()
    unfinished.resume.touch()
    assert newest_model(tmp_path).path.name.startswith("a-")
    assert not unfinished.finished


def test_no_finished_model_is_an_error_that_names_the_cure(tmp_path):
    with pytest.raises(RunError, match=r"no trained model in .*models; `diffusion-lab train`"):
        newest_model(tmp_path)
    (tmp_path / "models" / "x").mkdir(parents=True)
    with pytest.raises(RunError, match=r"\(1 unfinished\)"):
        newest_model(tmp_path)
    with pytest.raises(RunError, match=r"training\.json is missing"):
        ModelDirectory(tmp_path / "models" / "x").read_training()


def test_importing_it_brings_no_torch():
    program = "import sys, diffusion_lab.runs; sys.exit(bool({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
