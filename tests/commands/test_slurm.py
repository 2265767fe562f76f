"""What a cluster does with our jobs, on a real Slurm: .ci/slurm starts one."""

import os
import signal
import subprocess

import pytest

from diffusion_lab.store.status_file import FAILED, INTERRUPTED
from diffusion_lab.training.checkpoints import load_state

from .cluster import (
    PACED,
    SLURM,
    assert_same_training,
    jobs,
    log,
    models,
    only_model,
    rows,
    scored_cells,
    status,
    wait_until,
)
from .conftest import ROUNDS_LITTLE, STRIDED, TINY, scored
from .test_families import COMMON, SMALL

pytestmark = [pytest.mark.thorough, pytest.mark.needs("slurm-wlm, munge"), pytest.mark.usefixtures("cluster")]


def test_a_sweep_of_two_families_and_the_same_again(process):
    command = ["train", *SLURM, "model=diffusion,vae", *SMALL["diffusion"], *COMMON]
    done = process(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = scored(process.folder)
    assert sorted(score["protocol"]["model"]["family"] for score in scores) == ["diffusion", "vae"]
    again = process(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 to train" in again.stdout
    assert "0 to score" in again.stdout


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


# ---- what ends a job of a real Slurm before its work is done, and how the work goes on ----


STEPS = 24
OPTIONS = [
    *TINY,
    *STRIDED,
    f"trainer.max_steps={STEPS}",
    "network.dropout=0.2",
    "callbacks.progress._target_=paced.Paced",
]


class Sweep:
    """`diffusion-lab train -m …` in a folder of its own."""

    def __init__(self, zygote, folder, *options):
        self.folder, self._zygote = folder, zygote
        self._options = [option for option in options if option.startswith("-")] + OPTIONS
        self._options += [option for option in options if not option.startswith("-")]
        folder.mkdir(exist_ok=True)
        (folder / "paced.py").write_text(PACED)

    def start(self):
        return self._zygote.start(self.folder, "train", *self._options, COLUMNS="200")

    def finish(self):
        """(exit code, stdout, stderr) of another process that is given the same command."""
        running = self.start()
        out, err = running.communicate()
        return running.returncode, out, err

    def log(self, model):
        """What training said."""
        (file,) = (self.folder / "outputs" / "sweeps").glob(f"*/jobs/{model.path.name}/log.txt")
        return file.read_text()

    def status(self):
        """What `diffusion-lab status` shows."""
        asked = self._zygote.start(self.folder / "asked", "status", "outputs=../outputs", COLUMNS="200")
        out, err = asked.communicate()
        assert asked.returncode == 0, err
        return out

    def pace(self, seconds):
        """How long a step takes from now on."""
        (self.folder / "asked").mkdir(exist_ok=True)
        file = self.folder / ".seconds_a_step"
        file.write_text(f"{seconds}") if seconds else file.unlink()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, zygote):
    """The sweep that nothing happened to, in processes of this machine."""
    sweep = Sweep(zygote, tmp_path_factory.mktemp("sweep") / "undisturbed", "-m", "seed=1,2")
    code, _, err = sweep.finish()
    assert code == 0, err
    return sweep


def twin(sweep, model):
    """The same model of another sweep."""
    (found,) = (other for other in models(sweep.folder) if other.path.name == model.path.name)
    return found


def begun(sweep, number=1, step=3):
    """The models of a sweep, in the order in which they began, once `number` of them have logged `step`."""
    wait_until(lambda: sum(len(rows(model)) >= step for model in models(sweep.folder)) == number)
    return models(sweep.folder)


def slurm(*command):
    subprocess.run(command, check=True, timeout=60)


def test_a_cancelled_job_is_saved_and_the_same_command(tmp_path, zygote, undisturbed):
    """A cancelled job is saved and the same command goes on."""
    sweep = Sweep(zygote, tmp_path / "sweep", *SLURM, "seed=1", "score=false")
    sweep.pace(0.5)
    running = sweep.start()
    (model,) = begun(sweep)
    assert "1 running" in sweep.status()
    (job,) = jobs(sweep.folder)
    logged = len(rows(model))
    slurm("scancel", job)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1, out
    saved = load_state(model.resume)["global_step"]
    assert logged <= saved == len(rows(model)) < STEPS
    assert status(model).state == INTERRUPTED
    assert status(model).reason.startswith(f"SIGTERM at step {saved}; everything is saved")
    assert f"SIGTERM at step {saved}" in err
    assert "Traceback" not in err
    assert f"SIGTERM at step {saved}" in sweep.status()

    sweep.pace(0)
    code, out, err = sweep.finish()
    assert code == 0, out + err
    assert len(jobs(sweep.folder)) == 2
    assert sweep.log(model).count(f"resuming from outputs/models/{model.path.name}/resume.ckpt") == 1
    assert_same_training(model, twin(undisturbed, model))


def test_a_job_saves_before_its_time_limit_and_goes_on(tmp_path, zygote, undisturbed):
    """Slurm looks at the time every half minute, so the signal comes 20 to 50 seconds after the start."""
    limit = ["hydra.launcher.time=1", "hydra.launcher.signal_delay_s=10"]
    sweep = Sweep(zygote, tmp_path / "sweep", *SLURM, *limit, "seed=1", "score=false")
    sweep.pace(3)
    running = sweep.start()
    (model,) = begun(sweep, step=1)
    (job,) = jobs(sweep.folder)
    wait_until(lambda: status(model).state == INTERRUPTED)
    sweep.pace(0)
    assert "SIGUSR2 at step" in status(model).reason
    out, err = running.communicate()
    assert running.returncode == 0, out + err
    assert jobs(sweep.folder) == [job]
    assert log(sweep.folder, job).count(f"Requeued job {job}") == 1
    assert_same_training(model, twin(undisturbed, model))


def test_a_killed_job_costs_its_row(tmp_path, zygote, undisturbed):
    """A killed job costs its row and the same command mends it."""
    sweep = Sweep(zygote, tmp_path / "sweep", *SLURM, "seed=1,2", "callbacks.checkpoint.every_n_steps=2")
    sweep.pace(0.5)
    running = sweep.start()
    victim, _ = begun(sweep, number=2)
    os.kill(status(victim).pid, signal.SIGKILL)
    wait_until(lambda: "failed" in sweep.status(), 20)  # before the sweep itself knows
    sweep.pace(0)
    out, err = running.communicate()
    assert running.returncode == 1, out + err
    assert "1 of 2 cells failed" in err
    (job,) = (job for job in jobs(sweep.folder) if "Killed" in log(sweep.folder, job))
    reason = f"Slurm reports FAILED after SIGKILL; its log is {sweep.folder}/outputs/jobs/{job}_0_log.out"
    assert (status(victim).state, status(victim).reason) == (FAILED, reason)
    assert err.count(reason) == 1
    assert "models: 1 done, 1 failed; cells: 1 done, 1 failed" in sweep.status()
    assert [cell["state"] for cell in scored_cells(sweep.folder)].count("done") == 1

    code, out, err = sweep.finish()
    assert code == 0, out + err
    assert "1 to train, 1 reused" in out
    for model in models(sweep.folder):
        assert_same_training(model, twin(undisturbed, model))
    assert scored_cells(sweep.folder) == scored_cells(undisturbed.folder)


def test_two_nodes_train_what_one_does(tmp_path, zygote):
    """Two nodes train what one does also when their job is requeued."""
    options = [*ROUNDS_LITTLE, "trainer.max_steps=8", "network.dropout=0.0", "score=false"]
    one = Sweep(zygote, tmp_path / "one", "-m", *options)
    code, _, err = one.finish()
    assert code == 0, err

    nodes = ["hydra.launcher.partition=pair", "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2"]
    two = Sweep(zygote, tmp_path / "two", *SLURM, *options, *nodes)
    two.pace(0.5)
    running = two.start()
    (model,) = begun(two)
    (job,) = jobs(two.folder)
    shown = subprocess.check_output(["squeue", "--noheader", "--format=%D", f"--jobs={job}"], text=True)
    assert shown.split() == ["2"]
    slurm("scontrol", "requeue", job)
    wait_until(lambda: status(model).state == INTERRUPTED, 30)
    two.pace(0)
    out, err = running.communicate()
    assert running.returncode == 0, out + err
    assert two.log(model).count("resuming from") == 1
    for column in ("step", "train/loss", "train/mse", "train/vlb", "train/grad_norm"):
        losses = [[float(row[column]) for row in rows(only_model(sweep.folder))] for sweep in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), column
