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
    """One row a logged step, in order, one column a metric, "step" first. What is logged again at a step replaces its values.

    The first row of a process removes all later ones: they are of an earlier process, and after its last checkpoint.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._begun = False

    @property
    def name(self) -> str:
        return ""  # a part of the path of others' files

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config is already stored beside the record."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        # Lightning adds the epoch, and training is a single one.
        row = {"step": str(step)} | {name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}
        columns, rows, whole = self._read()
        last = int(rows[-1]["step"]) if rows else -1
        later = [kept for kept in rows if int(kept["step"]) > step] if self._begun else []
        self._begun = True
        if whole and set(row) <= set(columns) and last < step:
            check_guards(self.path)
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerow(row)
            return
        earlier = [kept for kept in rows if int(kept["step"]) < step]
        same = next((kept for kept in rows if int(kept["step"]) == step), {})
        columns = list(dict.fromkeys([*columns, *row]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows([*earlier, same | row, *later])
        write_whole(self.path, text.getvalue().encode())

    def _read(self) -> tuple[list[str], list[dict[str, str]], bool]:
        """Columns, rows, and whether the file ends with a whole row: a crash may have cut the last one, which is dropped."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = text.splitlines(keepends=True)
        whole = bool(lines) and lines[-1].endswith("\n")
        reader = csv.DictReader(lines if whole else lines[:-1])
        return list(reader.fieldnames or []), list(reader), whole


def copy_rows(source: Path, target: Path, last: int) -> None:
    """Copy a record, without the rows of steps after `last`."""
    with source.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if int(row["step"]) <= last]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, reader.fieldnames or [])
        writer.writeheader()
        writer.writerows(rows)
    write_whole(target, text.getvalue().encode())
