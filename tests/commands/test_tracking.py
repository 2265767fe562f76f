"""What Weights & Biases, TensorBoard and MLflow are told, read back from what they write offline."""

import json
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from wandb.util import get_core_path

from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.store import named_sweep, newest_model

from ..report.synthetic import write_sweep
from .conftest import STRIDED, TINY, files, scored

WANDB = ["logger=wandb", "callbacks.sample_grid.every_n_steps=2", "callbacks.sample_grid.num_images=4"]

CHART = "_wandb.visualize."


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def read(run: Path, *form: str) -> str:
    """What `wandb leet inspect` tells of a run, without the second that its Python takes to begin."""
    (file,) = run.glob("*.wandb")
    reader = [get_core_path(), "leet", "inspect", "--no-observability", *form, "--run-file", file, run]
    return subprocess.run(reader, capture_output=True, text=True, check=True).stdout


def runs(folder: Path, what: str) -> list[dict]:
    """Summaries of all runs of "models", "runs" or "sweeps", oldest first, with how they were opened, artifacts and charts."""
    found = []
    for path in sorted((folder / "outputs" / what).glob("*/logs/wandb/offline-run-*")):
        records = [json.loads(line) for line in read(path, "--json").splitlines()]
        (opened,) = [record["run"] for record in records if record["type"] == "run"]
        kept = [record["artifact"] for record in records if record["type"] == "artifact"]
        updates = [record["config"]["update"] for record in records if record["type"] == "config"]
        drawn = {key: chart for update in updates for key, chart in update.items() if key.startswith(CHART)}
        charts = {key.removeprefix(CHART): chart["panel_config"] for key, chart in drawn.items()}
        summary = json.loads(read(path, "--summary", "--json"))
        found.append(summary | {"opened": opened, "folder": path, "artifacts": kept, "charts": charts})
    return found


