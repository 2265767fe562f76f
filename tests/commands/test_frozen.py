"""A sweep runs from a copy of the code and the configs that it was planned with: edits afterwards change and stop nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from diffusion_lab.commands.sweeping import config_folders
from diffusion_lab.conf_dir import CONF
from diffusion_lab.store import SweepDirectory
from diffusion_lab.store.status_file import RUNNING, read_status

from .cluster import PACED, models, wait_until
from .conftest import STRIDED, TINY

ROOT = Path(__file__).parent.parent.parent
MINE = """\
from pathlib import Path

from diffusion_lab.diffusion import LinearSchedule
from steepness import FACTOR


class MySchedule(LinearSchedule):
    def alpha_bar(self):
        return super().alpha_bar() ** (FACTOR * float(Path(__file__).with_name("table.txt").read_text()))
"""


def test_every_folder_of_configs_is_copied(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"hydra.searchpath=[file://{tmp_path}]"], return_hydra_config=True)
    assert config_folders(cfg) == [tmp_path]


# Whoever removes one of the two files, which are there once, fails or dies.
RAY = """\
import os
import signal
from contextlib import suppress
from pathlib import Path

from diffusion_lab.metrics.metric import Metric


class Ray(Metric):
    def measures(self, namings):
        return ()

    def score(self, subject, scores):
        with suppress(FileNotFoundError):
            Path("kills").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        with suppress(FileNotFoundError):
            Path("fails").unlink()
            raise RuntimeError("a cosmic ray")
"""
STEEP = "# @package _global_\ntrainer:\n  max_steps: 3\n"


@pytest.fixture
def lab_copy(tmp_path):
    """A copy of the lab that may be edited, a folder with a user's own code and configs, and how a command starts there."""
    for folder in ("diffusion_lab", "hydra_plugins"):
        shutil.copytree(ROOT / folder, tmp_path / "lab" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONF, tmp_path / "lab" / "conf", dirs_exist_ok=True)
    work = tmp_path / "work"
    (work / "my_configs" / "experiment").mkdir(parents=True)
    (work / "my_configs" / "experiment" / "steep.yaml").write_text(STEEP)
    (work / "mine.py").write_text(MINE)
    (work / "steepness.py").write_text("FACTOR = 1.5\n")
    (work / "table.txt").write_text("1.0")
    (work / "paced.py").write_text(PACED)
    return tmp_path


def command(folder, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "lab"), "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-m", "diffusion_lab", "train", "-m", *options],
        cwd=folder / "work",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def planned(work):
    """Names of the models of the only sweep."""
    (sweep,) = (work / "outputs" / "sweeps").iterdir()
    return {cell["model"] for cell in SweepDirectory(sweep).read_sweep()["cells"]}


def edit(path, old, new):
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))


@pytest.mark.thorough
def test_an_edit_after_the_plan_changes_nothing(lab_copy):
    """Edited while two ranks train: what scores the model starts afterwards, in the code that it was planned with."""
    work, lab = lab_copy / "work", lab_copy / "lab"
    (work / "seconds_a_step").write_text("1")
    own = ["--config-dir", "my_configs", "experiment=steep", "schedule=linear", "schedule._target_=mine.MySchedule"]
    tiny = [option for option in TINY if "max_steps" not in option]
    ranks = ["hydra/launcher=basic", "trainer.devices=2", "trainer.accelerator=cpu"]
    sweep = command(lab_copy, *own, *tiny, *STRIDED, *ranks, "callbacks.progress._target_=paced.Paced")
    wait_until(lambda: any((said := read_status(m.path)) and said.state == RUNNING for m in models(work)))
    names = planned(work)
    edit(work / "steepness.py", "1.5", "1.4")
    edit(lab / "diffusion_lab" / "metrics" / "frechet_distance.py", "def frechet_distance(", "def another(")
    edited = [path for room in ("diffusion", "report") for path in (lab / "diffusion_lab" / room).glob("*.py")]
    for broken in (work / "mine.py", *edited):
        broken.write_text("raise SystemExit('edited')\n")
    for gone in (
        work / "paced.py",
        work / "my_configs" / "experiment" / "steep.yaml",
        lab / "conf" / "sampler" / "strided.yaml",
        work / "seconds_a_step",
    ):
        gone.unlink()
    out, err = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, out + err
    (model,) = models(work)
    assert {model.path.name} == names
    assert model.read_training()["steps"] == 3
    (metrics,) = (work / "outputs" / "runs").glob("*/metrics.json")
    assert metrics.is_file()


@pytest.mark.thorough
@pytest.mark.needs("slurm-wlm, munge")
@pytest.mark.usefixtures("cluster")
def test_a_sweep_whose_code_is_edited_as_it_runs(lab_copy):
    """One cell fails, another one kills its job, and all code is edited as soon as the first model trains."""
    work, room = lab_copy / "work", lab_copy / "lab" / "diffusion_lab" / "metrics"
    (work / "ray.py").write_text(RAY)
    for what in ("fails", "kills"):
        (work / what).touch()
    axes = ["seed=1,2", "sampler=strided,ddim", "sampler.spacing.num_steps=2,3"]
    options = [*TINY, *axes, "+metrics.ray._target_=ray.Ray", "hydra/launcher=slurm"]
    sweep = command(lab_copy, *options)
    wait_until(lambda: models(work))
    code = {path: path.read_text() for path in (work / "ray.py", *room.rglob("*.py"))}
    for path in code:
        path.write_text("raise SystemExit('edited')\n")
    out, err = sweep.communicate(timeout=600)
    assert sweep.returncode == 1, out + err
    assert "2 of 8 cells failed" in err
    assert "a cosmic ray" in err
    assert len(list((work / "outputs" / "runs").glob("*/metrics.json"))) == 6
    for path, text in code.items():
        path.write_text(text)
    again = command(lab_copy, *options)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, out + err
    assert "2 models: 0 to train, 2 reused" in out
    assert "8 cells: 2 to score, 6 scored already" in out
    logs = "".join(path.read_text() for path in (work / "outputs" / "sweeps").glob("*/jobs/*/log.txt"))
    assert logs.count("training images") == 2
