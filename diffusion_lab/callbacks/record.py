"""metrics.csv: the local record of training, flushed at once; W&B and TensorBoard mirror it.

Our own logger, because Lightning's CSVLogger deletes the earlier rows when a run is resumed.
"""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from diffusion_lab.files import extend, write_whole
from diffusion_lab.written import is_ours


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
        content, columns, rows = self._read()
        last = int(rows[-1]["step"]) if rows else -1
        later = [kept for kept in rows if int(kept["step"]) > step] if self._begun else []
        self._begun = True
        if content.endswith(b"\n") and set(row) <= set(columns) and last < step and is_ours(self.path):
            text = io.StringIO(newline="")
            csv.DictWriter(text, columns).writerow(row)
            extend(self.path, content, text.getvalue().encode())
            return
        earlier = [kept for kept in rows if int(kept["step"]) < step]
        same = next((kept for kept in rows if int(kept["step"]) == step), {})
        columns = list(dict.fromkeys([*columns, *row]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows([*earlier, same | row, *later])
        write_whole(self.path, text.getvalue().encode())

    def _read(self) -> tuple[bytes, list[str], list[dict[str, str]]]:
        """Content, columns and rows, without those that cannot be read: a crash may have cut the last, a user changed any."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        lines = content.decode(errors="replace").splitlines(keepends=True)
        reader = csv.DictReader(lines if content.endswith(b"\n") else lines[:-1])
        rows = []
        with suppress(csv.Error):
            rows = [row for row in reader if str(row.get("step")).isdecimal() and None not in (*row, *row.values())]
        return content, list(reader.fieldnames or []) if rows else [], rows


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
