"""What a cluster does with our jobs, on a real Slurm: .ci/slurm starts one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, RUNNING, read_status
from diffusion_lab.training.checkpoints import load_state

from .cluster import (
    PACED,
    SLURM,
    assert_same_training,
    in_queue,
    jobs,
    log,
    models,
    only_model,
    rows,
    scored_cells,
    status,
    wait_until,
)
from .conftest import ROUNDS_LITTLE, STRIDED, TINY

pytestmark = [pytest.mark.thorough, pytest.mark.needs("slurm-wlm, munge"), pytest.mark.usefixtures("cluster")]
ROOT = Path(__file__).parent.parent.parent
STEPS = 24
OPTIONS = [
    *TINY,
    *STRIDED,
    f"trainer.max_steps={STEPS}",
    "network.dropout=0.2",
    "callbacks.progress._target_=paced.Paced",
]


def test_slurm_takes_the_script_of_a_dry_run(lab, tmp_path):
    site = [
        "hydra.launcher.partition=pair",
        "hydra.launcher.nodes=2",
        "hydra.launcher.mem=1GB",
        "hydra.launcher.setup=[ulimit -c 0]",
        "seed=1,2",
    ]
    out = lab.done("train", *SLURM, "hydra.launcher.dry_run=true", *TINY, *STRIDED, *site)
    (tmp_path / "script.sh").write_text(out[out.index("#!/bin/bash") :])
    asked = subprocess.run(["sbatch", "--test-only", "script.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert "using 2 processors" in asked.stderr
    assert "in partition pair" in asked.stderr


class Sweep:
    """`diffusion-lab train -m …` in a folder of its own."""

    def __init__(self, zygote, folder, *options):
        self.folder, self._zygote = folder, zygote
        self._options = [option for option in options if option.startswith("-")] + OPTIONS
        self._options += [option for option in options if not option.startswith("-")]
        folder.mkdir(exist_ok=True)
        (folder / "asked").mkdir(exist_ok=True)
        (folder / "paced.py").write_text(PACED)

    def run(self):
        """(exit code, stdout, stderr) of the command, which returns at once where it submits jobs."""
        running = self._zygote.start(self.folder, "train", *self._options, COLUMNS="200")
        out, err = running.communicate()
        return running.returncode, out, err

    def submit(self):
        code, out, err = self.run()
        assert code == 0, err
        assert "submitted as" in out
        assert "report" not in out.splitlines()[-3]

    def say(self, command):
        """What `diffusion-lab status` or `report` prints."""
        asked = self._zygote.start(self.folder / "asked", command, "outputs=../outputs", COLUMNS="200")
        out, err = asked.communicate()
        assert asked.returncode == 0, err
        return out

    def wait(self):
        """Until Slurm has none of its jobs."""
        wait_until(lambda: not {*jobs(self.folder).values()} & in_queue().keys(), 200, pause=0.5)

    def finish(self):
        """Wait for the jobs; the same command then finds everything done, and makes the report."""
        self.wait()
        code, out, err = self.run()
        assert code == 0, out + err
        assert "submitted" not in out, "everything was done"
        return out

    def log(self, model):
        """What training said."""
        (file,) = (self.folder / "outputs" / "sweeps").glob(f"*/jobs/{model.path.name}/log.txt")
        return file.read_text()

    def pace(self, seconds):
        """How long a step takes from now on."""
        file = self.folder / ".seconds_a_step"
        file.write_text(f"{seconds}") if seconds else file.unlink()


def slurm(*command):
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, zygote):
    """The sweep that nothing happened to, in a process of this machine."""
    sweep = Sweep(zygote, tmp_path_factory.mktemp("sweep") / "undisturbed", "-m", "seed=1,2")
    code, _, err = sweep.run()
    assert code == 0, err
    return sweep


def twin(sweep, model):
    """The same model of another sweep."""
    (found,) = (other for other in models(sweep.folder) if other.path.name == model.path.name)
    return found


def begun(sweep, number=1, step=3):
    """The models of a sweep once `number` of them have logged `step`."""
    wait_until(lambda: sum(len(rows(model)) >= step for model in models(sweep.folder)) == number)
    return models(sweep.folder)


def test_submission_returns_and_nothing_is_submitted_twice(tmp_path, zygote, undisturbed):
    """A requeued job goes on where it was, and the same command at the end makes the report of an undisturbed sweep."""
    sweep = Sweep(zygote, tmp_path / "sweep", *SLURM, "seed=1,2")
    sweep.pace(5)  # neither training ends before its state was seen
    sweep.submit()
    submitted = jobs(sweep.folder)
    assert len(submitted) == 2
    code, out, err = sweep.run()
    assert (code, jobs(sweep.folder)) == (0, submitted), err
    assert "in the queue already: 2 of " in out
    assert "submitted as" not in out

    begun(sweep, number=2, step=1)
    said = sweep.say("status")
    assert "models: 2 running; cells: 2 queued" in said
    assert f"scancel {next(iter(submitted.values())).partition('_')[0]}\n" in said
    (requeued, job) = next(iter(submitted.items()))
    slurm("scontrol", "requeue", job)
    wait_until(lambda: "models: 1 requeued, 1 running" in sweep.say("status"))
    sweep.pace(0)
    assert "0 to train" in sweep.finish()
    assert jobs(sweep.folder) == submitted
    for model in models(sweep.folder):
        assert sweep.log(model).count("resuming from") == (model.path.name == requeued)
        assert_same_training(model, twin(undisturbed, model))
    assert scored_cells(sweep.folder) == scored_cells(undisturbed.folder)


def test_a_cancelled_job_is_saved_and_the_same_command_goes_on(tmp_path, zygote, undisturbed):
    sweep = Sweep(zygote, tmp_path / "sweep", *SLURM, "seed=1", "score=false")
    sweep.pace(0.5)
    sweep.submit()
    (model,) = begun(sweep)
    logged = len(rows(model))
    slurm("scancel", *jobs(sweep.folder).values())
    sweep.wait()
    saved = load_state(model.resume)["global_step"]
    assert logged <= saved == len(rows(model)) < STEPS
    assert status(model).state == INTERRUPTED
    assert status(model).reason.startswith(f"SIGTERM at step {saved}; everything is saved")
    assert f"SIGTERM at step {saved}" in sweep.say("status")

    sweep.pace(0)
    sweep.submit()
    sweep.finish()
    assert sweep.log(model).count(f"resuming from outputs/models/{model.path.name}/resume.ckpt") == 1
    assert_same_training(model, twin(undisturbed, model))


def test_a_job_saves_before_its_time_limit_and_is_requeued(tmp_path, zygote, undisturbed):
    """Slurm looks at the time every half minute, so the signal comes 20 to 50 seconds after the start."""
    limit = ["hydra.launcher.time=1", "hydra.launcher.signal_delay_s=10"]
    sweep = Sweep(zygote, tmp_path / "sweep", *SLURM, *limit, "seed=1", "score=false")
    sweep.pace(3)
    sweep.submit()
    (model,) = begun(sweep, step=1)
    (job,) = jobs(sweep.folder).values()
    wait_until(lambda: status(model).state == INTERRUPTED)
    sweep.pace(0)
    assert "SIGUSR2 at step" in status(model).reason
    sweep.finish()
    assert log(sweep.folder, job).count(f"Requeued job {job}") == 1
    assert_same_training(model, twin(undisturbed, model))


def test_a_killed_job_and_a_failed_model_say_why(tmp_path, zygote, undisturbed):
    """Two of three models: the third is trained and scored; the same command makes the killed one."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "fails.py").write_text(
        "from lightning import Callback\n\n\nclass Fails(Callback):\n    def __init__(self, seed):\n        self.seed = seed\n\n"
        "    def on_train_start(self, *_):\n        if self.seed == 3:\n            raise RuntimeError('a cosmic ray')\n"
    )
    fails = ["+callbacks.fails._target_=fails.Fails", "+callbacks.fails.seed=${seed}"]
    sweep = Sweep(zygote, tmp_path / "sweep", *SLURM, "seed=1,2,3", "callbacks.checkpoint.every_n_steps=2", *fails)
    sweep.pace(0.5)
    sweep.submit()
    victim, *_ = begun(sweep, number=2)
    os.kill(status(victim).pid, signal.SIGKILL)
    sweep.pace(0)
    sweep.wait()
    job = jobs(sweep.folder)[victim.path.name]
    said = " ".join(sweep.say("status").split())
    assert "models: 1 done, 2 failed; cells: 1 done, 2 failed" in said
    assert "a cosmic ray" in said
    assert f"{job}_0_log.out" in said
    sweep.say("report")
    reasons = {cell["state"]: cell for cell in scored_cells(sweep.folder)}
    assert {*reasons} == {"done", "failed"}
    page = (next((sweep.folder / "outputs" / "sweeps").glob("*/report/report.html"))).read_text()
    assert "a cosmic ray" in page
    assert "ended without giving a reason" in page

    sweep.submit()
    sweep.wait()
    assert [status(model).state for model in models(sweep.folder)].count(FAILED) == 1
    assert victim.finished


