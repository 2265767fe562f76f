"""What `doctor` says of a machine that has a thing, and of one that lacks it; the machine is a stand-in."""

import tomllib
from pathlib import Path

import pytest

from diffusion_lab.commands import doctor

from ..machine import pretend
from .conftest import files


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """No account at W&B."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)


def test_what_is_missing_has_a_fix_and_training_works(lab, monkeypatch):
    """The cache folder is empty: published data sets are missing."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    code, out, err = lab("doctor")
    lines = out.splitlines()
    assert (code, err, lines[-1]) == (0, "", "`diffusion-lab train` works here.")
    assert [after.strip()[:1] == "→" for after in lines[1:]] == [line.startswith("missing") for line in lines[:-1]]
    for line in ("ok      data=digits  ", "missing data=cifar10  ", "missing data=emoji  ", "missing W&B  "):
        assert line in out
    assert files(lab.folder) == []


def test_what_training_needs_ends_in_an_error(lab, monkeypatch):
    (lab.folder / "mine").touch()
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=999", "no-such-package", "wandb; extra == 'x'"])
    code, out, err = lab("doctor", "outputs=mine/outputs")
    assert code == 1
    assert "broken  disk" in out
    assert "does not satisfy >=999; no-such-package is not installed" in out
    assert "fix packages, disk first" in err


def test_a_package_that_cannot_be_imported_is_found(lab, monkeypatch):
    def broken():
        raise ImportError("libcudart.so: cannot open")

    monkeypatch.setattr(doctor, "pytorch", broken)
    code, out, err = lab("doctor")
    assert code == 1
    assert "→ repair the installation: libcudart.so: cannot open" in out
    assert "fix PyTorch first" in err


def test_every_extra_is_checked(monkeypatch):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys() - {"test", "dev", "docs"}
    assert {f"extra {name}" for name in extras} <= doctor.checks(Path()).keys()
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-package; extra == 'slurm'", "another-one"])
    assert doctor.extra("slurm") == ("no-such-package is not installed", "pip install 'diffusion-lab[slurm]'")
    assert doctor.extra("optuna")[1] == ""


def test_a_gpu_that_pytorch_cannot_use_counts_as_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    pretend(monkeypatch, 8)
    assert doctor.gpus()[0].startswith("8 visible, but PyTorch can use none of them")
    pretend(monkeypatch, 8, "")
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)  # as OMP_NUM_THREADS=3 sets it
    assert doctor.gpus()[0].startswith("none; training runs on CPU, 3 threads")


def test_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.slurm()[0] == "sbatch is not installed here"
    for script, found in (("exit 1", "not respond"), ("echo gpu; echo cpu; echo gpu", "partitions: gpu, cpu")):
        for name in ("sbatch", "sinfo"):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        assert doctor.slurm()[0].endswith(found)
