"""Curves of models rather than of rows: the losses while training, and the bound by t."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from diffusion_lab.report.cells import Cell, Gathered
from diffusion_lab.report.panels import ADVICE, BOUND, DIAGNOSIS, TRAINING, Panel, Plot, Series
from diffusion_lab.report.table import SEED, seed_of
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.records import RunError, inside, read_bytes

_PREFIX = "train/"
_NO_LOSS = ("grad_norm", "lr", "skipped_steps", "images_per_second")
_COLUMN = re.compile(r"\w+/\w+")  # the name of a figure's file follows from it
_LARGEST_LOG = 2**28  # bytes
_LARGEST = 1e100
_MOST_POINTS, _MOST_COLUMNS, _MOST_MODELS = 200, 4, 64


def model_plots(gathered: Gathered) -> list[Plot]:
    """Training curves, one plot a loss, and L_t by t; each model once."""
    models: dict[Path, list[Cell]] = {}
    for cell in gathered.done:
        models.setdefault(cell.model.path, []).append(cell)
    shown = dict(list(models.items())[:_MOST_MODELS])
    names = _names(shown, gathered)
    note = "" if len(shown) == len(models) else f"The first {len(shown)} of {len(models)} models. "
    note += "A line style for each seed." if len({seed for _, seed in names.values()}) > 1 else ""
    by_t = [*_bound(shown, names, note), *_diagnosis(shown, names, note)]
    return [*by_t, *_advice(shown, names, note), *_losses(shown, names, note)]


def losses_of(models: Iterable[ModelDirectory]) -> list[str]:
    """The columns of their metrics.csv that training curves are drawn of, as "train/mse"."""
    return _loss_columns([_read_csv(model.metrics_csv) for model in models])


def _names(models: dict[Path, list[Cell]], gathered: Gathered) -> dict[Path, tuple[str, str]]:
    """(its choices, its seed). A choice is named where models differ in it; "a/b" where one model serves two."""
    chosen = {
        path: {a: tuple(sorted({cell.choices.get(a) for cell in cells}, key=str)) for a in gathered.axes}
        for path, cells in models.items()
    }
    distinguishing = [a for a in gathered.axes if a != SEED and len({values[a] for values in chosen.values()}) > 1]
    return {
        path: (
            " · ".join("/".join(value or "none" for value in values[axis]) for axis in distinguishing) or path.name,
            seed_of(models[path][0]),
        )
        for path, values in chosen.items()
    }


def _bound(models: dict[Path, list[Cell]], names: dict[Path, tuple[str, str]], note: str) -> list[Plot]:
    """L_t of each model's longest chain: terms of shorter chains are other terms."""
    lines = []
    for path, cells in models.items():
        known = [cell for cell in cells if cell.curves.get("bits_per_dim", {}).get("bits_per_dim")]
        if known:
            longest = max(known, key=lambda cell: cell.values.get("nfe", 0))
            curve = longest.curves["bits_per_dim"]
            lines.append((path, curve["t"], curve["bits_per_dim"], longest.protocol.get("bound", {}).get("kind", "")))
    if not lines:
        return []
    kinds = "; ".join(dict.fromkeys(kind for *_, kind in lines))
    return [
        Plot(
            key="bound_by_t",
            heading=BOUND,
            name="L_t",
            x_label="t",
            y_label="L_t (bits/dim)",
            panels=[Panel("", _lines(((path, x, y) for path, x, y, _ in lines), names))],
            log_x=True,
            log_y=True,
            note=f"For each model, the longest chain that was scored ({kinds}). {note}".strip(),
        )
    ]


_BY_LOG_SNR = {
    "distance_by_log_snr": "Held-out images, noised to a given log SNR and sampled from there: where a curve rises, those steps "
    "cause the error.",
    "error_by_log_snr": "Error of the velocity at training images, and (faint) that of the best possible denoiser of these images. "
    "The gap between them can still be learned; if it closes at the clean end, the model memorises the images.",
}


def _diagnosis(models: dict[Path, list[Cell]], names: dict[Path, tuple[str, str]], note: str) -> list[Plot]:
    """Curves by log SNR, of each model the score with the most evaluations an image."""
    plots = []
    for curve, meaning in _BY_LOG_SNR.items():
        log = curve == "distance_by_log_snr"
        best = {
            path: max(known, key=lambda cell: cell.values.get("nfe", 0)).curves[curve]
            for path, cells in models.items()
            if (known := [cell for cell in cells if cell.curves.get(curve, {}).get("log_snr")])
        }
        columns = dict.fromkeys(name for entries in best.values() for name in entries if name != "log_snr")
        for name in [column for column in columns if not column.startswith("least_")]:
            lines = [(path, entries["log_snr"], entries[name]) for path, entries in best.items() if name in entries]
            least = [
                (path, entries["log_snr"], entries[f"least_{name}"])
                for path, entries in best.items()
                if f"least_{name}" in entries
            ]
            faint = [
                replace(line, faint=True, name=f"{line.name}, best possible") for line in _lines(least, names, log)
            ]
            plots.append(
                Plot(
                    key=f"{curve}_{name}",
                    heading=DIAGNOSIS,
                    name=name.replace("_", " "),
                    x_label="log SNR",
                    y_label=name.replace("_", " "),
                    panels=[Panel("", [*_lines(lines, names, log), *faint])],
                    log_y=log,
                    note=f"{meaning} {note}".strip(),
                )
            )
    return plots


