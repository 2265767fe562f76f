"""Two processes that train together are one that trains alone, up to rounding; and they end together."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.store import ModelDirectory, newest_model
from diffusion_lab.training import ranks
from diffusion_lab.training.devices import num_cores

from .conftest import ROUNDS_LITTLE, STRIDED, TINY
from .test_resume import EVERYTHING, Training, assert_same_bits, installed

ROOT = Path(__file__).parent.parent.parent
TOGETHER = ["trainer=ddp_sim"]


def ranks_of(process: subprocess.Popen) -> list[int]:
    """The processes that work together, by their rank."""
    listed = subprocess.run(["ps", "-o", "pid=,ppid=", "-A"], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}
    return sorted(
        pid for pid, parent in parents.items() if parent == process.pid and "diffusion_lab" in _command_line(pid)
    )


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def in_ranks(zygote, folder: Path, *command: str, ranks: int) -> list[str]:
    """What each of so many processes says, which know of each other what torchrun would tell them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "TORCHELASTIC_RUN_ID": "test"}
    started = []
    for rank in map(str, range(ranks)):
        (own := folder / rank).mkdir(parents=True, exist_ok=True)
        world = {**told, "WORLD_SIZE": str(ranks), "RANK": rank, "LOCAL_RANK": rank} if ranks > 1 else {}
        started.append(zygote.start(own, *command, f"outputs={folder / 'outputs'}", **world))
    said = []
    for process in started:
        out, err = process.communicate()
        assert process.returncode == 0, err
        said.append(out)
    return said


def trained(zygote, folder: Path, *options: str, ranks: int) -> tuple[ModelDirectory, str]:
    """By so many processes; and what rank 0 says: the others are silent."""
    said = in_ranks(zygote, folder, "train", *options, *(TOGETHER if ranks > 1 else []), ranks=ranks)
    assert [out.count("training images") for out in said] == [1] + [0] * (ranks - 1)
    return newest_model(folder / "outputs"), said[0]


def assert_close(one: ModelDirectory, other: ModelDirectory) -> None:
    assert one.path.name == other.path.name, "the number of devices is not part of the fingerprint"
    assert one.weight_names == other.weight_names
    for name in one.weight_names:
        a, b = load_file(one.weights(name)), load_file(other.weights(name))
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
def test_two_ranks_equal_one(zygote, tmp_path):
    """With loss-aware t too: every rank keeps the whole history. They score together too."""
    options = [*TINY, *STRIDED, "objective=vlb", "timesteps=loss_aware", "timesteps.history_per_timestep=1"]
    options += ROUNDS_LITTLE
    options += ["trainer.max_steps=8", "val.every_n_steps=4", "evaluation.num_samples=256", "evaluation.batch_size=64"]
    (one, _), (two, out) = (trained(zygote, tmp_path / name, *options, ranks=n) for n, name in ((1, "one"), (2, "two")))
    assert_close(one, two)
    a, b = (list(csv.DictReader(m.metrics_csv.read_text().splitlines())) for m in (one, two))
    for row, other in zip(a, b, strict=True):
        for column in ("train/loss", "train/grad_norm"):
            assert float(row[column]) == pytest.approx(float(other[column]), rel=1e-3)
        assert bool(row["val/loss"]) == (row["step"] in ("4", "8"))
        if row["val/loss"]:
            assert float(row["val/loss"]) == pytest.approx(float(other["val/loss"]), rel=1e-3)
    assert "runs on CPU, 2 processes of 1 thread\n" in out
    (a,), (b,) = (list((tmp_path / name / "outputs" / "runs").glob("*/metrics.json")) for name in ("one", "two"))
    a, b = json.loads(a.read_text()), json.loads(b.read_text())
    timed = [scores["protocol"]["cost"]["timed_images"] for scores in (a, b)]
    assert timed == [256 - 64, 256 - 2 * 64], "the first batch of each process that draws does not count"
    for name in ("fd_pixels", "bits_per_dim"):
        assert a["values"][name] == pytest.approx(b["values"][name], rel=1e-2)


