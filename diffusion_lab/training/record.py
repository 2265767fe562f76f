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

_DIGITS = 18  # most digits in the number of a step


class CSVRecord(Logger):
    """One row per logged step, in order, and one column per metric, "step" first. Logging at a step again replaces its values.

    The first row of a process removes all later rows, which an earlier process wrote after its last checkpoint.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._begun = False

    @property
    def name(self) -> str:
        return ""  # part of the path of other files

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because the resolved config is stored beside the record."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0  # Lightning always passes it
        # Lightning adds the epoch, but training has only one.
        row = {"step": str(step)} | {name: repr(float(value)) for name, value in metrics.items() if name != "epoch"}
        content = self.path.read_bytes() if self.path.is_file() else b""
        columns, rows = _read(content)
        later = [kept for kept in rows if int(kept["step"]) > step] if self._begun else []
        self._begun = True
        earlier = [kept for kept in rows if int(kept["step"]) < step]
        same = next((kept for kept in rows if int(kept["step"]) == step), {})
        columns = list(dict.fromkeys([*columns, *row]))
        write_whole(self.path, _written(columns, [*earlier, same | row, *later]))


def _read(content: bytes) -> tuple[list[str], list[dict[str, str]]]:
    """(columns, rows). Truncated or damaged rows are omitted."""
    lines = content.decode(errors="replace").splitlines(keepends=True)
    parsed = [_cells(line) for line in lines if line.endswith("\n")]
    columns = parsed[0] if parsed else []
    if "step" not in columns or len({*columns}) < len(columns):
        return [], []
    rows = [dict(zip(columns, cells, strict=True)) for cells in parsed[1:] if len(cells) == len(columns)]
    return columns, [row for row in rows if row["step"].isdecimal() and len(row["step"]) < _DIGITS]


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _written(columns: list[str], rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
