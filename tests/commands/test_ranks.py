"""Several processes are one, up to rounding, end together, and run where they are asked to."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.distributed.launcher import api

from diffusion_lab.commands import evaluate, sample, train
from diffusion_lab.store import ModelDirectory, newest_model
from diffusion_lab.training import ranks
from diffusion_lab.training.devices import num_cores

from .cluster import STOP, wait_until
from .conftest import FLOW_MAPS, ROUNDS_LITTLE, STRIDED, TINY, TRANSFORMERS, of_flow_map, scored, with_network
from .test_resume import EVERYTHING, Training, assert_same_bits

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


def in_ranks(zygote, folder: Path, *command: str, ranks: int, code: int = 0) -> list[str]:
    """What each of so many processes says, which know of each other what torchrun would tell them, and end with an exit code."""
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
        assert process.returncode == code, err
        said.append(out)
    return said


def together(ranks: int) -> list[str]:
    return [*TOGETHER, f"trainer.devices={ranks}"] if ranks > 1 else []


def trained(zygote, folder: Path, *options: str, ranks: int) -> tuple[ModelDirectory, str]:
    """By so many processes; and what rank 0 says: the others are silent."""
    said = in_ranks(zygote, folder, "train", *options, *together(ranks), ranks=ranks)
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
@pytest.mark.parametrize("network", ["unet", *TRANSFORMERS])
def test_two_ranks_equal_one(zygote, tmp_path, network):
    """With loss-aware t too: every rank keeps the whole history."""
    options = [
        *with_network(network, TINY),
        *STRIDED,
        "objective=vlb",
        "timesteps=loss_aware",
        "timesteps.history_per_timestep=1",
    ]
    options += [*ROUNDS_LITTLE, "trainer.max_steps=8", "val.every_n_steps=4", "score=false"]
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


def curve(model: ModelDirectory) -> list[float]:
    """The loss and the norm of the gradient of each step."""
    rows = csv.DictReader(model.metrics_csv.read_text().splitlines())
    return [float(row[f"train/{name}"]) for row in rows for name in ("loss", "grad_norm")]


# Dropout, dropped conditions, flips and clusters, on 20 batches of 16.
TWENTY = [
    *TINY,
    *STRIDED,
    *ROUNDS_LITTLE,
    "data.flip=true",
    "network.dropout=0.3",
    "val.every_n_steps=0",
    "score=false",
]
TWENTY += ["data.batch_size=16", "trainer.max_steps=20"]
ON_CLUSTERS = ["condition=clusters", "model.condition_dropout=0.3", "guidance=classifier_free"]
SPLITS = [(1, 1), (1, 4), (2, 2), (4, 1)]  # (processes, parts)
FAMILIES = {
    "diffusion": (ON_CLUSTERS, SPLITS),
    # Through derivatives of a target, and of the prediction. The others: tests/models/test_diffusion.py.
    **{residual: (ON_CLUSTERS, [(1, 1), (2, 2)]) for residual in ("eulerian", "lagrangian")},
    "vae": (["model=vae", "network.base_channels=4", "network.latent_dim=2", "ema.decays=[0.9]"], [(1, 1), (2, 2)]),
    "gan": (["model=gan", "network.base_channels=4", "network.latent_size=4", "ema.decays=[0.9]"], [(1, 1), (4, 1)]),
}


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_no_split_of_a_batch_changes_a_training(zygote, tmp_path, family):
    """-s prints how far the curves are apart."""
    more, splits = FAMILIES[family]
    options = of_flow_map(family, TWENTY) if family in FLOW_MAPS else TWENTY
    if family in ("vae", "gan"):
        options = [option for option in TWENTY if not option.startswith(("network.", "schedule", "sampler"))]
    options = [*options, *more]
    for processes, parts in splits:
        split = f"trainer.accumulate_grad_batches={parts}"
        model, _ = trained(zygote, tmp_path / f"{processes} {parts}", *options, split, ranks=processes)
        found = curve(model)
        if (processes, parts) == (1, 1):
            one, whole = model, found
            assert len(whole) == 2 * 20
        far = max(abs(a / b - 1) for a, b in zip(found, whole, strict=True))
        print(f"| {family} | {processes} | {parts} | {far:.0e} |")
        assert far < 1e-4, (processes, parts)
        assert_close(one, model)


@pytest.mark.thorough
def test_a_training_goes_on_with_other_processes(zygote, tmp_path):
    """Begun by two processes, continued by one, by four and by two again, each time in other parts."""
    stopping = [*TWENTY, *ON_CLUSTERS, "+callbacks.stop._target_=stops.StopOnce"]
    for folder in ("whole", "torn"):
        for rank in range(4):
            (own := tmp_path / folder / str(rank)).mkdir(parents=True)
            (own / "stops.py").write_text(STOP)
    one, _ = trained(zygote, tmp_path / "whole", *stopping, ranks=1)
    for step, processes, parts in ((4, 2, 1), (9, 1, 4), (15, 4, 2)):
        (tmp_path / "torn" / "0" / ".stop").write_text(str(step))
        options = [*stopping, f"trainer.accumulate_grad_batches={parts}", *together(processes)]
        in_ranks(zygote, tmp_path / "torn", "train", *options, ranks=processes, code=143)
    other, said = trained(zygote, tmp_path / "torn", *stopping, ranks=2)
    assert "resuming from" in said
    assert_close(one, other)
    assert curve(other) == pytest.approx(curve(one), rel=1e-4)


@pytest.mark.thorough
def test_two_ranks_resume_exactly_and_die_together(zygote, tmp_path):
    options = [*EVERYTHING, "trainer.max_steps=8"]
    whole, torn = (Training(zygote.start, tmp_path / name, *options, *TOGETHER) for name in ("whole", "torn"))
    trained(zygote, whole.folder, *options, ranks=2)
    process = torn.start()
    while torn.step() < 4 and process.poll() is None:
        time.sleep(0.005)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended with exit code -9" in err
    trained(zygote, torn.folder, *options, ranks=2)
    assert_same_bits(whole.directory, torn.directory)


TWO = ["devices=2", "accelerator=cpu"]
ENDLESS = {  # each works for minutes
    "train": [*TINY, *STRIDED, *TOGETHER, "trainer.max_steps=1000000", "callbacks.checkpoint.every_n_steps=0"],
    "evaluate": [*TWO, "evaluation.num_samples=10000000"],
}


@pytest.mark.thorough
@pytest.mark.needs("two cores")
@pytest.mark.skipif(num_cores() < 2, reason="two processes need two cores")
@pytest.mark.parametrize("command", ENDLESS)
def test_ranks_end_when_their_command_is_killed(zygote, tmp_path, trained_model, command):
    """Those of a training while they import, those of a score while they compute and wait for each other."""
    if command == "evaluate":
        shutil.copytree(trained_model("diffusion_fixed"), tmp_path / "outputs" / "models" / "one")
    process = zygote.start(tmp_path, command, *ENDLESS[command])
    started = []
    while len(started) < 2 and process.poll() is None:
        time.sleep(0.01)
        started = ranks_of(process)
    if command == "evaluate":  # once they have been connected with each other for a second, which adds threads
        wait_until(lambda: all(len(os.listdir(f"/proc/{pid}/task")) >= 4 for pid in started))
        time.sleep(1)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(_command_line, started)), seconds=5)


@pytest.mark.thorough
@pytest.mark.needs("two cores")
@pytest.mark.skipif(num_cores() < 2, reason="two processes need two cores")
def test_a_signal_ends_ranks_that_import_with_one_line(zygote, tmp_path):
    process = zygote.start(tmp_path, "train", *ENDLESS["train"])
    while len(ranks_of(process)) < 2 and process.poll() is None:
        time.sleep(0.01)
    while not all("torch" in Path(f"/proc/{pid}/maps").read_text() for pid in ranks_of(process)):
        time.sleep(0.01)  # before that, Python itself may not have started
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "diffusion-lab train: ended by SIGTERM\n")


def test_a_batch_that_cannot_be_shared_out_is_refused(lab, monkeypatch):
    monkeypatch.setattr(ranks, "num_cores", lambda: 2)
    lab.refused("train", *TINY, *STRIDED, *TOGETHER, "data.batch_size=7", said="data.batch_size=7 cannot be divided")


# ---- commands run where they are asked to, and say where; the GPUs are a stand-in ----


@pytest.fixture
def started(monkeypatch):
    """On a machine whose PyTorch sees eight GPUs: what each command would start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    requests = []
    for module in (train, evaluate, sample):
        monkeypatch.setattr(module, "start_ranks", lambda command, options, request, *_: requests.append(request))
    return requests