@pytest.mark.thorough
def test_dropout_is_that_of_one_process(zygote, tmp_path):
    options = [*TINY, *STRIDED, *ROUNDS_LITTLE, "network.dropout=0.3", "trainer.max_steps=8", "score=false"]
    (one, _), (two, _) = (trained(zygote, tmp_path / name, *options, ranks=n) for n, name in ((1, "one"), (2, "two")))
    a, b = (list(csv.DictReader(m.metrics_csv.read_text().splitlines())) for m in (one, two))
    losses = [[float(row["train/loss"]) for row in rows] for rows in (a, b)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 8


@pytest.mark.thorough
def test_two_ranks_resume_exactly_and_die_together(zygote, tmp_path):
    options = [*EVERYTHING, "trainer.max_steps=8"]
    whole, torn = (Training(installed, tmp_path / name, *options, *TOGETHER) for name in ("whole", "torn"))
    trained(zygote, whole.folder, *options, ranks=2)
    process = torn.start()
    while torn.step() < 4 and process.poll() is None:
        time.sleep(0.005)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended with exit code -9" in err
    trained(zygote, torn.folder, *options, ranks=2)
    assert_same_bits(whole, torn)


TWO = ["devices=2", "accelerator=cpu"]
ENDLESS = {  # each works for minutes
    "train": [*TINY, *STRIDED, *TOGETHER, "trainer.max_steps=1000000", "callbacks.checkpoint.every_n_steps=0"],
    "sample": [*TWO, "num_images=10000000"],
    "evaluate": [*TWO, "evaluation.num_samples=10000000"],
}


@pytest.mark.thorough
@pytest.mark.needs("two cores")
@pytest.mark.skipif(num_cores() < 2, reason="two processes need two cores")
@pytest.mark.parametrize("at_work", [False, pytest.param(True, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("command", ENDLESS)
def test_ranks_end_when_their_command_is_killed(zygote, tmp_path, trained_model, command, at_work):
    """While they import, and while they compute and wait for each other."""
    if command != "train":
        shutil.copytree(trained_model("diffusion_fixed"), tmp_path / "outputs" / "models" / "one")
    process = zygote.start(tmp_path, command, *ENDLESS[command])
    started = []
    while len(started) < 2 and process.poll() is None:
        time.sleep(0.01)
        started = ranks_of(process)
    if at_work:
        wait_for_threads(started)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(map(_command_line, started)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_command_line, started))


@pytest.mark.needs("two cores")
@pytest.mark.skipif(num_cores() < 2, reason="two processes need two cores")
@pytest.mark.parametrize("signum", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGTERM])
def test_a_signal_ends_ranks_that_import_with_one_line(zygote, tmp_path, signum):
    process = zygote.start(tmp_path, "train", *ENDLESS["train"])
    while len(ranks_of(process)) < 2 and process.poll() is None:
        time.sleep(0.01)
    while not all("torch" in Path(f"/proc/{pid}/maps").read_text() for pid in ranks_of(process)):
        time.sleep(0.01)  # before that, Python itself may not have started
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signum, f"diffusion-lab train: ended by {signum.name}\n")


def wait_for_threads(pids: list[int]) -> None:
    """Wait until each process has been connected with the others for a second, which adds threads."""
    while any(len(os.listdir(f"/proc/{pid}/task")) < 4 for pid in pids):
        time.sleep(0.05)
    time.sleep(1)


def test_a_batch_that_cannot_be_shared_out_is_refused(lab, monkeypatch):
    monkeypatch.setattr(ranks, "num_cores", lambda: 2)
    code, _, err = lab("train", *TINY, *STRIDED, *TOGETHER, "data.batch_size=7")
    assert code == 1
    assert err.strip() == (
        "diffusion-lab train: data.batch_size=7 cannot be divided evenly among 2 processes: choose a multiple"
    )
    assert not (lab.folder / "outputs").exists()


@pytest.mark.thorough
def test_under_a_time_budget_replicas_stay_equal_though_their_clocks_differ(zygote, tmp_path):
    """Rank 1's clock runs five times as fast. What decides rate and end is the clock of rank 0."""
    for rank in "01":
        (tmp_path / rank).mkdir()
        (tmp_path / rank / "clocks.py").write_text(
            "import os, time, torch\n"
            "from diffusion_lab.training.monitor import ProgressBar\n"
            "from diffusion_lab.models import budget\n"
            "real, rank = time.monotonic, int(os.environ['RANK'])\n"
            "time.monotonic = budget.monotonic = lambda: real() * (1 + 4 * rank)\n"
            "class Replica(ProgressBar):\n"
            "    def on_train_end(self, trainer, pl_module):\n"
            "        rate = trainer.optimizers[0].param_groups[0]['lr']\n"
            "        torch.save([rate, *pl_module.parameters()], 'replica.pt')\n"
            "        super().on_train_end(trainer, pl_module)\n"
        )
    options = [o for o in TINY if not o.startswith("trainer.max_steps")] + [*STRIDED, "score=false"]
    options += [
        "callbacks.progress._target_=clocks.Replica",
        "trainer.max_time=00:00:00:02",
        "lr_scheduler.warmup_steps=0",
    ]
    directory, _ = trained(zygote, tmp_path, *options, ranks=2)
    assert directory.read_training()["ended_by"] == "trainer.max_time"
    one, other = (torch.load(tmp_path / rank / "replica.pt") for rank in "01")
    assert one[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))
