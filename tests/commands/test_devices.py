"""Commands run where they are asked to, and say where; the GPUs are a stand-in (tests/machine.py)."""

import os
import re
import shutil
import signal
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.distributed.launcher import api

from diffusion_lab.commands import evaluate, sample, train
from diffusion_lab.sweeps import jobs
from diffusion_lab.sweeps.jobs import JobError
from diffusion_lab.training import ranks
from tests.machine import EIGHT, pretend

from .conftest import STRIDED, TINY, files, scored
from .test_ranks import in_ranks

ROOT = Path(__file__).parent.parent.parent
RANKS = ["devices=2", "accelerator=cpu"]


@pytest.fixture
def started(monkeypatch):
    """On a machine whose PyTorch sees eight GPUs: how many processes each command starts; they do not run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sizes = []
    for module in (train, evaluate, sample):
        monkeypatch.setattr(module, "start_ranks", lambda command, options, request, *_: sizes.append(request))
    return sizes


@pytest.mark.thorough
def test_the_commands_of_the_page_on_devices_take_all_eight_gpus(lab, monkeypatch, started):
    pretend(monkeypatch, lab.folder, EIGHT)
    at_a_time = []

    def count(calls, queue, say, cancelled, wait):
        at_a_time.append(queue.room(calls))
        raise JobError("counted")

    monkeypatch.setattr(jobs, "run_jobs", count)
    section = (ROOT / "docs" / "devices.md").read_text().partition("## Several GPUs")[2].partition("##")[0]
    one_a_gpu, beside, together = re.findall(r"^    diffusion-lab (.*?)  +#", section, flags=re.MULTILINE)
    for command in (one_a_gpu, beside):
        assert lab(*command.split()) == (1, ANY, "diffusion-lab train: counted\n")
    assert at_a_time == [8, 2]
    assert lab(*together.split())[0] == 0
    assert [request.size for request in started] == [8]


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
        module, program, *started = commands.pop()
        assert (module, program) == ("-m", "diffusion_lab")
        assert lab(*started, "--cfg", "job")[0] == 0


@pytest.mark.parametrize(
    ("options", "restriction", "said"),
    [
        (["hydra/launcher=local", "trainer.devices=1,9"], None, "trainer.devices=9: 8 GPUs are visible here"),
        (["trainer.devices=3"], "4,5", "trainer.devices=3: 2 GPUs are visible here (CUDA_VISIBLE_DEVICES=4,5)"),
        (["hydra/launcher=local", "trainer.accelerator=gpu"], "", "trainer.accelerator=gpu: there is no GPU here"),
    ],
)
def test_a_sweep_that_asks_for_more_than_there_is_writes_nothing(lab, monkeypatch, options, restriction, said):
    pretend(monkeypatch, lab.folder, EIGHT, restriction)
    before = files(lab.folder)
    code, _, err = lab("train", "-m", *TINY, *STRIDED, *options)
    assert code == 1
    assert err.startswith(f"diffusion-lab train: {said}")
    assert err.count("\n") == 1
    assert files(lab.folder) == before


@pytest.mark.parametrize("command", [["train"], ["train", "-m", "hydra/launcher=local"], ["evaluate"], ["sample"]])
def test_more_processes_than_cores_start_none(lab, monkeypatch, trained_model, command):
    """The number of cores does not limit processes that torchrun or Slurm starts."""
    shutil.copytree(trained_model("diffusion_fixed"), lab.folder / "outputs" / "models" / "one")
    monkeypatch.setattr(ranks, "num_cores", lambda: 2)
    before = files(lab.folder)
    at = "trainer." if command[0] == "train" else ""
    options = [f"{at}devices=3", f"{at}accelerator=cpu", *([*TINY, *STRIDED] if at else [])]
    code, _, err = lab(*command, *options)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"diffusion-lab {command[0]}: {at}devices=3: each process needs a core of its own, and 2 CPU")
    assert files(lab.folder) == before
    for name, value in {"TORCHELASTIC_RUN_ID": "theirs", "WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.request_of(OmegaConf.create({"accelerator": "cpu", "devices": 3})).size == 3


def test_a_command_says_where_it_runs_and_all_devices_of_a_cpu_are_one(lab):
    for devices in ("auto", "-1"):
        out = lab.done("train", *TINY, *STRIDED, f"trainer.devices={devices}", "score=false")
        assert f"runs on CPU, {torch.get_num_threads()} thread" in out


def test_a_gpu_that_is_not_there_is_refused(lab, monkeypatch):
    lab("train", *TINY, *STRIDED)
    before = files(lab.folder)
    for command, option in (("train", "trainer.accelerator"), ("evaluate", "accelerator"), ("sample", "accelerator")):
        code, _, err = lab(command, *(TINY if command == "train" else []), f"{option}=gpu")
        assert code == 1
        assert err.startswith(f"diffusion-lab {command}: {option}=gpu: there is no GPU here that PyTorch can use")
        assert err.count("\n") == 1
    assert files(lab.folder) == before


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
    assert lab("sample", "devices=9")[2] == "diffusion-lab sample: devices=9: 8 GPUs are visible here\n"
    for command in ("evaluate", "sample"):
        assert "on CPU, " in lab.done(command, "accelerator=cpu")
    assert len(started) == 4


def test_ranks_share_the_cores_and_leave_no_signal_handlers(lab, monkeypatch, trained_model):
    shutil.copytree(trained_model("diffusion_fixed"), lab.folder / "für" / "models" / "one")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(ranks, "num_cores", lambda: 6)
    seen = []

    def run(*command):
        seen.append((os.environ["OMP_NUM_THREADS"], command))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun leaves a handler installed

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: run)
    before = signal.getsignal(signal.SIGTERM)
    lab.done("sample", 'outputs="für"', "devices=2", "accelerator=cpu")
    ((threads, command),) = seen
    assert threads == "3"
    assert command[:3] == ("-m", "diffusion_lab", "sample")
    assert command[-1] == 'model_dir="für/models/one"'
    assert "OMP_NUM_THREADS" not in os.environ
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture(params=["ranks", pytest.param("command", marks=pytest.mark.thorough)])
def on_two_devices(request, lab, zygote):
    """on_two_devices("evaluate", …): in two processes, or by the command that starts them."""

    def run(*command: str) -> None:
        if request.param == "ranks":
            in_ranks(zygote, lab.folder, *command, *RANKS, ranks=2)
        else:
            before = [signal.getsignal(number) for number in signal.valid_signals()]
            lab.done(*command, *RANKS)
            assert [signal.getsignal(number) for number in signal.valid_signals()] == before

    return run


@pytest.mark.thorough
def test_several_devices_score_and_draw_what_one_does(lab, on_two_devices):
    drawing = ["evaluation.num_samples=256", "evaluation.batch_size=64"]
    assert lab("train", *TINY, *STRIDED, *drawing)[0] == 0
    lab.done("sample", "num_images=20", "format=npz", "to=one")
    (one,) = scored(lab.folder)
    on_two_devices("evaluate", "rescore=true")
    (two,) = scored(lab.folder)
    timed = [measured["protocol"]["cost"]["timed_images"] for measured in (one, two)]
    assert timed == [256 - 64, 256 - 2 * 64], "the first batch of each process does not count"
    for measured in (one, two):
        for name in ("seconds_per_1000_samples", "peak_memory_mib"):
            measured["values"].pop(name)
    assert two["values"] == pytest.approx(one["values"], rel=1e-4)
    on_two_devices("sample", "num_images=20", "format=npz", f"to={lab.folder / 'two'}")
    with np.load(lab.folder / "one" / "samples.npz") as a, np.load(lab.folder / "two" / "samples.npz") as b:
        assert np.abs(a["arr_0"].astype(int) - b["arr_0"]).max() <= 255 // 16  # a level of the data
        assert (a["arr_0"] == b["arr_0"]).mean() > 0.99
