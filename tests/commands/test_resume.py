"""A run that was killed and started again is the run: the same bits in weights, averages, optimizer, history and log."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffusion_lab.commands.main import main
from diffusion_lab.store import ModelDirectory, lock, newest_model
from diffusion_lab.store.status_file import INTERRUPTED, read_status
from diffusion_lab.training.checkpoints import load_state

from .cluster import STOP, assert_same_training, assert_same_weights, rows, wait_until
from .conftest import FLOW_MAPS, STRIDED, TINY, of_flow_map, with_network
from .zygote import Fork

Process = Fork | subprocess.Popen

# Everything random in training, at once: dropout, loss-aware t, mirrored images; with condition=classes dropped labels too.
EVERYTHING = [o for o in TINY if not o.startswith(("trainer.max_steps", "evaluation"))] + [
    *STRIDED,
    "network.dropout=0.2",
    "variance=learned",
    "objective=vlb",
    "timesteps=loss_aware",
    "timesteps.history_per_timestep=1",
    "data.flip=true",
    "callbacks.checkpoint.every_n_steps=3",
    "score=false",
]


class Training:
    """One training in a folder, by processes that `start` makes."""

    def __init__(self, start: Callable[..., Process], folder: Path, *options: str) -> None:
        self._start, self.folder, self.options = start, folder, options
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Process:
        return self._start(self.folder, "train", *self.options)

    def finish(self) -> None:
        process = self.start()
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err

    def kill_at(self, step: int) -> bool:
        """Start it and kill it, with all it started, once it has logged `step` or more; False if it was faster."""
        before = self._logged_at()
        process = self.start()
        while process.poll() is None and (self._logged_at() == before or self.step() < step):
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.02))  # anywhere in a step, in a write of a checkpoint too
        killed = process.poll() is None
        if killed:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return killed

    def _logged_at(self) -> int | None:
        files = list(self.folder.glob("outputs/models/*/metrics.csv"))
        return files[0].stat().st_mtime_ns if files else None

    @property
    def directory(self) -> ModelDirectory:
        (path,) = (self.folder / "outputs" / "models").glob("[!.]*/")
        return ModelDirectory(path)

    def step(self) -> int:
        """The last step in metrics.csv."""
        files = list(self.folder.glob("outputs/models/*/metrics.csv"))
        lines = files[0].read_text().splitlines() if files else []
        return int(lines[-1].partition(",")[0]) if len(lines) > 1 and lines[-1].partition(",")[0].isdecimal() else 0


def assert_same_bits(one: ModelDirectory, other: ModelDirectory) -> None:
    """The log, the weights and the checkpoints are equal."""
    assert_same_training(one, other)
    a, b = (load_state(directory.resume) for directory in (one, other))
    assert a["global_step"] == b["global_step"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "averages"):
        assert same(a[part], b[part]), part


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_survives(start: Callable[..., Process], folder: Path, *options: str, kills: int, steps: int) -> None:
    """Killed at random steps, then finished, a training is the one that nothing happened to; most kills come in time."""
    whole, torn = (Training(start, folder / name, *options) for name in ("whole", "torn"))
    whole.finish()
    moments = random.Random(kills)
    done = [torn.kill_at(at) for at in sorted(moments.randint(1, steps - 1) for _ in range(kills))]
    torn.finish()
    assert sum(done) >= kills - 1
    assert_same_bits(whole.directory, torn.directory)


def installed(folder: Path, *arguments: str) -> subprocess.Popen:
    """The command as a user starts it."""
    return subprocess.Popen(
        [Path(sys.executable).parent / "diffusion-lab", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "kills"), [("unet", 4), ("dit", 2), ("jit", 2), *((residual, 1) for residual in FLOW_MAPS)]
)
def test_killed_at_random_steps(tmp_path, zygote, kind, kills):
    """Networks, and residuals of flow maps."""
    options = of_flow_map(kind, EVERYTHING) if kind in FLOW_MAPS else with_network(kind, EVERYTHING)
    options = [*options, "condition=classes", "trainer.max_steps=20"]
    assert_survives(zygote.start, tmp_path, *options, kills=kills, steps=20)


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGINT,
        signal.SIGUSR1,
        *(pytest.param(signum, marks=pytest.mark.thorough) for signum in (signal.SIGTERM, signal.SIGUSR2)),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, zygote, signum):
    options = [*EVERYTHING, "trainer.max_steps=1000000", "callbacks.checkpoint.every_n_steps=0"]
    training = Training(zygote.start, tmp_path, *options)
    process = training.start()
    while training.step() < 4 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    state = load_state(training.directory.resume)
    assert state["global_step"] == training.step()
    assert err.startswith(f"diffusion-lab train: {signum.name} at step {state['global_step']}; everything is saved in ")
    assert err.rstrip().endswith(f"; to resume: {shlex.join(['diffusion-lab', 'train', *options])}")
    assert read_status(training.directory.path).command in err
    assert "Traceback" not in err
    assert read_status(training.directory.path).state == INTERRUPTED


def catches(pid, signum):
    """Whether a process has a handler for a signal. Python's own for SIGINT is there before ours, and SIGTERM's comes with ours."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return all(caught >> (number - 1) & 1 for number in (signum, signal.SIGTERM))


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_a_signal_in_the_first_second_is_one_line(tmp_path, signum):
    process = installed(tmp_path, "train", *TINY, *STRIDED)
    while process.poll() is None and not catches(process.pid, signum):
        time.sleep(0.01)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert err.endswith(f": ended by {signum.name}\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_signal_while_scoring_says_what_is_kept(tmp_path, zygote, trained_model):
    signum = signal.SIGTERM
    shutil.copytree(trained_model("diffusion_fixed"), tmp_path / "outputs" / "models" / "one")
    process = zygote.start(tmp_path, "evaluate", "evaluation.num_samples=10000000")
    while not list(tmp_path.glob("outputs/cache/samples/*/*.safetensors")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    (run,) = (tmp_path / "outputs" / "runs").glob("[!.]*/")
    assert err.startswith(f"diffusion-lab evaluate: {signum.name} while scoring {run.relative_to(tmp_path)}; finished")
    assert err.count("\n") == 1
    assert read_status(run).state == INTERRUPTED


def test_a_second_signal_ends_it_at_once(tmp_path, zygote):
    """The step that the first signal waits for never ends here."""
    (tmp_path / "endless.py").write_text(
        "import time\nfrom lightning import Callback\n"
        "class Endless(Callback):\n"
        "    def on_train_batch_start(self, *_):\n"
        "        open('begun', 'w').close()\n"
        "        time.sleep(600)\n"
    )
    options = [*EVERYTHING, "+callbacks.endless._target_=endless.Endless", "trainer.max_steps=5"]
    process = zygote.start(tmp_path, "train", *options, PYTHONPATH=str(tmp_path))
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM


def train_with_a_short_lease(*options: str) -> None:
    lock.LEASE_SECONDS, lock._HEARTBEAT_SECONDS = 2.0, 0.2
    sys.argv = ["diffusion-lab", "train", *options]
    main()


@pytest.mark.thorough
def test_a_training_stopped_past_its_lease_is_taken_over(tmp_path, zygote):
    """Another process finishes it. When it is continued, it ends with one sentence; the weights are as if nothing had happened."""
    options = [*EVERYTHING, "trainer.max_steps=20"]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    first = zygote.call(torn.folder, train_with_a_short_lease, *options)
    while torn.step() < 5 and first.poll() is None:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    (tmp_path / "other").mkdir()
    second = zygote.call(tmp_path / "other", train_with_a_short_lease, *options, f"outputs={torn.folder / 'outputs'}")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    os.kill(first.pid, signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert re.fullmatch(r"\S+ is no longer held \(\S+\): this process ends\n", err)
    assert_same_training(whole.directory, torn.directory)


@pytest.mark.parametrize("more", [(), pytest.param(("retrain=true",), marks=pytest.mark.thorough)])
def test_two_commands_on_one_model_train_and_score_it_once(tmp_path, zygote, more):
    """The other one waits, says for whom, and takes what it finds."""
    outputs = tmp_path / "outputs"
    options = [*TINY, *STRIDED, "trainer.max_steps=20", f"outputs={outputs}"]
    one, other = (Training(zygote.start, tmp_path / name, *options) for name in ("one", "other"))
    if more:
        one.finish()
    one.options = other.options = [*options, *more]
    both = [one.start(), other.start()]
    out = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("training ended by" in text for text in out) == [False, True]
    assert sorted("already trained" in text for text in out) == [False, True]
    assert len(list((outputs / "runs").glob("[!.]*/"))) == 1
    assert not list(outputs.rglob("*.lock"))


def test_nothing_is_looked_at_before_the_lock_is_taken(tmp_path, zygote):
    """A model that lies there finished may be about to be replaced by the process that holds its folder."""
    training = Training(zygote.start, tmp_path, *TINY, *STRIDED, "score=false")
    training.finish()
    with lock.hold(training.directory.path, print):
        process = training.start()
        wait_until(lambda: f"is being trained by process {os.getpid()} on" in (tmp_path / "out.log").read_text())
    out, _ = process.communicate()
    assert "already trained" in out


# ---- retrain=true trains beside the old model, goes on where it was stopped, and puts the new one in its place at the end ----


OPTIONS = [*TINY, *STRIDED, "trainer.max_steps=6", "callbacks.checkpoint.every_n_steps=1"]
LATE = """
import os
import signal

from lightning import Callback


class Late(Callback):
    def on_train_end(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_the_last_step_loses_nothing(tmp_path, zygote):
    (tmp_path / "late.py").write_text(LATE)
    late = "+callbacks.late._target_=late.Late"
    process = zygote.start(tmp_path, "train", *OPTIONS, late)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.startswith("diffusion-lab train: SIGTERM after the end of training; to score the model: ")
    assert newest_model(tmp_path / "outputs").finished
    process = zygote.start(tmp_path, "train", *OPTIONS, late)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "already trained" in out


UNSCORED = [*OPTIONS, "score=false", "+callbacks.stop._target_=stops.StopOnce"]


@pytest.mark.thorough
def test_the_old_model_serves_until_the_new_one(lab):
    """A training anew that was stopped goes on."""
    (lab.folder / "stops.py").write_text(STOP)
    lab.done("train", "-m", *UNSCORED, "seed=1")
    model = newest_model(lab.folder / "outputs")
    old = ModelDirectory(shutil.copytree(model.path, lab.folder / "old" / model.path.name))
    before, log = model.training.read_bytes(), rows(old)
    (model.path / "mine.png").write_bytes(b"mine")
    (lab.folder / ".stop").write_text("4")
    assert lab("train", *UNSCORED, "retrain=true")[0] != 0
    assert model.training.read_bytes() == before
    assert_same_weights(model, old)
    lab.done("sample", "num_images=2", *STRIDED)
    assert "interrupted" in lab.done("status", "watch=false")
    assert "already trained" in lab.done("train", *UNSCORED)
    assert rows(model) == log

    out = lab.done("train", *UNSCORED, "retrain=true")
    assert f"resuming from {model.beside.resume.relative_to(lab.folder)}" in " ".join(out.split())
    assert model.training.read_bytes() != before
    assert_same_training(model, old)
    assert not model.beside.path.exists()
    assert (lab.folder / "outputs" / "trash" / "models" / model.path.name / "mine.png").read_bytes() == b"mine"

    before = model.training.read_bytes()
    assert "resuming from" not in lab.done("train", *UNSCORED, "retrain=true")
    assert model.training.read_bytes() != before
