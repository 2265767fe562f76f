"""A run that was killed and started again is the run: the same bits in weights, averages, optimizer, history and log."""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusion_lab.commands.main import main
from diffusion_lab.store import ModelDirectory, lease
from diffusion_lab.store.status_file import INTERRUPTED, read_status
from diffusion_lab.training.saving import load_state, previous_of

from .conftest import STRIDED, TINY
from .zygote import Fork

Process = Fork | subprocess.Popen

# Everything random in training, at once: dropout, loss-aware t, mirrored images; with conditional=true dropped labels too.
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

    def finish(self) -> str:
        process = self.start()
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out

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
        (path,) = (self.folder / "outputs" / "models").iterdir()
        return ModelDirectory(path)

    def step(self) -> int:
        """The last step in metrics.csv."""
        files = list(self.folder.glob("outputs/models/*/metrics.csv"))
        lines = files[0].read_text().splitlines() if files else []
        return int(lines[-1].partition(",")[0]) if len(lines) > 1 and lines[-1].partition(",")[0].isdecimal() else 0

    def log(self) -> list[dict[str, str]]:
        """Every logged number but the speed."""
        with self.directory.metrics_csv.open() as file:
            return [{k: v for k, v in row.items() if k != "train/images_per_second"} for row in csv.DictReader(file)]


def assert_same_bits(one: Training, other: Training) -> None:
    assert one.log() == other.log()
    names = [sorted(file.name for file in t.directory.path.glob("*.safetensors")) for t in (one, other)]
    assert names[0] == names[1]
    for name in names[0]:
        a, b = (load_file(t.directory.path / name) for t in (one, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert list(one.directory.branches) == list(other.directory.branches)
    for file in (one.directory.resume, *one.directory.branches.values()):
        a, b = (load_state(t.directory.path / file.name) for t in (one, other))
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


def interrupted(training: Training, kills: int, steps: int) -> int:
    """Kill it `kills` times at random steps, then let it finish; the number of kills."""
    done = 0
    for at in sorted(random.Random(kills).randint(1, steps - 1) for _ in range(kills)):
        done += training.kill_at(at)
    training.finish()
    return done


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


def test_killed_at_random_steps(tmp_path, zygote):
    options = [*EVERYTHING, "conditional=true", "trainer.max_steps=20", "snapshots.branches=[0.3,13steps]"]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    assert interrupted(torn, 4, 20) >= 3
    assert_same_bits(whole, torn)


@pytest.mark.thorough
def test_the_installed_command_killed_ten_times(tmp_path):
    """Each time a new process, as a user starts it."""
    options = [*EVERYTHING, "conditional=true", "trainer.max_steps=40", "snapshots.branches=[0.3,30steps]"]
    whole, torn = (Training(installed, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    assert interrupted(torn, 12, 40) >= 10
    assert_same_bits(whole, torn)


@pytest.mark.thorough
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_with_workers(tmp_path, zygote, num_workers):
    (tmp_path / "images").mkdir()
    for i in range(23):
        Image.effect_noise((12, 10), 40 + 5 * i).save(tmp_path / "images" / f"{i}.png")
    options = [
        "data=image_folder",
        f"data.root={tmp_path / 'images'}",
        "data.image_size=8",
        f"data.num_workers={num_workers}",
        *EVERYTHING,
        "trainer.max_steps=12",
    ]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    assert interrupted(torn, 2, 12) >= 1
    assert_same_bits(whole, torn)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
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
    assert "run the same command again to resume" in err
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
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert err.startswith(f"diffusion-lab evaluate: {signum.name} while scoring {run.relative_to(tmp_path)}; finished")
    assert err.count("\n") == 1
    assert read_status(run).state == INTERRUPTED


def test_a_second_signal_ends_it_at_once(tmp_path, zygote):
    """The step that the first signal waits for never ends here."""
    endless = tmp_path / "endless.py"
    endless.write_text(
        "import time\nfrom diffusion_lab.networks import UNet\n"
        "class Endless(UNet):\n"
        "    def forward(self, *a):\n"
        "        if len(a[0]) == 8:\n"
        "            open('begun', 'w').close()\n"
        "            time.sleep(600)\n"
        "        return super().forward(*a)\n"
    )
    options = [*EVERYTHING, "network._target_=endless.Endless", "trainer.max_steps=5"]
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


@pytest.mark.thorough
def test_a_broken_checkpoint_is_named(tmp_path, zygote):
    """A broken checkpoint is named and the one before it is used."""
    options = [*EVERYTHING, "trainer.max_steps=20"]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    assert torn.kill_at(8)
    resume = torn.directory.resume
    assert previous_of(resume).exists()
    content = bytearray(resume.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 256] = bytes(byte ^ 1 for byte in content[middle : middle + 256])  # more than padding
    resume.write_bytes(content)
    out = torn.finish()
    assert f"{resume.relative_to(torn.folder)} is damaged; skipping it" in out
    assert f"resuming from {previous_of(resume).relative_to(torn.folder)}" in out
    assert_same_bits(whole, torn)


@pytest.mark.thorough
def test_two_processes_train_one_model_once(tmp_path, zygote):
    """The second waits and says for whom; when the first is killed it takes over and ends with the same weights."""
    options = [*EVERYTHING, "trainer.max_steps=60"]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    (tmp_path / "other").mkdir()
    said = tmp_path / "other" / "out"
    said.touch()
    first = zygote.start(torn.folder, "train", *options)
    while torn.step() < 5 and first.poll() is None:
        time.sleep(0.01)
    outputs = f"outputs={torn.folder / 'outputs'}"
    os.kill(first.pid, signal.SIGSTOP)  # it must not end before the second one has come
    second = zygote.start(said.parent, "train", *options, outputs)
    deadline = time.monotonic() + 60
    while "is being trained by" not in said.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert f"is being trained by process {first.pid} on " in " ".join(out.split())
    assert "resuming from" in out
    assert_same_bits(whole, torn)


def train_with_a_short_lease(*options: str) -> None:
    lease.LEASE_SECONDS, lease.HEARTBEAT_SECONDS = 2.0, 0.2
    sys.argv = ["diffusion-lab", "train", *options]
    main()


def test_a_training_stopped_past_its_lease_is_taken_over(tmp_path, zygote):
    """Another process finishes it. When it is continued, it writes nothing more and ends with one sentence."""
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
    left = {path: path.read_bytes() for path in torn.directory.path.rglob("*") if path.is_file()}
    os.kill(first.pid, signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert re.fullmatch(r"diffusion-lab train: another process has taken over \S+, because [^\n]*\n", err)
    assert {path: path.read_bytes() for path in torn.directory.path.rglob("*") if path.is_file()} == left
    assert_same_bits(whole, torn)
