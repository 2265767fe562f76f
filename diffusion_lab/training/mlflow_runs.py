"""Trainings, scores and reports as MLflow runs, in a database beside the models or on a server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.store.files import make_folders, write_whole
from diffusion_lab.store.option_names import flat
from diffusion_lab.training.interruption import Interrupted
from diffusion_lab.training.trackers import About, Score, Tracker, read_id
from diffusion_lab.versions import is_installed

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, MLFlowLogger

_SERVER = "MLFLOW_TRACKING_URI"  # in the environment
_ID = "mlflow_id"  # a file in the folder of the tracker


class MLflow(Tracker):
    """Lightning's MLflow logger, with one run for each training, score and report.

    A resumed training continues its run, whose id is in its folder.
    experiment: the name under which runs are filed. folder: of the database and files, unless MLFLOW_TRACKING_URI is set.
    ValueError if MLflow is not installed.
    """

    def __init__(self, experiment: str, folder: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read on import
        if not (is_installed("mlflow-skinny") or is_installed("mlflow")):
            raise ValueError("MLflow is not installed: pip install 'diffusion-lab[mlflow]'")
        self._experiment, self._folder = experiment, Path(folder).absolute()

    @contextmanager
    def training(self, about: About) -> Iterator[Logger]:
        id_file = about.folder / _ID
        with self._run(about, "train", read_id(id_file) if id_file.is_file() else None) as logger:
            make_folders(about.folder)
            write_whole(id_file, str(logger.run_id).encode())
            yield logger

    @contextmanager
    def scoring(self, about: About) -> Iterator[Callable[[Score], None]]:
        with self._run(about, "evaluate") as logger:

            def show(score: Score) -> None:
                logger.log_metrics({name: value for name, value in score.values.items() if value is not None})
                if score.samples_png.is_file():
                    logger.experiment.log_artifact(logger.run_id, str(score.samples_png))

            yield show

    def report(self, about: About, files: Mapping[str, Path]) -> None:
        with self._run(about, "report") as logger:
            for name, file in files.items():
                logger.experiment.log_artifact(logger.run_id, str(file), str(Path("report", name).parent))

    @contextmanager
    def _run(self, about: About, job_type: str, run_id: str | None = None) -> Iterator[MLFlowLogger]:
        """A run that ends with the block, in every case: finished, failed, or killed and to be continued.

        run_id: of a run to continue; None: a new one.
        """
        from lightning.pytorch.loggers import MLFlowLogger
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        class WithImages(MLFlowLogger):
            def log_image(self, key: str, images: list[str], step: int) -> None:
                for file in images:
                    self.experiment.log_artifact(self.run_id, file, key)

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        make_folders(self._folder)
        server = os.environ.get(_SERVER)
        uri = server or f"sqlite:///{self._folder / 'mlflow.db'}"
        client = MlflowClient(uri)
        try:
            client.create_experiment(self._experiment, None if server else (self._folder / "files").as_uri())
        except MlflowException as error:  # another process may create it at the same time
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"job_type": job_type, "group": about.group or "", "tags": ", ".join(about.tags)}
        logger = WithImages(self._experiment, about.name, uri, tags, run_id=run_id)
        status = "FAILED"
        try:
            if run_id is None:
                logger.log_hyperparams(flat(about.config))
            else:
                client.update_run(run_id, "RUNNING")
            yield logger
            status = "FINISHED"
        except Interrupted:
            status = "KILLED"
            raise
        finally:  # Lightning's logger has set its own address
            os.environ.pop(_SERVER, None)
            os.environ |= {} if server is None else {_SERVER: server}
            logger.finalize(status)
