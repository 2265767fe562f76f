"""metrics.csv: the local record of training, flushed at once; W&B and TensorBoard mirror it.

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

from diffusion_lab.files import write_whole


class CSVRecord(Logger):
    """One row a logged step, one column a metric, "step" first. A step logged again replaces its row and all later ones."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "record"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config lies beside the record already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": str(step), **{name: repr(float(value)) for name, value in metrics.items()}}
        columns, rows = self._read()
        if set(row) <= set(columns) and (not rows or int(rows[-1]["step"]) < int(row["step"])):
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerow(row)
            return
        earlier = [kept for kept in rows if int(kept["step"]) < int(row["step"])]
        columns = list(dict.fromkeys([*columns, *row]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows([*earlier, row])
        write_whole(self.path, text.getvalue().encode())

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        if not self.path.exists():
            return [], []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if row["step"] and None not in row.values()]  # a crash may cut the last row
        return list(reader.fieldnames or []), rows
