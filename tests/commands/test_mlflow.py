"""What MLflow is told of a training, a score and a report, read back from its database."""

import sys
from importlib.util import find_spec

import pytest

from diffusion_lab.store import newest_model

from ..report.synthetic import write_sweep
from .conftest import STRIDED, TINY


def runs(folder) -> list:
    """All runs, oldest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'diffusion-lab'")
    found = client.search_runs([experiment.experiment_id], order_by=["start_time"])
    for run in found:
        run.files = {
            file.path for at in ("", "samples", "report") for file in client.list_artifacts(run.info.run_id, at)
        }
    return found


@pytest.mark.thorough
@pytest.mark.needs("mlflow-skinny")
@pytest.mark.skipif(find_spec("mlflow") is None, reason="pip install 'diffusion-lab[mlflow]'")
def test_a_training_and_its_score_are_runs(lab):
    """A training and its score are runs and a training goes on in its own."""
    options = [*TINY, *STRIDED, "logger=mlflow", "tags=[mine]"]
    options += ["callbacks.sample_grid.every_n_steps=2", "callbacks.sample_grid.num_images=4"]
    (lab.folder / "broken.py").write_text(
        "from lightning import Callback\n"
        "class Break(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        open('first').close()\n"
        "    on_train_start = on_train_batch_end\n"
    )
    with pytest.raises(FileNotFoundError):
        lab("train", *options, "+callbacks.broken._target_=broken.Break")
    (lab.folder / "first").touch()
    lab.done("train", *options, "+callbacks.broken._target_=broken.Break")
    training, score = runs(lab.folder)
    assert training.info.run_name == newest_model(lab.folder / "outputs").path.name
    for run, job_type in ((training, "train"), (score, "evaluate")):
        assert run.info.status == "FINISHED"
        assert run.data.tags["job_type"] == job_type
        assert {"mine", "variance=learned"} <= set(run.data.tags["tags"].split(", "))
        assert run.data.params["schedule.num_timesteps"] == "24"
    assert training.data.metrics["train/loss"] > 0
    assert "samples/step_0000002.png" in training.files
    assert score.data.metrics["bits_per_dim"] > 0
    assert "samples.png" in score.files


@pytest.mark.thorough
@pytest.mark.needs("mlflow-skinny")
@pytest.mark.skipif(find_spec("mlflow") is None, reason="pip install 'diffusion-lab[mlflow]'")
def test_a_report_is_a_run_with_its_files(lab):
    write_sweep(lab.folder / "outputs", "mine", {"sampler": ["strided", "ddim"]})
    code, _, err = lab("report", "mine", "logger=mlflow")
    assert (code, err) == (0, "")
    (report,) = runs(lab.folder)
    assert (report.info.run_name, report.data.tags["job_type"], report.info.status) == ("mine", "report", "FINISHED")
    assert {"report/report.html", "report/table.csv"} <= report.files


def test_without_mlflow_one_sentence_names_the_extra(lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    lab.refused(
        "train", *TINY, *STRIDED, "logger=mlflow", said=("logger.mlflow", "pip install 'diffusion-lab[mlflow]'")
    )
    assert not (lab.folder / "outputs").exists()
