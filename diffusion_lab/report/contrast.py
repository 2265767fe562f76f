"""Families side by side: the best row of each, what it takes to train and to draw, its samples, the ways through its latents."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_lab.report.cells import Cell
from diffusion_lab.report.layout import Column, Entry, columns, label
from diffusion_lab.report.table import Group, Row, Table


@dataclass(frozen=True)
class Contender:
    """One family. facts: (what, value as written, what it means). cell: the one whose pictures are shown."""

    family: str
    label: str
    facts: list[tuple[str, Entry, str]]
    cell: Cell


def contenders(table: Table) -> list[Contender]:
    """The families of the largest group of rows that were measured alike, as they come; empty unless there are several.

    A family is represented by its row with the smallest distance, or by its first row where no distance was measured.
    """
    if not table.groups:
        return []
    group = table.groups[0]
    by_family: dict[str, list[Row]] = {}
    for row in group.rows:
        if row.done[0].given is not None:
            continue
        by_family.setdefault(_family(row), []).append(row)
    if len(by_family) < 2:
        return []
    shown = columns(group)
    best = {family: min(rows, key=lambda row: _distance(group, row)) for family, rows in by_family.items()}
    return [Contender(family, label(row), _facts(row, shown), row.done[0]) for family, row in best.items()]


def _family(row: Row) -> str:
    return str(row.done[0].protocol.get("model", {}).get("family", "unknown"))


def _distance(group: Group, row: Row) -> float:
    measure = next((measure for measure in group.measures if measure.floor_of), None)
    return row.values[measure.name].mean if measure and measure.name in row.values else float("inf")


def _facts(row: Row, shown: list[Column]) -> list[tuple[str, Entry, str]]:
    facts = []
    for column in shown:
        entry, meaning = column.entry(row, set()), column.measure.meaning
        if column.measure.name == "bits_per_dim":
            kinds = (cell.protocol.get("bound", {}).get("kind") for cell in row.cells_with("bits_per_dim").values())
            meaning = next(kinds, None) or entry.why
        facts.append((column.measure.label, entry, meaning))
    for name, what, scale, unit in (
        ("training_seconds", "s to train", 1, ""),
        ("training_images", "images seen", 1e-3, " k"),
        ("parameters", "parameters", 1e-6, " M"),
    ):
        if name in row.values:
            facts.append((what, Entry(f"{row.values[name].mean * scale:.3g}{unit}"), "of the model that is shown"))
    return facts
