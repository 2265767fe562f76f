"""The user's own code and choices are found in the working directory, which adds to what is installed and never replaces it."""

import shutil
import sys

import pytest
from omegaconf import OmegaConf

from diffusion_lab import load
from diffusion_lab.commands import main
from diffusion_lab.data.array_files import optional_package
from diffusion_lab.data.checks import DataError

from .conftest import STRIDED, TINY

HARM = "from pathlib import Path\nPath(__file__).with_name('harm').touch()\n"


@pytest.fixture
def write(lab):
    def write(name, text=HARM):
        file = lab.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


@pytest.mark.thorough
def test_the_working_directory_shadows_and_breaks_nothing(process):
    """Plugins of Hydra, files that are called like installed modules, and others that libraries import if they are there."""
    names = (
        "hydra_plugins/evil/__init__.py",
        "hydra_plugins/evil.py",
        "json.py",
        "typing.py",
        "omegaconf.py",
        "torch.py",
    )
    for name in names:
        file = process.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(HARM)
    for name in ("datasets", "pandas", "models", "utils", "train", "data", "metrics", "hydra", "lightning"):
        (process.folder / f"{name}.py").write_text("LOADED = True\n")
    done = process("train", *TINY, *STRIDED, "score=false")
    assert done.returncode == 0, done.stderr
    assert not [*process.folder.rglob("harm")]


def test_a_folder_is_no_optional_package(lab, monkeypatch):
    (lab.folder / "nowhere_installed").mkdir()
    monkeypatch.syspath_prepend(lab.folder)
    with pytest.raises(DataError, match="needs the package nowhere_installed"):
        optional_package("nowhere_installed", "x", "data=x")


@pytest.mark.parametrize(
    "option", ["schedule=mine", "schedule._target_=mine.Found", "+callbacks.own._target_=mine.Own"]
)
def test_the_users_own_code_is_found(lab, write, option):
    write(
        "mine.py",
        "import helped\nfrom lightning import Callback\nfrom diffusion_lab.diffusion import CosineSchedule as Found\n"
        "class Own(Callback):\n    def on_fit_start(self, *_):\n        helped.late()\n",
    )
    write("helped.py", "def late():\n    import later\n")
    write("later.py", "")
    write("conf/schedule/mine.yaml", "defaults: [cosine]\n_target_: mine.Found\n")
    lab.done("train", *TINY, *STRIDED, option, "score=false")


def test_our_choices_win_over_the_users(lab, write):
    write("conf/schedule/cosine.yaml", "_target_: harmful.X\n")
    write("conf/train.yaml", "_target_: harmful.X\n")
    out = lab.done("train", "schedule=cosine", "--cfg", "job")
    assert OmegaConf.create(out).schedule._target_ == "diffusion_lab.diffusion.CosineSchedule"


def test_nothing_else_is_read_here(lab, write, monkeypatch):
    monkeypatch.delenv("LAB_API_KEY", raising=False)
    write(".env", "LAB_API_KEY=x\n")
    write("conf/local/default.yaml", "outputs: elsewhere\n")
    assert OmegaConf.create(lab.done("train", "--cfg", "job")).outputs == "outputs"
    lab.refused("train", "outputs='${oc.env:LAB_API_KEY}'", said="LAB_API_KEY")


@pytest.mark.thorough
def test_ranks_and_jobs_find_the_users_code(tmp_path, zygote):
    """The yaml and the module of the working directory, in the two ranks of a queue's job."""
    (tmp_path / "conf/schedule").mkdir(parents=True)
    (tmp_path / "conf/schedule/mine.yaml").write_text("defaults: [cosine]\n_target_: mine.Mine\n")
    (tmp_path / "mine.py").write_text("from helped import CosineSchedule as Mine\n")
    (tmp_path / "helped.py").write_text("from diffusion_lab.diffusion import CosineSchedule\n")
    of_two = ["-m", "hydra/launcher=local", "trainer.devices=2", "trainer.accelerator=cpu"]
    process = zygote.start(tmp_path, "train", *of_two, *TINY, *STRIDED, "schedule=mine", "score=false")
    out, err = process.communicate()
    assert process.returncode == 0, err + out
    assert "2 processes" in out
    assert len(list((tmp_path / "outputs" / "models").glob("*/training.json"))) == 1


def test_options_before_the_command(lab, write, monkeypatch, capfd):
    write("train/schedule/mine.yaml", "defaults: [cosine]\nlog_snr_max: 3.0\n")
    line = ["diffusion-lab", "--config-dir", "train", "train", "schedule=mine", "--cfg", "job"]
    monkeypatch.setattr(sys, "argv", line)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 0
    assert OmegaConf.create(capfd.readouterr().out).schedule.log_snr_max == 3.0


def test_python_finds_the_users_choices(lab, write, trained_model):
    shutil.copytree(trained_model("diffusion_conditional"), lab.folder / "m")
    write("conf/sampler/mine.yaml", "defaults: [ddim]\neta: 0.5\nspacing: {num_steps: 3}\n")
    model = load("m")
    model.sample(1, sampler="mine")
    assert (model.module.sampler.eta, model.module.sampler.spacing.num_steps) == (0.5, 3)