def test_two_nodes_train_what_one_does(tmp_path, zygote):
    """Two nodes train what one does also when their job is requeued."""
    options = [*ROUNDS_LITTLE, "trainer.max_steps=8", "network.dropout=0.0", "score=false"]
    one = Sweep(zygote, tmp_path / "one", "-m", *options)
    code, _, err = one.run()
    assert code == 0, err

    nodes = ["hydra.launcher.partition=pair", "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"]
    two = Sweep(zygote, tmp_path / "two", *SLURM, *options, *nodes)
    two.pace(0.5)
    two.submit()
    (model,) = begun(two)
    (job,) = jobs(two.folder).values()
    shown = subprocess.check_output(["squeue", "--noheader", "--format=%D", f"--jobs={job}"], text=True)
    assert shown.split() == ["2"]
    slurm("scontrol", "requeue", job)
    wait_until(lambda: status(model).state == INTERRUPTED, 30)
    two.pace(0)
    two.finish()
    assert two.log(model).count("resuming from") == 1
    for column in ("step", "train/loss", "train/mse", "train/vlb", "train/grad_norm"):
        losses = [[float(row[column]) for row in rows(only_model(sweep.folder))] for sweep in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), column


@pytest.mark.needs("hydra-optuna-sweeper")
@pytest.mark.skipif(find_spec("optuna") is None, reason="pip install 'diffusion-lab[optuna]'")
def test_a_search_is_told_the_values_of_jobs(tmp_path, zygote):
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=2",
        "objective_metric=bits_per_dim",
    ]
    searching = zygote.start(tmp_path, "train", *SLURM, *TINY, *STRIDED, *search, "seed=choice(1,2)")
    out, err = searching.communicate()
    assert searching.returncode == 0, out + err
    (result,) = (tmp_path / "outputs" / "sweeps").rglob("optimization_results.yaml")
    values = [json.loads(path.read_text())["values"] for path in (tmp_path / "outputs" / "runs").glob("*/metrics.json")]
    assert f"best_value: {min(value['bits_per_dim'] for value in values)}" in result.read_text()


