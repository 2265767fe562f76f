"""Curves of models rather than of rows: losses during training, and the bound by t."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffusion_lab.report.choices import with_axis
from diffusion_lab.report.numbers import MOST_NAMED
from diffusion_lab.report.panels import ADVICE, BOUND, DIAGNOSIS, TRAINING, Panel, Plot, Series
from diffusion_lab.report.table import SEED, Cell, Gathered
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.option_names import grouped, short_names
from diffusion_lab.store.records import RunError, inside, read_bytes

_PREFIX = "train/"
_NO_LOSS = ("grad_norm", "lr", "skipped_steps", "images_per_second", "warm_up_seconds", "mfu", "peak_memory_mib")
_COLUMN = re.compile(r"\w+/\w+")  # also used as the name of the figure's file
_LARGEST_LOG = 2**28  # bytes
_LARGEST = 1e100
_MOST_POINTS, _MOST_COLUMNS, _MOST_MODELS = 200, 4, 64
_BY_LOG_SNR = {
    "distance_by_log_snr": "Held-out images, noised to a given log SNR and sampled from there: where a curve rises, those steps "
    "cause the error.",
    "error_by_log_snr": "Error of the velocity at training images, and (faint) that of the best possible denoiser of these images. "
    "The gap between them can still be learned; if it closes at the clean end, the model memorises the images.",
}
_LEAST_BITS = "Bits/dim, with L_T, of the best possible steps, and (faint) of even ones, measured on training images."
Models = Mapping[Path, list[Cell]]
Names = Mapping[Path, tuple[str, str]]  # (choices, seed) of each model


def model_plots(gathered: Gathered) -> list[Plot]:
    """Training curves, one plot per loss, and L_t by t; each model appears once."""
    models = grouped(gathered.done, lambda cell: cell.model.path)
    shown = dict(list(models.items())[:_MOST_MODELS])
    names = _names(shown, gathered)
    note = "" if len(shown) == len(models) else f"The first {len(shown)} of {len(models)} models. "
    note += "A line style for each seed." if len({seed for _, seed in names.values()}) > 1 else ""
    drawn = [*_curve_plots(shown, names), *_losses(shown, names)]
    return [replace(plot, note=f"{plot.note} {note}".strip()) for plot in drawn]


def losses_of(models: Iterable[ModelDirectory]) -> list[str]:
    """The columns of metrics.csv that are drawn as training curves, such as "train/mse"."""
    return _loss_columns([_read_csv(model.metrics_csv) for model in models])


def _names(models: Models, gathered: Gathered) -> Names:
    """Models named by the choices in which they differ, or by their folders if these are many; "a/b" if one model serves two."""
    chosen = {
        path: {a: tuple(sorted({cell.choices.get(a) for cell in cells}, key=str)) for a in gathered.axes}
        for path, cells in models.items()
    }
    axes = [a for a in gathered.axes if a != SEED and len({values[a] for values in chosen.values()}) > 1]
    named_by = short_names(axes) if len(axes) <= MOST_NAMED else {}
    return {
        path: (
            " · ".join(with_axis(name, "/".join(v or "none" for v in values[axis])) for axis, name in named_by.items())
            or path.name,
            models[path][0].seed,
        )
        for path, values in chosen.items()
    }


def _with_curve(models: Models, curve: str, columns: Collection[str], largest: str = "nfe") -> dict[Path, Cell]:
    """For each model that has this curve, its cell with the largest value of `largest`."""
    known = {
        path: [cell for cell in cells if all(cell.curves.get(curve, {}).get(column) for column in columns)]
        for path, cells in models.items()
    }
    return {path: max(some, key=lambda cell: cell.values.get(largest, 0.0)) for path, some in known.items() if some}


def _curve_plots(models: Models, names: Names) -> Iterator[Plot]:
    """Curves from scores, once per model: L_t by t, the diagnosis by log SNR, the bound by number of steps."""
    # The longest chain of each model, because shorter chains have other terms.
    if longest := _with_curve(models, "bits_per_dim", ["bits_per_dim"]):
        kinds = "; ".join(dict.fromkeys(cell.bound_kind for cell in longest.values()))
        lines = _of_cells(longest, "bits_per_dim", "t", "bits_per_dim", names)
        note = f"For each model, the longest chain that was scored ({kinds})."
        yield Plot("bound_by_t", BOUND, "L_t", "t", "L_t (bits/dim)", [Panel("", lines)], True, True, note)
    for curve, meaning in _BY_LOG_SNR.items():
        log = curve == "distance_by_log_snr"
        best = _with_curve(models, curve, ["log_snr"])
        columns = dict.fromkeys(name for cell in best.values() for name in cell.curves[curve] if name != "log_snr")
        for name in [column for column in columns if not column.startswith("least_")]:
            lines = _of_cells(best, curve, "log_snr", name, names, log)
            lines += _faint(_of_cells(best, curve, "log_snr", f"least_{name}", names, log), "best possible")
            what = name.replace("_", " ")
            yield Plot(f"{curve}_{name}", DIAGNOSIS, what, "log SNR", what, [Panel("", lines)], False, log, meaning)
    curve, least, even = "bits_by_num_steps", "bits_per_dim", "even_bits_per_dim"
    if found := _with_curve(models, curve, ["num_steps", least, even], "advised_gain"):  # largest gain
        lines = _of_cells(found, curve, "num_steps", least, names, log=False)
        lines += _faint(_of_cells(found, curve, "num_steps", even, names, log=False), "even")
        advised = [
            f"{names[path][0]}: {measure.detail}."
            for path, cell in found.items()
            for measure in cell.measures
            if measure.name == "advised_gain" and measure.detail
        ]
        name, note = "bits/dim by number of steps", " ".join([_LEAST_BITS, *advised])
        yield Plot(curve, ADVICE, name, "steps", "bits/dim", [Panel("", lines)], True, False, note)


def _losses(models: Models, names: Names) -> list[Plot]:
    read = {path: _read_csv(cells[0].model.metrics_csv) for path, cells in models.items()}
    wanted = _loss_columns(read.values())
    plots = []
    for column in wanted:
        key = column.removeprefix(_PREFIX)
        lines = [_line(path, *columns[column], names) for path, columns in read.items() if column in columns]
        if all(len(line.x) < 2 for line in lines):
            continue  # a training of a few steps
        name = key.replace("_", " ")
        panels, paper = [Panel("", lines)], column == wanted[0]
        plots.append(Plot(f"training_{key}", TRAINING, name, "training step", name, panels, log_y=True, paper=paper))
    return plots


def _loss_columns(tables: Collection[Iterable[str]]) -> list[str]:
    """The columns that occur in the most tables, in the order of the tables."""
    columns = dict.fromkeys(column for table in tables for column in table)
    losses = [c for c in columns if c.startswith(_PREFIX) and c.removeprefix(_PREFIX) not in _NO_LOSS]
    return sorted(losses, key=lambda column: -sum(column in table for table in tables))[:_MOST_COLUMNS]


def _of_cells(cells: Mapping[Path, Cell], curve: str, x: str, y: str, names: Names, log: bool = True) -> list[Series]:
    """The line of each model whose cell has this column of the curve."""
    curves = {path: cell.curves[curve] for path, cell in cells.items()}
    return [_line(path, columns[x], columns[y], names, log) for path, columns in curves.items() if y in columns]


def _line(path: Path, x: Sequence[float], y: Sequence[float], names: Names, log: bool = True) -> Series:
    """A line with one colour per choice and one dash per seed. log: the axis is logarithmic, so zeros are omitted."""
    choices, seeds = (list(dict.fromkeys(parts)) for parts in zip(*names.values(), strict=True))
    choice, seed = names[path]
    kept = [(a, b) for a, b in zip(x, y, strict=True) if b > 0 or not log]
    return Series(choice, *_thinned(kept), colour=choices.index(choice), line=seeds.index(seed))


def _faint(lines: Iterable[Series], which: str) -> list[Series]:
    return [replace(line, faint=True, name=f"{line.name}, {which}") for line in lines]


def _thinned(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most _MOST_POINTS points, each the mean of equally many neighbours."""
    run = -(-len(points) // _MOST_POINTS) or 1
    parts = [points[i : i + run] for i in range(0, len(points), run)]
    return ([sum(x for x, _ in p) / len(p) for p in parts], [sum(y for _, y in p) / len(p) for p in parts])


def _read_csv(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """column -> (steps, values). Empty without a file; damaged lines and non-finite numbers are skipped."""
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
