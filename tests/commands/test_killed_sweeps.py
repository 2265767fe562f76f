"""kill -9 in the middle of a sweep, then the same command or another one at work: the table is that of an undisturbed sweep."""

import os
import random
import signal
import time
from contextlib import suppress

import pytest

from diffusion_lab.store.status_file import RUNNING, read_status

from .cluster import PACED, models, scored_cells, wait_until
from .conftest import TINY

STEPS = 24
OPTIONS = [
    *TINY,
    "seed=1,2",
    f"trainer.max_steps={STEPS}",
    "network.dropout=0.2",
    "callbacks.checkpoint.every_n_steps=4",
    "callbacks.progress._target_=paced.Paced",
]
CELLS = "sampler.spacing.num_steps=2,3"


@pytest.fixture
def sweep(tmp_path, zygote):
    """sweep(option, …) -> a running sweep in the test's folder, a twentieth of a second a step."""
    (tmp_path / "paced.py").write_text(PACED)
    (tmp_path / "seconds_a_step").write_text("0.05")
    return lambda *more: zygote.start(tmp_path, "train", "-m", *OPTIONS, *more, COLUMNS="200")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, zygote):
    """The cells of the sweep that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "paced.py").write_text(PACED)
    running = zygote.start(folder, "train", "-m", *OPTIONS, CELLS)
    _, err = running.communicate()
    assert running.returncode == 0, err
    cells = scored_cells(folder)
    assert len(cells) == 4
    return cells


def at_work(folder):
    """(pid, model) of the training that has a checkpoint and is not over."""
    for model in models(folder):
        said = read_status(model.path)
        if said and said.state == RUNNING and model.resume.is_file():
            return said.pid, model
    return None


def metrics(folder):
    return list((folder / "outputs" / "runs").glob("*/metrics.json"))


@pytest.mark.thorough
def test_a_sweep_killed_at_random_moments_goes_on(tmp_path, sweep, undisturbed):
    """Between its first checkpoint and its end, which is some eight seconds later. KILLS: how often."""
    moments = random.Random(int(os.environ.get("SEED", "0")))
    for _ in range(int(os.environ.get("KILLS", "3"))):
        running = sweep(CELLS)
        wait_until(lambda: at_work(tmp_path) or metrics(tmp_path))
        time.sleep(moments.uniform(0, 3))
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    again = sweep(CELLS)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert scored_cells(tmp_path) == undisturbed


@pytest.mark.thorough
@pytest.mark.needs("submitit")
def test_a_killed_worker_fails_its_model(tmp_path, sweep, undisturbed):
    """A killed worker fails its model and the same command completes the table.

    Of each model one of the cells, because every job is a process that starts from nothing.
    """
    options = ["sampler.spacing.num_steps=2", "hydra/launcher=local", "hydra.launcher.parallel=1"]
    running = sweep(*options)
    wait_until(lambda: at_work(tmp_path))
    pid, model = at_work(tmp_path)
    os.kill(pid, signal.SIGKILL)
    _, err = running.communicate()
    assert running.returncode == 1
    assert not model.finished
    assert "killed; its log is" in err
    assert len(metrics(tmp_path)) == 1, "the other model's cell is scored"
    again = sweep(*options)
    _, err = again.communicate()
    assert again.returncode == 0, err
    cells = scored_cells(tmp_path)
    expected = [cell for cell in undisturbed if cell["sampler.spacing.num_steps"] == "2"]
    assert {"seed", "fd_pixels", "bits_per_dim", "run"} <= cells[0].keys()
    assert cells == [{name: cell[name] for name in cells[0]} for cell in expected]
