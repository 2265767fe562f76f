"""Plots as files for papers: a column or a page wide, type that stays readable, colours that everyone can tell apart."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from diffusion_lab.report.panels import FRONT, Panel, Plot, Series

# Okabe & Ito's palette, without its yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_COLUMN, _PAGE = 3.4, 7.0  # inches: widths of a column and of a page of most journals
_HEIGHT, _DPI = 2.0, 200  # of one panel without what stands around it
_LEFT, _TOP, _BOTTOM, _LEGEND_LINE = 0.55, 0.22, 0.42, 0.155  # inches
_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # editable text
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.35,
    "text.parse_math": False,  # names may hold a $
}
_MOST_IN_LEGEND = 12
_MANY = 30  # points of a line that are not marked one by one


def figure_files(plot: Plot) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of a plot as png and as pdf."""
    with rc_context(_STYLE):
        canvas = FigureCanvasAgg(_figure(plot))
        for suffix in ("png", "pdf"):
            buffer = io.BytesIO()
            canvas.print_figure(buffer, format=suffix, dpi=_DPI)
            yield f"{plot.key}.{suffix}", buffer.getvalue()


def _figure(plot: Plot) -> Figure:
    """Margins are set in inches rather than measured by a layout engine, which takes longer than all the drawing."""
    columns = 2 if len(plot.panels) in (2, 4) else min(len(plot.panels), 3)
    rows = math.ceil(len(plot.panels) / columns)
    width = _COLUMN if columns == 1 else _PAGE
    legend = _legend(plot)
    per_row = max(1, int(width / (0.45 + 0.058 * max(map(len, legend), default=1))))
    below = _BOTTOM + _LEGEND_LINE * math.ceil(len(legend) / per_row)
    height = rows * _HEIGHT + below + _TOP
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - 0.12 / width,
        bottom=below / height,
        top=1 - _TOP / height,
        wspace=0.08,
        hspace=0.34,
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, panel in zip(grid.flat, plot.panels, strict=False):
        _draw(axes, panel, plot)
    for axes in grid.flat[len(plot.panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(plot.y_label)
    if legend:
        drawn = [pair for axes in grid.flat for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
        first = {name: handle for handle, name in reversed(drawn)}
        handles = [first[name] for name in legend]
        figure.legend(handles, legend, loc="lower center", ncols=per_row, frameon=False, borderaxespad=0.2)
    return figure


def _legend(plot: Plot) -> list[str]:
    """The names to be told apart: none where there is one, or where the axis names them."""
    names = list(dict.fromkeys(s.name for panel in plot.panels for s in panel.series if not s.faint))
    return names[:_MOST_IN_LEGEND] if len(names) > 1 and not plot.panels[0].categories else []


def _draw(axes: Axes, panel: Panel, plot: Plot) -> None:
    for name, level in panel.levels:
        axes.axhline(level, color="0.45", linewidth=0.8, linestyle=(0, (1, 2)))
        axes.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=6, color="0.35"
        )
    for series in panel.series:
        _draw_series(axes, series)
    if plot.log_x:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    if plot.log_y:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
    if panel.categories:
        axes.set_xticks(range(len(panel.categories)), panel.categories)
        axes.margins(x=0.25)
    axes.set_title("" if panel.categories else panel.title)
    axes.set_xlabel(panel.title if panel.categories else plot.x_label)


def _plain_numbers(axis: Axis) -> None:
    """1, 2, 5, 10, 20, … on a logarithmic axis that spans up to two decades, 1, 10, 100, … on a longer one."""
    low, high = sorted(axis.get_view_interval())
    short = low > 0 and high / low < 200
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _draw_series(axes: Axes, series: Series) -> None:
    if series.faint:
        colour = COLOURS[series.colour % len(COLOURS)]
        axes.plot(series.x, series.y, "o", color=colour, alpha=0.25, markersize=2.5, markeredgewidth=0)
        return
    if series.colour == FRONT:
        axes.plot(series.x, series.y, color="0.25", linewidth=1, drawstyle="steps-post", label=series.name)
        axes.plot(
            series.x, series.y, "o", markersize=8, markerfacecolor="none", markeredgecolor="0.25", markeredgewidth=0.7
        )
        return
    many = len(series.x) > _MANY
    known = [(x, y, e) for x, y, e in zip(series.x, series.y, series.error, strict=False) if e]
    style = {
        "color": COLOURS[series.colour % len(COLOURS)],
        "linestyle": "none" if series.dots else _LINES[series.line % len(_LINES)],
        "marker": "none" if many else _MARKERS[series.line % len(_MARKERS)],
        "linewidth": 0.8 if many else 1.2,
    }
    axes.plot(series.x, series.y, label=series.name, **style)
    for x, y, text in zip(series.x, series.y, series.labels, strict=False):
        around = [withStroke(linewidth=1.5, foreground="white")]  # readable where the line runs through it
        axes.annotate(
            text, (x, y), (3, 3), textcoords="offset points", size=6, color="0.35", path_effects=around, zorder=4
        )
    if known:
        x, y, error = zip(*known, strict=True)
        axes.errorbar(x, y, error, fmt="none", ecolor=style["color"], elinewidth=0.8, capsize=1.5)
