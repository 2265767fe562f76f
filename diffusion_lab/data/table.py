"""A CSV for images, with commas, semicolons or tabs: the first column names a file, others hold its class and vector."""

import csv
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from diffusion_lab.data.array_files import one_sentence
from diffusion_lab.data.checks import DataError, require


@dataclass(frozen=True)
class Table:
    """Class ("" without a column of labels) and vector of each file, by its posix path below the folder. path: of the CSV."""

    path: Path
    classes: dict[str, str]
    vectors: dict[str, list[float]]

    def check(self, names: Iterable[str]) -> None:
        """DataError unless exactly these files have a row."""
        there = set(names)
        for lacking, fix in (
            (sorted(there - self.classes.keys()), "has no row for {}: add one, or move the image elsewhere"),
            (
                sorted(self.classes.keys() - there),
                "has a row for {}, which is no image below data.root: remove the row",
            ),
        ):
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            require(not lacking, f"{self.path} {fix.format(f'{lacking[0]}{more}' if lacking else '')}.")

    def vectors_of(self, names: Iterable[str]) -> Tensor:
        """The vectors of these files, float64 (N, D)."""
        return torch.tensor([self.vectors[name] for name in names], dtype=torch.float64)


def read_table(path: Path, label_column: str | None, vector_columns: Sequence[str]) -> Table:
    """The table in a CSV file. DataError, in one sentence, for any other file.

    label_column: the column of classes; None: no classes. vector_columns: the columns of the vectors.
    """
    with (
        one_sentence(f"data.table={path}", "CSV file in UTF-8 with a header"),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        first = file.readline()
        file.seek(0)
        header, *rows = [row for row in csv.reader(file, delimiter=max(",;\t", key=first.count)) if row]
    for column in filter(None, [label_column, *vector_columns]):
        there = header[1:].count(column)
        require(
            there > 0, f"{path} has no column {column}: it has {', '.join(header[1:]) or 'none'} beside the file names."
        )
        require(there == 1, f"{path} has {there} columns called {column}: rename one.")
    table = Table(path, {}, {})
    for row in rows:
        name = PurePosixPath(row[0].replace("\\", "/")).as_posix()
        require(len(row) == len(header), f"{path}: the row of {name} has {len(row)} entries, the header {len(header)}.")
        require(name not in table.classes, f"{path} has two rows for {name}: remove one.")
        entries = dict(zip(header, row, strict=True))
        table.classes[name] = "" if label_column is None else entries[label_column].strip()
        require(table.classes[name] or label_column is None, f"{path}: {label_column} of {name} is empty: fill it in.")
        table.vectors[name] = [_number(entries[column], column, name, path) for column in vector_columns]
    return table


def _number(text: str, column: str, name: str, path: Path) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise DataError(f"{path}: {column}={text} of {name} is not a finite number: correct it.")
