import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.fingerprints import TRAINING_CODE, canonical_json, code_digest, fingerprint, training_part

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
    with pytest.raises(FileNotFoundError, match="networks"):
        code_digest(package, ["networks"])


def test_the_code_that_trains_is_there():
    package = Path(__file__).parent.parent / "diffusion_lab"
    assert code_digest(package) == code_digest(package, reversed(TRAINING_CODE))


def test_neither_another_process_nor_another_python_changes_the_digest():
    """Every newer Python that is installed here, and this one with another seed of its hashes."""
    package = Path(__file__).parent.parent / "diffusion_lab"
    program = f"import sys; sys.path.insert(0, {str(package.parent)!r}); sys.dont_write_bytecode = True\n"
    program += "from pathlib import Path; from diffusion_lab.fingerprints import code_digest\n"
    program += f"print(code_digest(Path({str(package)!r})))"
    others = [python for python in ("python3.12", "python3.13", "python3.14") if runs(python)]
    for python in (sys.executable, *others):
        result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == code_digest(package), python


def runs(python: str) -> bool:
    return (
        bool(shutil.which(python))
        and not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode
    )
