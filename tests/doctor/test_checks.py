"""Each check on a machine that has the thing, and on one that lacks it. The machine is a stand-in."""

import os
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.utils import instantiate

from diffusion_lab.conf_dir import CONF
from diffusion_lab.doctor import software
from diffusion_lab.doctor.data import data_sets, inception_weights
from diffusion_lab.doctor.finding import BROKEN, LACKS, OK, Check, Finding, run_checks
from diffusion_lab.doctor.hardware import _free_memory, devices, disk
from diffusion_lab.doctor.services import slurm, weights_and_biases
from diffusion_lab.doctor.software import EXTRAS, compiler, extras, python_and_packages

from ..machine import EIGHT, pretend


def only(findings) -> Finding:
    (found,) = findings
    return found


@pytest.fixture
def program(tmp_path, monkeypatch):
    """program(name, script) is on the PATH, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return put


@pytest.mark.parametrize(("needed", "state"), [(True, BROKEN), (False, LACKS)])
def test_a_package_that_cannot_be_imported_is_a_finding(monkeypatch, needed, state):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = only(run_checks([Check("torch.compile", compiler, needed)]))
    assert (found.name, found.state) == ("torch.compile", state)
    assert "torch" in found.found


def test_python_and_what_the_package_requires(monkeypatch):
    assert [found.state for found in python_and_packages()] == [OK, OK]
    wanted = ["numpy>=999", "no-such-package", "wandb; extra == 'x'"]
    monkeypatch.setattr(software, "requires", lambda name: wanted)
    found = list(python_and_packages())[1]
    assert found.state == BROKEN
    assert "does not satisfy >=999; no-such-package is not installed" in found.found


def test_every_extra_is_checked_for_its_own_packages_only(monkeypatch):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys() - {"test", "dev", "docs"}
    wanted = ["no-such-package; extra == 'slurm'", "another-one; extra == 'mlflow'", "a-third"]
    monkeypatch.setattr(software, "requires", lambda name: wanted)
    found = {found.name: found for found in extras()}
    assert (
        found["extra slurm"].found
        == "no-such-package is not installed (for hydra/launcher=slurm and hydra/launcher=local)"
    )
    assert found["extra slurm"].to_do == "pip install 'diffusion-lab[slurm]'"
    assert found["extra optuna"].state == OK


def test_a_gpu_that_pytorch_cannot_use_is_not_taken_for_one(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    pretend(monkeypatch, tmp_path, EIGHT)
    found = only(devices())
    assert found.state == LACKS
    assert found.found.startswith("8 visible")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert only(devices()).found.startswith("none; training uses")


def test_a_compiler_that_is_not_there(program):
    assert only(compiler()).state == LACKS
    program(os.environ.get("CXX") or "g++", "")
    assert "C++ compiler" not in only(compiler()).found


def test_the_disk_of_outputs_that_do_not_exist_yet(tmp_path, monkeypatch):
    assert only(disk(tmp_path / "a" / "b")).state == OK
    (tmp_path / "file").touch()
    assert only(disk(tmp_path / "file" / "outputs")).state == BROKEN
    monkeypatch.setattr("shutil.disk_usage", lambda folder: os.terminal_size((0, 0)) and type("", (), {"free": 2**20}))
    assert only(disk(tmp_path)).state == BROKEN


def test_free_memory_is_that_of_the_container(tmp_path):
    assert _free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert _free_memory(tmp_path) == 8000 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    for limit, free in (("max", 8000 * 1024), ("5000", 4000)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert _free_memory(tmp_path) == free


def test_slurm(program):
    assert only(slurm()).found == "sbatch is not installed here"
    program("sbatch", "")
    program("sinfo", "exit 1")
    assert "does not respond" in only(slurm()).found
    program("sinfo", "echo gpu; echo cpu; echo gpu")
    assert only(slurm()) == Finding("Slurm", OK, "partitions: gpu, cpu")


def test_an_account_at_wandb(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    assert only(weights_and_biases()).to_do.startswith("run `wandb login`")
    monkeypatch.setattr("wandb.login", lambda prompt, verify: True)
    assert only(weights_and_biases()).state == OK
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert only(weights_and_biases()).found == "installed; WANDB_MODE=offline"
    assert "WANDB_SILENT" not in os.environ


def test_every_data_set_is_found_or_says_how_to_get_it():
    found = list(data_sets(CONF / "data", instantiate))
    assert found[0] == Finding("data=digits", OK, "ready")
    assert {finding.name for finding in found} == {f"data={file.stem}" for file in (CONF / "data").glob("*.yaml")}
    lacking = {finding.name: finding for finding in found if finding.state == LACKS}
    assert {"data=cifar10", "data=cifar100", "data=celeba"} <= lacking.keys()  # the cache folder is empty
    for finding in lacking.values():
        assert "missing" in finding.found or "not found" in finding.found
        assert finding.to_do.startswith("set data.download=true, ")


def test_the_weights_of_the_original_fid(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = only(inception_weights())
    assert found.state == LACKS
    assert str(tmp_path) in found.to_do
