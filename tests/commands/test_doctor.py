"""Each check on a machine that has the thing, and on one that lacks it; the machine is a stand-in."""

import tomllib
from pathlib import Path

import pytest

from diffusion_lab.commands import doctor
from diffusion_lab.commands.doctor import BROKEN, LACKS, OK, Finding
from diffusion_lab.conf_dir import CONF

from ..machine import EIGHT, pretend
from .conftest import files


@pytest.fixture(autouse=True)
def quick_and_nobody(monkeypatch):
    """No account at W&B, and a Slurm that answers at once."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    monkeypatch.setattr(doctor, "_CONTROLLER_SECONDS", 1)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """program(name, script) is on the PATH, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return put


def states(findings) -> list[str]:
    return [found.state for found in findings]


def test_what_is_missing_has_a_fix_and_training_works(lab):
    code, out, err = lab("doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "`diffusion-lab train` works here."
    assert [after.strip()[:1] == "→" for after in lines[1:]] == [line.startswith("missing") for line in lines[:-1]]
    assert files(lab.folder) == []


def test_what_training_needs_ends_in_an_error(lab, monkeypatch):
    (lab.folder / "mine").touch()
    code, out, err = lab("doctor", "outputs=mine/outputs")
    assert code == 1
    assert "broken  disk" in out
    assert err == "diffusion-lab doctor: `diffusion-lab train` does not work here; fix disk first (see above)\n"


def test_python_and_what_the_package_requires(monkeypatch):
    assert states(doctor.packages()) == [OK, OK]
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=999", "no-such-package", "wandb; extra == 'x'"])
    _, found = doctor.packages()
    assert found.state == BROKEN
    assert "does not satisfy >=999; no-such-package is not installed" in found.found


def test_every_extra_is_checked_for_its_own_packages(monkeypatch):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert doctor.EXTRAS.keys() == project["optional-dependencies"].keys() - {"test", "dev", "docs"}
    wanted = ["no-such-package; extra == 'slurm'", "another-one; extra == 'mlflow'", "a-third"]
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    found = {found.name: found for found in doctor.extras()}
    assert found["extra slurm"].found.startswith("no-such-package is not installed (for ")
    assert found["extra slurm"].to_do == "pip install 'diffusion-lab[slurm]'"
    assert found["extra optuna"].state == OK


def test_a_gpu_that_pytorch_cannot_use_counts_as_none(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    pretend(monkeypatch, tmp_path, EIGHT)
    _, found = doctor.devices()
    assert (found.state, found.found.partition(",")[0]) == (LACKS, "8 visible")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)  # as OMP_NUM_THREADS=3 sets it
    _, found = doctor.devices()
    assert found.found.startswith("none; training runs on CPU, 3 threads")


def test_slurm(program):
    assert [found.found for found in doctor.slurm()] == ["sbatch is not installed here"]
    program("sbatch", "")
    program("sinfo", "exit 1")
    assert states(doctor.slurm()) == [LACKS]
    program("sinfo", "echo gpu; echo cpu; echo gpu")
    assert list(doctor.slurm()) == [Finding("Slurm", "partitions: gpu, cpu")]


def test_every_data_set_is_found_or_says_how_to_get_it():
    first, *others = doctor.data_sets()
    assert first == Finding("data=digits", "ready", needed=True)
    assert {found.name for found in (first, *others)} == {
        f"data={file.stem}" for file in (CONF / "data").glob("*.yaml")
    }
    lacking = {found.name: found.to_do for found in others if found.state == LACKS}
    assert {"data=cifar10", "data=cifar100", "data=celeba"} <= lacking.keys()  # the cache folder is empty
    assert all(to_do.startswith("set data.download=true, ") for to_do in lacking.values())