def fail(lab, *options: str) -> None:
    """A training that ends in an error of ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionModel, "training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lab("train", *options)


def test_a_training_and_its_score_are_runs_with_config_metrics_and_images(lab):
    code, _, err = lab("train", *TINY, *STRIDED, *WANDB)
    assert code == 0, err
    ((training,), (score,)) = runs(lab.folder, "models"), runs(lab.folder, "runs")
    directory = newest_model(lab.folder / "outputs")
    assert directory.metrics_csv.is_file()
    assert training["name"] == directory.path.name
    assert training["run_id"] == directory.tracked_as.read_text() != score["run_id"]
    for run, job_type in ((training, "train"), (score, "evaluate")):
        assert run["opened"]["job_type"] == job_type
        assert (run["state"], run["exit_code"]) == ("finished", 0)
        assert run["config"]["schedule.num_timesteps"] == 12
        assert "variance=learned" in run["tags"]
        assert f"wandb sync {run['folder']}" in err
        image = run["summary"]["samples"]
        assert list((run["folder"] / "files" / "media" / "images").glob("samples*.png")), image
    assert training["summary"]["trainer/global_step"] == 2
    assert training["summary"]["train/loss"] > 0
    (metrics,) = scored(lab.folder)
    assert score["summary"]["bits_per_dim"] == pytest.approx(metrics["values"]["bits_per_dim"])
    assert score["config"]["measures"]["bits_per_dim"] == "bits/dim"
    assert score["summary"]["L_t_table"]["nrows"] == 12


@pytest.mark.thorough
def test_runs_of_a_sweep_are_a_group_and_its_report_is_an_artifact(lab):
    options = [*TINY, *STRIDED, "logger=wandb", "callbacks.sample_grid.every_n_steps=0"]
    code, _, err = lab("train", "-m", *options, "sampler=strided,ddim", "hydra.sweeper.name=mine")
    assert code == 0, err
    scores, (report,) = runs(lab.folder, "runs"), runs(lab.folder, "sweeps")
    found = [*runs(lab.folder, "models"), *scores, report]
    assert [run["opened"]["run_group"] for run in found] == ["mine"] * 4
    for sampler in ("strided", "ddim"):  # one model, trained with the first of them
        (score,) = [run for run in scores if f"sampler={sampler}" in run["tags"]]
        assert score["config"]["series"] == f"learned · {sampler}"

    assert (report["opened"]["job_type"], report["name"], report["exit_code"]) == ("report", "mine", 0)
    assert report["config"]["axes.sampler"] == ["strided", "ddim"]
    assert report["config"]["command"]
    assert err.count(f"wandb sync {report['folder']}") == 1
    (artifact,) = report["artifacts"]
    assert (artifact["name"], artifact["type"], artifact["aliases"]) == ("mine", "report", ["latest"])
    kept = {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}
    assert kept.keys() == {*files(named_sweep(lab.folder / "outputs", None).report)}
    # W&B has copied them, so that another report may be written over this one.
    assert not any(lab.folder in file.parents for file in kept.values())


def test_what_is_wrong_with_a_reports_tracker_is_said_before_it_is_made(lab, monkeypatch):
    write_sweep(lab.folder / "outputs", "mine", {"sampler": ["strided", "ddim"]})
    lab.refused("report", "runs=outputs/runs", "logger=wandb", said="give sweep=… instead")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("wandb.login", lambda **_: False)
    lab.refused("report", "logger=wandb", said="wandb login")


@pytest.mark.thorough
def test_a_training_that_fails_says_so_and_goes_on_under_its_id(lab):
    options = [*TINY, *STRIDED, "logger=wandb", "score=false"]
    fail(lab, *options)
    time.sleep(1)  # W&B names the folder of a run after its id and the second
    assert lab("train", *options)[0] == 0
    failed, finished = runs(lab.folder, "models")
    assert (failed["exit_code"], finished["exit_code"]) == (1, 0)
    assert failed["run_id"] == finished["run_id"]
    lab.done("train", *options, "retrain=true")
    (again,) = runs(lab.folder, "models")  # those before are in the trash with the model
    assert again["run_id"] != finished["run_id"]


@pytest.mark.thorough
def test_without_an_account_one_sentence_says_how_to_go_on(tmp_path, zygote):
    here = {"WANDB_MODE": "online", "HOME": str(tmp_path)}
    training = zygote.start(tmp_path, "train", *TINY, *STRIDED, "logger=wandb", **here)
    _, err = training.communicate()
    assert training.returncode == 1
    assert "set WANDB_MODE=offline" in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "outputs").glob("*/*/config.yaml"))


@pytest.mark.thorough
def test_a_service_that_is_down_costs_a_warning_and_nothing_else(tmp_path, zygote):
    """Nobody listens at that port. It is waited for as long as W&B is told, then the run is recorded offline."""
    nowhere = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    nowhere |= {"WANDB_INIT_TIMEOUT": "2"}
    training = zygote.start(tmp_path, "train", *TINY, *STRIDED, "logger=wandb", "score=false", **nowhere)
    _, err = training.communicate()
    assert training.returncode == 0, err
    assert err.count("cannot reach W&B") == 1
    assert "Traceback" not in err
    directory = newest_model(tmp_path / "outputs")
    assert directory.finished
    assert list(directory.logs.rglob("*.wandb"))


def test_several_loggers_at_once_and_any_of_lightnings(lab):
    """One of them the user's own, from the working directory; each that takes a folder gets that of the model."""
    (lab.folder / "mine.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Counting(CSVLogger):\n"
        "    def __init__(self, save_dir, by):\n"
        "        super().__init__(save_dir, 'counting')\n"
        "        self.by = by\n"
        "    def log_metrics(self, metrics, step):\n"
        "        super().log_metrics({'by': self.by} | metrics, step)\n"
    )
    options = ["logger=[csv,tensorboard]", "+logger.own._target_=mine.Counting", "+logger.own.by=7", "score=false"]
    lab.done("train", *TINY, *STRIDED, *options)
    logs = newest_model(lab.folder / "outputs").logs
    assert list(logs.glob("events.out.tfevents.*"))
    for file in ("csv/version_0", "counting/version_0"):
        assert "train/loss" in (logs / file / "metrics.csv").read_text()
        assert "schedule.num_timesteps: 12" in (logs / file / "hparams.yaml").read_text()
    assert "7" in (logs / "counting/version_0/metrics.csv").read_text().splitlines()[1].split(",")
    out = lab.done("train", "-m", *TINY, *STRIDED, *options, "seed=1,2", "hydra.sweeper.dry_run=true")
    assert out.count("train  ") == 1, "loggers make no other model"


@pytest.mark.thorough
@pytest.mark.needs("mlflow-skinny")
@pytest.mark.skipif(find_spec("mlflow") is None, reason="pip install 'diffusion-lab[mlflow]'")
def test_mlflow_has_a_run_for_a_training_and_its_score(lab, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # Lightning sets it; restored after the test
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    lab.done("train", *TINY, *STRIDED, "logger=mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{lab.folder / 'outputs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'diffusion-lab'")
    training, score = client.search_runs([experiment.experiment_id], order_by=["start_time"])
    assert training.info.run_name == newest_model(lab.folder / "outputs").path.name
    for run in (training, score):
        assert run.info.status == "FINISHED"
        assert run.data.params["schedule.num_timesteps"] == "12"
    assert training.data.metrics["train/loss"] > 0
    assert score.data.metrics["bits_per_dim"] > 0
    assert {path.name for path in lab.folder.iterdir()} == {"outputs"}
