"""The commands write the numbers that are stored in golden.json (scripts/golden). docs/extend/maintaining.md has its rules."""

import importlib.machinery
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands.zygote import Zygote

SCRIPT = Path(__file__).parent.parent / "scripts" / "golden"


@pytest.fixture(scope="module")
def golden():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("golden", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("golden", loader))
    loader.exec_module(module)
    return module


def script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The script in one process: its start, which imports everything, is most of the time of a few cases."""
    command = [sys.executable, SCRIPT, "--jobs", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


class Forks:
    """Commands of this tree by the processes that tests fork: no start that imports everything."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote

    def run(self, folder: Path, command: list[str], kill_at: str | None) -> int:
        assert kill_at is None
        fork = self._zygote.start(folder, *command, CUDA_VISIBLE_DEVICES="")
        Path(f"{folder}.log").write_text("\n".join(fork.communicate()))
        return fork.returncode

    def close(self) -> None:
        """The zygote serves other tests too."""


def test_quick_cases_write_the_stored_numbers(golden, zygote, monkeypatch):
    monkeypatch.setattr(golden, "Tree", lambda root, environment: Forks(zygote))
    quick = [name for name, case in golden.cases()[1].items() if case.get("quick")]
    assert golden.check(golden.ROOT, quick, jobs=1) == []


@pytest.mark.thorough
def test_slow_cases_write_the_stored_numbers():
    ended = script("--slow")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.thorough
def test_rounding_stays_within_the_tolerances():
    """Where each layer's output changes by 1e-7, as on another processor, every stored number stays within its tolerance.

    A case of each family: `scripts/golden --perturb 1e-7` runs all.
    """
    ended = script("--perturb", "1e-7", "improved_ddpm", "gan", "vae", "flow", "mixture", "samplers")
    assert ended.returncode == 0, ended.stdout + ended.stderr


MUTATIONS = {  # case that notices -> a file and its text, with one coefficient right and wrong
    "ddpm": (
        "diffusion_lab/diffusion/variances.py",
        ", process.log_beta(t)), x_t)",
        ", 1.002 * process.log_beta(t)), x_t)",
    ),
    "improved_ddpm": ("conf/objective/hybrid.yaml", "vlb_weight: 0.001", "vlb_weight: 0.0012"),
    "flow": ("diffusion_lab/families/flow/flow.py", "(2 / num_levels)", "(2.01 / num_levels)"),
}


@pytest.mark.thorough
def test_a_wrong_coefficient_is_noticed(tmp_path):
    """Each by its case, which executes none of the other wrong lines."""
    for folder in ("diffusion_lab", "conf", "hydra_plugins"):
        shutil.copytree(SCRIPT.parent.parent / folder, tmp_path / folder)
    for file, right, wrong in MUTATIONS.values():
        text = (tmp_path / file).read_text()
        assert text.count(right) == 1
        (tmp_path / file).write_text(text.replace(right, wrong))
    ended = script("--tree", tmp_path, *MUTATIONS)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "exit code" not in ended.stdout
    assert all(f"\n{case}/" in f"\n{ended.stdout}" for case in MUTATIONS), ended.stdout


def test_every_case_is_stored(golden):
    assert list(json.loads(golden.STORED.read_text())) == list(golden.cases()[1])


def test_a_change_of_a_weight_is_a_difference(golden):
    before = {"0/models/raw.safetensors:a": np.ones(100, np.float32)}
    after = {"0/models/raw.safetensors:a": np.ones(100, np.float32)}
    after["0/models/raw.safetensors:a"][3] += 1e-6
    (key,) = before
    assert golden.same_value(before[key], before[key].copy(), None)
    assert not golden.same_value(after[key], before[key], None)
    assert golden.same_value(after[key], before[key], 1e-5)
    assert golden.same_summary(*(golden.summaries(x)[key.partition(":")[0]] for x in (after, before)))
    after[key][3] += 0.1
    assert not golden.same_value(after[key], before[key], 1e-5)
    assert not golden.same_summary(*(golden.summaries(x)[key.partition(":")[0]] for x in (after, before)))
