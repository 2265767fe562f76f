"""How runs of MLflow begin and end, read back from its database."""

import os
import shutil
import signal
from dataclasses import replace

import pytest

from diffusion_lab.training.interruption import Interrupted
from diffusion_lab.training.mlflow_runs import MLflow
from diffusion_lab.training.trackers import About

pytestmark = pytest.mark.needs("mlflow-skinny")


def client(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def statuses(folder):
    (experiment,) = client(folder).search_experiments(filter_string="name = 'e'")
    return [run.info.status for run in client(folder).search_runs([experiment.experiment_id])]


@pytest.fixture
def about(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return About("model", tmp_path / "logs", tmp_path / "id", None, (), {"seed": 1})


def test_a_run_has_the_state_of_its_training(tmp_path, about, capfd):
    with pytest.raises(Interrupted), MLflow("e", str(tmp_path / "one")).training(about):
        raise Interrupted(signal.SIGTERM, "")
    assert statuses(tmp_path / "one") == ["KILLED"]
    with MLflow("e", str(tmp_path / "one")).training(about):
        assert statuses(tmp_path / "one") == ["RUNNING"], "it goes on"
    assert statuses(tmp_path / "one") == ["FINISHED"]
    assert "INFO" not in "".join(capfd.readouterr())

    assert "MLFLOW_TRACKING_URI" not in os.environ
    broken = replace(about, folder=tmp_path / "others", config={"no such character: ?": 1})
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # MLflow takes seconds to create a database
    with pytest.raises(Exception, match="Invalid"), MLflow("e", str(tmp_path / "two")).training(broken):
        pass
    assert statuses(tmp_path / "two") == ["FAILED", "FINISHED"]
    assert statuses(tmp_path / "one") == ["FINISHED"], "each folder has its own runs"


def test_an_experiment_that_cannot_be_made_is_said(tmp_path, about, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    answers = iter([MlflowException("the disk is full")])

    def create(self, name, artifact_location=None):
        for error in answers:
            raise error
        return "0"

    monkeypatch.setattr(MlflowClient, "create_experiment", create)
    with pytest.raises(MlflowException, match="the disk is full"), MLflow("e", str(tmp_path)).training(about):
        pass
