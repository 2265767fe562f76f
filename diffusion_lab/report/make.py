"""A sweep, or any runs -> one report: a page, tables and figures. Heavy imports wait until it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.report.written import write_report
from diffusion_lab.store import RunError, SweepDirectory

if TYPE_CHECKING:
    from diffusion_lab.report.cells import Gathered
    from diffusion_lab.report.table import Table

PAGE = "report.html"
_TABLES = ("table.csv", "cells.csv", "table.md", "table.tex")
_MOST_GROUPS = 4  # groups that get plots: beyond that nothing is being compared


def make_report(
    sweep: SweepDirectory,
    to: Path | None = None,
    show: Callable[[Gathered, Table], None] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """The report on a sweep, finished or not, in its folder `report` or in `to`; the path of its page.

    `show` is given what was found before anything is drawn; `say`: a sentence on each file of the user's that has a name of
    ours: it stays, and ours goes beside it. RunError if the sweep cannot be read.
    """
    from diffusion_lab.report.cells import read_sweep

    return _write(read_sweep(sweep), to or sweep.report, f"diffusion-lab report sweep={sweep.path.name}", show, say)


def report_on_runs(
    folders: Iterable[Path],
    to: Path,
    command: str,
    show: Callable[[Gathered, Table], None] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """The report on any run folders; the path of its page. RunError if none of them can be read."""
    from diffusion_lab.report.cells import read_runs

    gathered = read_runs(folders, to.name)
    if not gathered.cells:
        raise RunError("; ".join(gathered.skipped) or "there are no runs to report on")
    return _write(gathered, to, command, show, say)


def _write(
    gathered: Gathered,
    to: Path,
    command: str,
    show: Callable[[Gathered, Table], None] | None,
    say: Callable[[str], None],
) -> Path:
    from diffusion_lab.report.bits_plots import bits_plots
    from diffusion_lab.report.contrast import contenders
    from diffusion_lab.report.exports import cell_csv, latex, markdown, row_csv
    from diffusion_lab.report.figures import figure_files
    from diffusion_lab.report.model_plots import model_plots
    from diffusion_lab.report.nearest import nearest_images
    from diffusion_lab.report.page import page
    from diffusion_lab.report.row_plots import row_plots
    from diffusion_lab.report.sampling_curves import sampling_plots
    from diffusion_lab.report.sprites import sprites
    from diffusion_lab.report.table import build_table
    from diffusion_lab.report.trade import trade_plots
    from diffusion_lab.report.training_curves import training_plots

    table = build_table(gathered)
    if show is not None:
        show(gathered, table)
    groups = [group for group in table.groups if len(group.rows) > 1][:_MOST_GROUPS]
    several = len(groups) > 1
    kinds = (training_plots, sampling_plots, row_plots, bits_plots, trade_plots)
    plots = [
        (
            f"Results {i}" if several else "",
            [plot for plots_of in kinds for plot in plots_of(table, group)],
        )
        for i, group in enumerate(groups, start=1)
    ]
    plots.append(("Models" if several else "", model_plots(gathered)))
    pictures = [(c.run.samples_png, c.protocol.get("data", {}).get("shape", ())) for c in gathered.done]
    drawn = dict(zip((cell.run.path for cell in gathered.done), sprites(pictures), strict=True))
    families = contenders(table)
    ways = sprites([(one.cell.run.interpolation_png, one.cell.protocol["data"]["shape"]) for one in families])
    texts = (
        page(gathered, table, plots, drawn, command, list(zip(families, ways, strict=True)), nearest_images(table)),
        row_csv(table),
        cell_csv(gathered),
        markdown(table),
        latex(table),
    )
    contents = {name: text.encode() for name, text in zip((PAGE, *_TABLES), texts, strict=True)}
    for heading, some in plots:
        folder = "/".join(filter(None, ("figures", heading.lower().replace(" ", "_"))))
        for plot in some:
            if plot.paper:
                contents |= {f"{folder}/{name}": content for name, content in figure_files(plot)}
    places = write_report(to, contents)
    for name, path in places.items():
        if path != to / name:
            say(f"{to / name} was changed, or not written by a report: it is kept, and the new one is {path.name}")
    return places[PAGE]