def test_every_rank_searches_the_same_folders_of_choices(lab, monkeypatch):
    """Each rank composes the config again, from the options that it is started with."""
    commands = []
    monkeypatch.setattr(api, "elastic_launch", lambda config, program: lambda *command: commands.append(command))
    for name, choice in (("a folder", "steep"), ("another, of mine", "flat")):
        (lab.folder / name / "schedule").mkdir(parents=True)
        (lab.folder / name / "schedule" / f"{choice}.yaml").write_text("defaults: [cosine]\n")
    second = f"hydra.searchpath=['file://{lab.folder}/another, of mine']"
    for choice in ("steep", "flat"):
        own = ["--config-dir", "a folder", second, f"schedule={choice}", "trainer=ddp_sim"]
        lab.done("train", *own, *TINY, *STRIDED)
        started = commands.pop()
        started = started[started.index("diffusion_lab") + 1 :]
        assert lab(*started, "--cfg", "job")[0] == 0


@pytest.mark.parametrize("command", [["train"], ["train", "-m", "hydra/launcher=local"], ["evaluate"], ["sample"]])
def test_more_processes_than_cores_start_none(lab, monkeypatch, trained_model, command):
    """The number of cores does not limit processes that torchrun or Slurm starts."""
    shutil.copytree(trained_model("diffusion_fixed"), lab.folder / "outputs" / "models" / "one")
    monkeypatch.setattr(ranks, "num_cores", lambda: 2)
    at = "trainer." if command[0] == "train" else ""
    options = [f"{at}devices=3", f"{at}accelerator=cpu", *([*TINY, *STRIDED] if at else [])]
    lab.refused(
        *command,
        *options,
        said=f"{at}devices=3: each process needs a core of its own; the number of CPU cores here is 2",
    )
    for name, value in {"TORCHELASTIC_RUN_ID": "theirs", "WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.request_of(OmegaConf.create({"accelerator": "cpu", "devices": 3})).size == 3


def test_a_command_says_where_it_runs_and_all_devices_of_a_cpu_are_one(lab):
    for devices in ("auto", "-1"):
        out = lab.done("train", *TINY, *STRIDED, f"trainer.devices={devices}", "score=false")
        assert f"runs on CPU, {torch.get_num_threads()} thread" in out


@pytest.mark.thorough
def test_all_gpus_that_are_visible_score_and_draw_unless_the_cpu_is_asked_for(lab, started):
    options = [*TINY, *STRIDED, "score=false"]
    assert lab("train", *options, "trainer.devices=auto")[0] == 0
    out = lab.done("train", *options, "trainer.accelerator=cpu")
    assert "runs on CPU" in out
    assert lab("evaluate")[0] == lab("evaluate", "devices=2")[0] == 0
    assert lab("sample", "num_images=640")[0] == 0  # five batches
    assert [request.size for request in started] == [8, 8, 2, 5]
    assert all(request.on_gpu for request in started)
    assert lab("sample", "devices=9")[2] == "diffusion-lab sample: devices=9: the number of GPUs visible here is 8\n"
    for command in ("evaluate", "sample"):
        assert "on CPU, " in lab.done(command, "accelerator=cpu")
    assert "already scored" in lab.done("evaluate")
    assert len(started) == 4


def test_ranks_share_the_cores_and_leave_no_signal_handlers(lab, monkeypatch, trained_model):
    shutil.copytree(trained_model("diffusion_fixed"), lab.folder / "für" / "models" / "one")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(ranks, "num_cores", lambda: 6)
    seen = []

    def run(*command):
        seen.append(command)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun leaves a handler installed

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: run)
    before = signal.getsignal(signal.SIGTERM)
    lab.done("sample", 'outputs="für"', "devices=2", "accelerator=cpu")
    (command,) = seen
    assert "OMP_NUM_THREADS=3" in command
    assert command[command.index("-m") :][:3] == ("-m", "diffusion_lab", "sample")
    assert command[-1] == 'model_dir="für/models/one"'
    assert "OMP_NUM_THREADS" not in os.environ
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.thorough
def test_several_devices_score_and_draw_what_one_does(lab, zygote):
    drawing = ["evaluation.num_samples=256", "evaluation.batch_size=64"]
    assert lab("train", *TINY, *STRIDED, *drawing)[0] == 0
    lab.done("sample", "num_images=20", "format=npz", "to=one")
    (one,) = scored(lab.folder)
    in_ranks(zygote, lab.folder, "evaluate", "rescore=true", *TWO, ranks=2)
    (two,) = scored(lab.folder)
    timed = [measured["protocol"]["cost"]["timed_images"] for measured in (one, two)]
    assert timed == [256 - 64, 256 - 2 * 64], "the first batch of each process does not count"
    for measured in (one, two):
        for name in ("seconds_per_1000_samples", "peak_memory_mib"):
            measured["values"].pop(name)
    assert two["values"] == pytest.approx(one["values"], rel=1e-4)
    in_ranks(zygote, lab.folder, "sample", "num_images=20", "format=npz", f"to={lab.folder / 'two'}", *TWO, ranks=2)
    with np.load(lab.folder / "one" / "samples.npz") as a, np.load(lab.folder / "two" / "samples.npz") as b:
        assert np.abs(a["arr_0"].astype(int) - b["arr_0"]).max() <= 255 // 16  # a level of the data
        assert (a["arr_0"] == b["arr_0"]).mean() > 0.99
