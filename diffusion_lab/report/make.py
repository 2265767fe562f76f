"""Writing the report on a sweep, or on any runs, to a folder: a page, tables and figures. A later report replaces only these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from diffusion_lab.report.decisions import decision_plots
from diffusion_lab.report.exports import cell_csv, latex, markdown, print_tables, row_csv
from diffusion_lab.report.figures import figure_files
from diffusion_lab.report.model_plots import model_plots
from diffusion_lab.report.page import page
from diffusion_lab.report.plots import plots_of, poster
from diffusion_lab.report.read import read_runs, read_sweep
from diffusion_lab.report.table import Gathered, build_table
from diffusion_lab.store import RunError, SweepDirectory
from diffusion_lab.store.files import begin_folder, check_folder, write_whole

COMMAND = "report"  # in the marker of its folder
_PAGE, _FIGURES = "report.html", "figures"
_MOST_GROUPS = 4  # groups with plots; with more, nothing is being compared


def make_report(sweep: SweepDirectory, to: Path | None = None, show: bool = False) -> Path:
    """Write the report on a sweep, finished or not, to its folder `report` or to `to`; returns the path of its page.

    show: print the tables first. RunError if the sweep cannot be read; PlaceError if `to` is another folder of the user's.
    """
    if to is not None:
        check_folder(to, COMMAND)
    return _write(read_sweep(sweep), to or sweep.report, f"diffusion-lab report sweep={sweep.path.name}", show)


def report_on_runs(folders: Iterable[Path], to: Path, command: str, show: bool = False) -> Path:
    """Write the report on run folders; returns the path of its page. RunError if none of them can be read."""
    check_folder(to, COMMAND)
    gathered = read_runs(folders, to.name)
    if not gathered.cells:
        raise RunError("; ".join(gathered.skipped) or "there are no runs to report on")
    return _write(gathered, to, command, show)


def write_poster(gathered: Gathered, to: Path) -> None:
    """Write figures of the largest group of rows for a poster or slides. RunError if no axis varies in it."""
    check_folder(to, COMMAND)
    table = build_table(gathered)
    plots = [*decision_plots(table), *(plot for group in table.groups[:1] for plot in poster(table, group))]
    if not plots:
        raise RunError("there is nothing to draw: no scored runs differ in one option alone")
    forms = ("png", "pdf", "svg")
    _write_files(to, {name: file for plot in plots for name, file in figure_files(plot, forms, plot.note, dpi=600)})


def _write(gathered: Gathered, to: Path, command: str, show: bool) -> Path:
    table = build_table(gathered)
    if show:
        print_tables(gathered, table)
    groups = [group for group in table.groups if len(group.rows) > 1][:_MOST_GROUPS]
    several = len(groups) > 1
    plots = [("", decision_plots(table))]
    plots += [(f"Results {i}" if several else "", plots_of(table, group)) for i, group in enumerate(groups, start=1)]
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
    _write_files(to, contents)
    return to / _PAGE


def _write_files(to: Path, contents: Mapping[str, bytes]) -> None:
    begin_folder(to, COMMAND, contents, stale=".*")
    for name, content in contents.items():
        write_whole(to / name, content)