# ---- jobs run from a copy of the code and configs that they were planned with: edits afterwards change and stop nothing ----


MINE = """\
from pathlib import Path

from diffusion_lab.diffusion import LinearSchedule
from steepness import FACTOR


class MySchedule(LinearSchedule):
    def alpha_bar(self):
        return super().alpha_bar() ** (FACTOR * float(Path(__file__).with_name("table.txt").read_text()))
"""


@pytest.fixture
def lab_copy(tmp_path):
    """A copy of the lab that may be edited, and a folder with a user's own code and configs."""
    for folder in ("diffusion_lab", "hydra_plugins"):
        shutil.copytree(ROOT / folder, tmp_path / "lab" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONF, tmp_path / "lab" / "conf", dirs_exist_ok=True)
    work = tmp_path / "work"
    (work / "my_configs" / "experiment").mkdir(parents=True)
    steep = "# @package _global_\ntrainer:\n  max_steps: 3\n"
    (work / "my_configs" / "experiment" / "steep.yaml").write_text(steep)
    (work / "mine.py").write_text(MINE)
    (work / "steepness.py").write_text("FACTOR = 1.5\n")
    (work / "table.txt").write_text("1.0")
    (work / "paced.py").write_text(PACED)
    return tmp_path


def test_edits_after_submission_change_nothing(lab_copy):
    """Edited while the job waits in the queue; in the end the same command, before the edit, would find its model."""
    work, lab = lab_copy / "work", lab_copy / "lab"
    own = ["--config-dir", "my_configs", "experiment=steep", "schedule=linear", "schedule._target_=mine.MySchedule"]
    tiny = [*(option for option in TINY if "max_steps" not in option), "schedule.num_timesteps=24"]
    options = [*own, *tiny, *STRIDED, "callbacks.progress._target_=paced.Paced", "+hydra.launcher.more.begin=now+12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(lab), "COLUMNS": "120"}
    command = [sys.executable, "-m", "diffusion_lab", "train", *SLURM, *options]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    ((name, job),) = jobs(work).items()
    assert in_queue()[job] == "PENDING"
    (work / "steepness.py").write_text("FACTOR = 1.4\n")
    edited = [path for room in ("diffusion", "report") for path in (lab / "diffusion_lab" / room).glob("*.py")]
    for broken in (work / "mine.py", *edited):
        broken.write_text("raise SystemExit('edited')\n")
    for gone in (
        work / "paced.py",
        work / "my_configs" / "experiment" / "steep.yaml",
        lab / "conf" / "sampler" / "strided.yaml",
    ):
        gone.unlink()
    wait_until(lambda: job not in in_queue(), 200, pause=0.5)
    (model,) = models(work)
    assert (model.path.name, model.finished) == (name, True), log(work, job)
    assert model.read_training()["steps"] == 3
    assert len(list((work / "outputs" / "runs").glob("*/metrics.json"))) == 1
    assert read_status(model.path).state != RUNNING
