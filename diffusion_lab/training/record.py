"""metrics.csv: the local record of training, flushed after every row. Trackers such as W&B and TensorBoard mirror it.

Our own logger, because Lightning's CSVLogger deletes the earlier rows when a run is resumed.
"""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffusion_lab.store.files import write_whole


class CSVRecord(Logger):
    """One row per logged step, in order, and one column per metric, "step" first. Logging at a step again extends its row.

    The first row of a process removes all later rows, which an earlier process wrote after its last checkpoint.
    """

    name = version = ""  # properties in the base class, used in the paths of other files

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._begun = False

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because the resolved config is stored beside the record."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0  # Lightning always passes it
        # Read each time, so that a process that has lost its folder does not write old rows into it.
        rows = {n: row for n, row in _read(self.path).items() if self._begun or n <= step}
        self._begun = True
        # Lightning adds the epoch, but training has only one.
        row = {name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}
        rows[step] = {"step": str(step)} | rows.get(step, {}) | row
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows.values() for name in row)))
        writer.writeheader()
        writer.writerows(rows[n] for n in sorted(rows))
        write_whole(self.path, text.getvalue().encode())


def _read(path: Path) -> dict[int, dict[str, str]]:
    """The rows of an earlier process by step. Rows without a step, as a spreadsheet program may leave them, are omitted."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    rows = [{name: value for name, value in row.items() if name and value} for row in csv.DictReader(lines)]
    return {int(row["step"]): row for row in rows if row.get("step", "").isdecimal()}
