"""Trainings, scores and reports as runs of MLflow, in a database beside the models or at a server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.store.files import make_folders, write_whole
from diffusion_lab.store.options import flat
from diffusion_lab.training.interruption import Interrupted
from diffusion_lab.training.trackers import About, Score, Tracker, read_id

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from mlflow.tracking import MlflowClient

_SERVER = "MLFLOW_TRACKING_URI"  # in the environment
_ID = "mlflow_id"  # in the folder of the tracker's own files
_LONGEST_VALUE, _MOST_PARAMS = 500, 100  # of what MLflow takes at a time


class MLflow(Tracker):
    """One run for each training, each score and each report; a resumed training keeps its run, whose id is in its folder.

    experiment: where runs are filed. folder: of the database and the files, unless MLFLOW_TRACKING_URI names a server. ValueError
    where MLflow is not installed.
    """

    def __init__(self, experiment: str, folder: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        try:
            import mlflow
        except ImportError:
            raise ValueError("MLflow is not installed: pip install 'diffusion-lab[mlflow]'") from None
        logging.getLogger(mlflow.__name__).setLevel(logging.WARNING)
        self._experiment, self._folder = experiment, Path(folder).absolute()

    @contextmanager
    def training(self, about: About) -> Iterator[Logger]:
        from lightning.pytorch.loggers import MLFlowLogger

        named = os.environ.get(_SERVER)

        class WithImages(MLFlowLogger):
            def log_image(self, key: str, images: list[str], step: int) -> None:
                for file in images:
                    self.experiment.log_artifact(self.run_id, file, key)

        with self._run(about, "train", goes_on=True) as (_, run_id):
            try:
                yield WithImages(self._experiment, tracking_uri=self._uri, run_id=run_id)
            finally:  # it has put its own address there
                os.environ.pop(_SERVER, None)
                os.environ |= {} if named is None else {_SERVER: named}

    @contextmanager
    def scoring(self, about: About) -> Iterator[Callable[[Score], None]]:
        with self._run(about, "evaluate", goes_on=False) as (client, run_id):

            def show(score: Score) -> None:
                for name, value in score.values.items():
                    if value is not None:
                        client.log_metric(run_id, name, value)
                if score.samples_png.is_file():
                    client.log_artifact(run_id, str(score.samples_png))

            yield show

    def report(self, about: About, files: Mapping[str, Path]) -> None:
        with self._run(about, "report", goes_on=False) as (client, run_id):
            for name, file in files.items():
                client.log_artifact(run_id, str(file), str(Path("report", name).parent))

    @property
    def _uri(self) -> str:
        return os.environ.get(_SERVER) or f"sqlite:///{self._folder / 'mlflow.db'}"

    @contextmanager
    def _run(self, about: About, job_type: str, goes_on: bool) -> Iterator[tuple[MlflowClient, str]]:
        """Whatever ends the block, the run ends with it: finished, failed, or killed and to be continued."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        make_folders(self._folder)
        client, id_file = MlflowClient(self._uri), about.folder / _ID
        if goes_on and id_file.is_file():
            run_id = read_id(id_file)
            client.update_run(run_id, "RUNNING")
        else:
            tags = {"job_type": job_type, "group": about.group or "", "tags": ", ".join(about.tags)}
            run_id = client.create_run(self._experiment_id(client), tags=tags, run_name=about.name).info.run_id
            params = [Param(name, str(value)[:_LONGEST_VALUE]) for name, value in flat(about.config).items()]
            for first in range(0, len(params), _MOST_PARAMS):
                client.log_batch(run_id, params=params[first : first + _MOST_PARAMS])
        if goes_on:
            make_folders(about.folder)
            write_whole(id_file, run_id.encode())
        status = "FAILED"
        try:
            yield client, run_id
            status = "FINISHED"
        except Interrupted:
            status = "KILLED"
            raise
        finally:
            client.set_terminated(run_id, status)

    def _experiment_id(self, client: MlflowClient) -> str:
        """The id of the experiment, which is created if it does not exist; another process may create it at the same time."""
        from mlflow.exceptions import MlflowException

        files = None if os.environ.get(_SERVER) else (self._folder / "files").as_uri()
        found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            return found.experiment_id
        try:
            return client.create_experiment(self._experiment, files)
        except MlflowException:
            found = client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            return found.experiment_id
