"""Multiruns handed to queues; what a real Slurm does with them is in test_slurm.py."""

import json
import sys

import pytest

from tests.machine import EIGHT, pretend

from .conftest import STRIDED, TINY, files

REPORTS = """\
import os
from pathlib import Path

from lightning import Callback


class Reports(Callback):
    def on_train_start(self, trainer, *_):
        Path(f"saw-{os.environ['CUDA_VISIBLE_DEVICES']}").touch()
"""
SLURM = ["-m", "hydra/launcher=slurm"]


def test_a_dry_run_shows_the_script_and_submits_nothing(lab):
    site = [
        "slurm.partition=gpu",
        "slurm.account=me",
        "slurm.time=90",
        "slurm.gpus_per_node=2",
        "slurm.array_parallelism=2",
    ]
    site += ["slurm.setup=[module load cuda]", "+slurm.more.qos=high", "trainer=ddp", "trainer.num_nodes=4"]
    code, out, err = lab(
        "train", *SLURM, "slurm.dry_run=true", *TINY, *STRIDED, "seed=1,2,3", "data.batch_size=16", *site
    )
    assert code == 0, err
    assert "3 jobs would be submitted" in out
    for line in (
        "#SBATCH --array=0-2%2",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=me",
        "#SBATCH --time=90",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --qos=high",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "module load cuda",
    ):
        assert f"\n{line}\n" in out
    assert "--kill-on-bad-exit=1" in out
    assert all(name.endswith("sweep.json") for name in files(lab.folder))


def test_the_number_of_tasks_must_be_a_number(lab):
    code, _, err = lab("train", *SLURM, *TINY, *STRIDED, "trainer.devices=auto")
    assert code == 1
    assert "ntasks_per_node=auto: Slurm needs a number" in err
    assert err.count("\n") == 1


def test_without_slurm_one_sentence(lab, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = lab("train", *SLURM, "hydra/sweeper=basic", *TINY, *STRIDED)
    assert code == 1
    assert "there is no Slurm on this machine" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("sweeper", ["train_once", "basic"])
def test_without_submitit_one_sentence_before_anything_is_written(lab, monkeypatch, sweeper):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for launcher in ("slurm", "local"):
        code, _, err = lab("train", "-m", f"hydra/launcher={launcher}", f"hydra/sweeper={sweeper}", *TINY, *STRIDED)
        assert code == 1
        assert "pip install 'diffusion-lab[slurm]'" in err
        assert err.count("\n") == 1
    assert files(lab.folder) == []


def test_jobs_of_this_machine_have_their_own_gpu_and_fail_alone_and_say_why(lab, monkeypatch):
    pretend(monkeypatch, lab.folder, EIGHT, "4,6")
    (lab.folder / "reports.py").write_text(REPORTS)
    options = [
        "callbacks.progress._target_=reports.Reports",
        *TINY,
        *STRIDED,
        "hydra/sweeper=basic",
        "score=false",
        "trainer.precision=32-true,nonsense",
    ]
    code, out, err = lab("train", "-m", "hydra/launcher=local", *options)
    assert code == 1
    assert "nonsense" in err
    assert "Traceback" not in err
    assert "failed: " in out
    assert "(GPU 4), " in out
    assert "(GPU 6); logs in" in out
    assert [path.name for path in lab.folder.glob("saw-*")] == ["saw-4"]
    logs = "".join(path.read_text() for path in (lab.folder / "outputs" / "jobs").glob("*_log.out"))
    assert "runs on CPU, 1 thread; this PyTorch cannot use GPU 4\n" in logs
    outcomes = [json.loads(path.read_text()) for path in (lab.folder / "outputs" / "jobs").glob("*_outcome.json")]
    assert sorted(outcome["reason"] is None for outcome in outcomes) == [False, True]
    assert len(list((lab.folder / "outputs" / "models").glob("*/training.json"))) == 1
