"""Writing the report on a sweep, or on any runs, to a folder: a page, tables and figures. A later report replaces only these."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count, takewhile
from pathlib import Path

from diffusion_lab.report.exports import cell_csv, latex, markdown, print_tables, row_csv
from diffusion_lab.report.figures import figure_files
from diffusion_lab.report.model_plots import model_plots
from diffusion_lab.report.page import page
from diffusion_lab.report.plots import plots_of
from diffusion_lab.report.read import read_runs, read_sweep
from diffusion_lab.report.table import Gathered, build_table
from diffusion_lab.store import RunError, SweepDirectory
from diffusion_lab.store.files import clear, name_root, remove_staged, write_whole
from diffusion_lab.store.written import is_ours, ours_below

_PAGE, _FIGURES = "report.html", "figures"
_MOST_GROUPS = 4  # groups with plots; with more, nothing is being compared


def make_report(sweep: SweepDirectory, to: Path | None = None, show: bool = False) -> Path:
    """Write the report on a sweep, finished or not, to its folder `report` or to `to`; returns the path of its page.

    show: print the tables first. A file of the user that has one of our names is kept, ours is written beside it, and both are
    named on the terminal. RunError if the sweep cannot be read.
    """
    return _write(read_sweep(sweep), to or sweep.report, f"diffusion-lab report sweep={sweep.path.name}", show)


def report_on_runs(folders: Iterable[Path], to: Path, command: str, show: bool = False) -> Path:
    """Write the report on run folders; returns the path of its page. RunError if none of them can be read."""
    gathered = read_runs(folders, to.name)
    if not gathered.cells:
        raise RunError("; ".join(gathered.skipped) or "there are no runs to report on")
    return _write(gathered, to, command, show)


def _write(gathered: Gathered, to: Path, command: str, show: bool) -> Path:
    table = build_table(gathered)
    if show:
        print_tables(gathered, table)
    groups = [group for group in table.groups if len(group.rows) > 1][:_MOST_GROUPS]
    several = len(groups) > 1
    plots = [(f"Results {i}" if several else "", plots_of(table, group)) for i, group in enumerate(groups, start=1)]
    plots.append(("Models" if several else "", model_plots(gathered)))
    texts = {
        _PAGE: page(gathered, table, plots, command),
        "table.csv": row_csv(table),
        "cells.csv": cell_csv(gathered),
        "table.md": markdown(table),
        "table.tex": latex(table),
    }
    contents = {name: text.encode() for name, text in texts.items()}
    for heading, some in plots:
        folder = "/".join(filter(None, (_FIGURES, heading.lower().replace(" ", "_"))))
        for plot in some:
            if plot.paper:
                contents |= {f"{folder}/{name}": content for name, content in figure_files(plot)}
    places = write_report(to, contents)
    for name, path in places.items():
        if path != to / name:
            print(f"{to / name} was changed, or not written by a report: it is kept, and the new one is {path.name}")
    return places[_PAGE]


def write_report(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    """Write files by their names in `folder`, and remove files of an earlier report that this one lacks.

    Returns the path of each: if the user has a file of that name, it is kept, and the new one gets a name beside it.
    """
    name_root(folder)
    places = {name: next(filter(_is_free, _names(folder / name))) for name in contents}
    for parent in sorted({path.parent for path in places.values()}):
        remove_staged(parent)
    beside = (takewhile(os.path.lexists, _names(folder / name)) for name in contents)
    earlier = {*ours_below(folder / _FIGURES), *filter(is_ours, chain(*beside))}
    for name, path in places.items():
        write_whole(path, contents[name])
    for path in earlier.difference(places.values()):
        clear(path)
    return places


def report_files(folder: Path) -> dict[str, Path]:
    """Our unchanged files in a report's folder, by name."""
    return {path.relative_to(folder).as_posix(): path for path in ours_below(folder)}


def _names(path: Path) -> Iterator[Path]:
    """report.html, report.new.html, report.new2.html, …"""
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem}.new{number if number > 1 else ''}{path.suffix}")


def _is_free(path: Path) -> bool:
    return not os.path.lexists(path) or is_ours(path)