def _advice(models: dict[Path, list[Cell]], names: dict[Path, tuple[str, str]], note: str) -> list[Plot]:
    """The least bound of each number of steps, and that of even ones, with the options that a score of each model advises."""
    curve, columns, found = "bits_by_num_steps", ("bits_per_dim", "even_bits_per_dim"), {}
    for path, cells in models.items():
        known = [cell for cell in cells if {"num_steps", *columns} <= cell.curves.get(curve, {}).keys()]
        if known:
            found[path] = max(known, key=lambda cell: cell.values.get("advised_gain", 0.0))  # it has most to say
    if not found:
        return []
    best, even = (
        _lines(
            [(path, cell.curves[curve]["num_steps"], cell.curves[curve][column]) for path, cell in found.items()],
            names,
            log=False,
        )
        for column in columns
    )
    advised = [
        f"{names[path][0]}: {measure.detail}."
        for path, cell in found.items()
        for measure in cell.measures
        if measure.name == "advised_gain" and measure.detail
    ]
    meaning = "Bits/dim, with L_T, of the best possible steps, and (faint) of even ones, measured on training images."
    return [
        Plot(
            key=curve,
            heading=ADVICE,
            name="bits/dim by number of steps",
            x_label="steps",
            y_label="bits/dim",
            panels=[Panel("", [*best, *(replace(line, faint=True, name=f"{line.name}, even") for line in even)])],
            log_x=True,
            note=" ".join(filter(None, [meaning, *advised, note])),
        )
    ]


def _losses(models: dict[Path, list[Cell]], names: dict[Path, tuple[str, str]], note: str) -> list[Plot]:
    read = {path: _read_csv(cells[0].model.metrics_csv) for path, cells in models.items()}
    wanted = _loss_columns(read.values())
    return [
        Plot(
            key=f"training_{column.removeprefix(_PREFIX)}",
            heading=TRAINING,
            name=column.removeprefix(_PREFIX).replace("_", " "),
            x_label="training step",
            y_label=column.removeprefix(_PREFIX).replace("_", " "),
            panels=[
                Panel("", _lines(((path, *lines[column]) for path, lines in read.items() if column in lines), names))
            ],
            log_y=True,
            note=note,
            paper=column == wanted[0],
        )
        for column in wanted
    ]


def _loss_columns(tables: Collection[Iterable[str]]) -> list[str]:
    """Those that most of the tables have; their order is that of the tables."""
    columns = dict.fromkeys(column for table in tables for column in table)
    losses = [c for c in columns if c.startswith(_PREFIX) and c.removeprefix(_PREFIX) not in _NO_LOSS]
    return sorted(losses, key=lambda column: -sum(column in table for table in tables))[:_MOST_COLUMNS]


def _lines(
    curves: Iterable[tuple[Path, Sequence[float], Sequence[float]]],
    names: dict[Path, tuple[str, str]],
    log: bool = True,
) -> list[Series]:
    """A colour for each choice, a line for each seed of it. log: the axis is, so that 0 has no place on it."""
    choices = list(dict.fromkeys(choice for choice, _ in names.values()))
    seeds = list(dict.fromkeys(seed for _, seed in names.values()))
    series = []
    for path, x, y in curves:
        choice, seed = names[path]
        kept = [(a, b) for a, b in zip(x, y, strict=True) if b > 0 or not log]
        series.append(Series(choice, *_thinned(kept), colour=choices.index(choice), line=seeds.index(seed)))
    return series


def _thinned(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most _MOST_POINTS: the mean of each run of as many neighbours as that takes."""
    run = -(-len(points) // _MOST_POINTS) or 1
    parts = [points[i : i + run] for i in range(0, len(points), run)]
    return ([sum(x for x, _ in p) / len(p) for p in parts], [sum(y for _, y in p) / len(p) for p in parts])


def _read_csv(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """column -> (steps, values). Empty if there is no such file; a broken line or a number that is not finite is left out."""
    try:
        text = read_bytes(inside(path.parent.parent, path), _LARGEST_LOG).decode()
        lines = list(csv.DictReader(io.StringIO(text)))
    except (OSError, RunError, UnicodeDecodeError, csv.Error):
        return {}
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for column, text in line.items():
            try:
                point = float(line["step"]), float(text)
            except (KeyError, TypeError, ValueError):
                continue
            if _COLUMN.fullmatch(column or "") and all(abs(number) < _LARGEST for number in point):
                xs, ys = columns.setdefault(column, ([], []))
                xs.append(point[0])
                ys.append(point[1])
    return columns
