"""A call that says in a real process of a queue which devices it has, and who runs beside it."""

import json
import os
import time
from pathlib import Path

from submitit import JobEnvironment

from diffusion_lab.sweeps.jobs import Call, Outcome

SECONDS = 60  # to wait for others


class Report(Call):
    """It runs until `together` of them have run at the same time."""

    def __init__(self, folder: Path, name: str, devices=1, accelerator="auto", together: int = 1) -> None:
        self.makes, self.folder, self.together = (name,), folder, together
        self.resources = {"accelerator": accelerator, "devices": devices}

    def __call__(self) -> None:
        environment = JobEnvironment()
        here = {"gpus": os.environ["CUDA_VISIBLE_DEVICES"], "threads": os.environ.get("OMP_NUM_THREADS")}
        (self.folder / "running").mkdir(exist_ok=True)
        mine = self.folder / "running" / self.makes[0]
        mine.touch()
        deadline, beside = time.monotonic() + SECONDS, []
        while len(beside) < self.together and time.monotonic() < deadline:
            beside = sorted(path.name for path in mine.parent.iterdir())
            time.sleep(0.01)
        (self.folder / f"{self.makes[0]}.json").write_text(json.dumps({**here, "beside": beside}))
        while len(list(self.folder.glob("*.json"))) < self.together and time.monotonic() < deadline:
            time.sleep(0.01)  # the others are to see this one too
        mine.unlink()
        Outcome().write(environment.paths.folder, environment.job_id, environment.global_rank)
