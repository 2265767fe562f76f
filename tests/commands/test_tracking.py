"""What Weights & Biases and TensorBoard are told, read back from what they write offline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.runs import newest_model

from .conftest import STRIDED, TINY

WANDB = ["logger=wandb", "callbacks.sample_grid.every_n_steps=2", "callbacks.sample_grid.num_images=4"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def read(*command: str) -> str:
    wandb = Path(sys.executable).parent / "wandb"
    return subprocess.run([wandb, "leet", "inspect", *command], capture_output=True, text=True, check=True).stdout


def runs(folder: Path, what: str) -> list[dict]:
    """Summaries of all runs of "models" or "runs", oldest first, with what they were opened with."""
    found = []
    for path in sorted((folder / "outputs" / what).glob("*/logs/wandb/offline-run-*")):
        records = [json.loads(line) for line in read("--json", str(path)).splitlines()]
        (opened,) = [record["run"] for record in records if record["type"] == "run"]
        found.append(json.loads(read("--summary", "--json", str(path))) | {"opened": opened, "folder": path})
    return found


def test_a_training_and_its_score_are_runs_with_config_metrics_and_images(lab):
    code, _, err = lab("train", *TINY, *STRIDED, *WANDB)
    assert code == 0, err
    ((training,), (score,)) = runs(lab.folder, "models"), runs(lab.folder, "runs")
    directory = newest_model(lab.folder / "outputs")
    assert training["name"] == directory.path.name
    assert training["run_id"] == directory.tracked_as.read_text() != score["run_id"]
    for run, job_type in ((training, "train"), (score, "evaluate")):
        assert run["opened"]["job_type"] == job_type
        assert (run["state"], run["exit_code"]) == ("finished", 0)
        assert run["config"]["schedule.num_timesteps"] == 24
        assert "variance=learned" in run["tags"]
        assert f"wandb sync {run['folder']}" in err
        image = run["summary"]["samples"]
        assert list((run["folder"] / "files" / "media" / "images").glob("samples*.png")), image
    assert training["summary"]["trainer/global_step"] == 2
    assert training["summary"]["train/loss"] > 0
    (metrics,) = [json.loads(path.read_text()) for path in (lab.folder / "outputs" / "runs").glob("*/metrics.json")]
    assert score["summary"]["bits_per_dim"] == pytest.approx(metrics["values"]["bits_per_dim"])
    assert score["config"]["measures"]["bits_per_dim"] == "bits/dim"
    assert score["summary"]["L_t_table"]["nrows"] == 3


def test_runs_of_a_sweep_are_a_group(lab):
    options = [*TINY, *STRIDED, "logger=wandb", "callbacks.sample_grid.every_n_steps=0"]
    code, _, err = lab("train", "-m", *options, "sampler=strided,ddim", "hydra.sweeper.name=mine")
    assert code == 0, err
    found = [*runs(lab.folder, "models"), *runs(lab.folder, "runs")]
    assert [run["opened"]["run_group"] for run in found] == ["mine"] * 3


def test_a_training_that_fails_says_so_and_goes_on_under_its_id(lab):
    class BrokenError(Exception):
        pass

    def broken(*_):
        raise BrokenError

    options = [*TINY, *STRIDED, "logger=wandb", "score=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionModel, "training_step", broken)
        with pytest.raises(BrokenError):
            lab("train", *options)
    assert lab("train", *options)[0] == 0
    failed, finished = runs(lab.folder, "models")
    assert (failed["exit_code"], finished["exit_code"]) == (1, 0)
    assert failed["run_id"] == finished["run_id"]
    lab("train", *options, "retrain=true")
    assert runs(lab.folder, "models")[-1]["run_id"] != finished["run_id"]


def test_without_an_account_one_sentence_says_how_to_go_on(process):
    done = process("train", *TINY, *STRIDED, "logger=wandb", WANDB_MODE="online", HOME=str(process.folder))
    assert done.returncode == 1
    assert "set WANDB_MODE=offline" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list((process.folder / "outputs").glob("*/*/config.yaml"))


def test_a_service_that_is_down_costs_a_warning_and_nothing_else(process, monkeypatch):
    """Nobody listens at that port. It is waited for half a minute, then the run is recorded offline."""
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # that of this process would be shared
    nowhere = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    done = process("train", *TINY, *STRIDED, "logger=wandb", "score=false", **nowhere)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B cannot be reached") == 1
    assert "Traceback" not in done.stderr
    directory = newest_model(process.folder / "outputs")
    assert directory.finished
    assert list(directory.logs.rglob("*.wandb"))


def test_tensorboard_lies_beside_the_model(lab):
    code, _, err = lab("train", *TINY, *STRIDED, "logger=tensorboard", "score=false")
    assert code == 0, err
    assert list(newest_model(lab.folder / "outputs").logs.glob("events.out.tfevents.*"))
