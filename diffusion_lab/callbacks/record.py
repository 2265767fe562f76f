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

from diffusion_lab.files import check_guards, write_whole


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
        columns, rows, whole = self._read()
        if whole and set(row) <= set(columns) and (not rows or int(rows[-1]["step"]) < int(row["step"])):
            check_guards(self.path)
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

    def _read(self) -> tuple[list[str], list[dict[str, str]], bool]:
        """Columns, rows, and whether the file ends with a whole row: a crash may have cut the last one, which is dropped."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = text.splitlines(keepends=True)
        whole = bool(lines) and lines[-1].endswith("\n")
        reader = csv.DictReader(lines if whole else lines[:-1])
        return list(reader.fieldnames or []), list(reader), whole
