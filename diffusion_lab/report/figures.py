"""Drawing plots: for papers with matplotlib, one column or one page wide; for the page as input of plotly.

Colours on the page are names of CSS variables.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import zip_longest
from textwrap import fill
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from diffusion_lab.report.panels import LIGHT, Panel, Plot, Scale, Series, legend, scales, stroke

_DASHES = {None: "none", "solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_MARKERS = {None: "none", "circle": "o", "circle-open": "o", "square": "s", "triangle-up": "^", "diamond": "D"}
_MARKERS |= {"triangle-down": "v", "x": "X", "cross": "P"}
_INK = "0.25"
_COLUMN, _PAGE = 3.4, 7.0  # inches: the usual widths of a journal's column and page
_HEIGHT = 2.0  # inches, of one panel without its margins
_LEFT, _TOP, _BOTTOM, _LEGEND_LINE = 0.55, 0.22, 0.42, 0.155  # inches
_LABEL, _SIGN = 0.32, 0.062  # inches of the y label and of each sign of its ticks
_KEY, _LETTER = 0.45, 0.058  # inches of an entry of the legend without its text, and of each letter
_STYLE: dict[Any, Any] = {
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
_DIGITS = 6  # significant digits of numbers that are only drawn
# Dashes and markers in the legend of the page.
_STROKES = {None: "", "solid": "──", "dash": "╌╌", "dot": "┈┈", "dashdot": "─·"}
_SIGNS = {
    "circle": "●",
    "square": "■",
    "triangle-up": "▲",
    "diamond": "◆",
    "triangle-down": "▼",
    "x": "✖",
    "cross": "✚",
}


def figure_files(
    plot: Plot, suffixes: Sequence[str] = ("png", "pdf"), note: str = "", dpi: int = 200
) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of a plot. note: written below it. dpi: of png."""
    with rc_context(_STYLE):
        canvas = FigureCanvasAgg(_figure(plot, note))
        for suffix in suffixes:
            buffer = io.BytesIO()
            canvas.print_figure(buffer, format=suffix, dpi=dpi)
            yield f"{plot.key}.{suffix}", buffer.getvalue()


def _figure(plot: Plot, note: str = "") -> Figure:
    """A figure with margins set in inches; measuring them with a layout engine would take longer than drawing."""
    columns = 2 if len(plot.panels) in (2, 4) else min(len(plot.panels), 3)
    rows = math.ceil(len(plot.panels) / columns)
    width = _COLUMN if columns == 1 else _PAGE
    names = [series.name for series in legend(plot)][:_MOST_IN_LEGEND]
    texts = [fill(name, int((width - _KEY) / _LETTER)) for name in names]
    per_row = max(1, int(width / (_KEY + _LETTER * max(map(len, names), default=1))))
    text_lines = max((text.count("\n") + 1 for text in texts), default=0)
    note = fill(note, int(width / _LETTER))
    note_lines = note.count("\n") + 1 if note else 0
    below = _BOTTOM + _LEGEND_LINE * (text_lines * math.ceil(len(names) / per_row) + note_lines)
    titles = [
        "\n".join(fill(text, int(width / columns / _LETTER)) for text in (panel.title, panel.verdict) if text)
        for panel in plot.panels
    ]
    more_lines = max(title.count("\n") for title in titles) * _LEGEND_LINE
    top = _TOP + more_lines
    height = rows * _HEIGHT + (rows - 1) * more_lines + below + top
    own = any(panel.ends for panel in plot.panels)
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - 0.12 / width,
        bottom=below / height,
        top=1 - top / height,
        wspace=0.3 if own else 0.08,
        hspace=0.34 + more_lines / _HEIGHT,
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=not own)
    lines: dict[str, Artist] = {}
    for axes, panel, title in zip(grid.flat, plot.panels, titles, strict=False):
        lines = _draw(axes, panel, plot) | lines
        axes.set_title(title)
    for axes in grid.flat[len(plot.panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(plot.y_label)
    longest = max((len(tick.get_text()) for axes in grid[:, 0] for tick in axes.get_yticklabels()), default=0)
    label = _LABEL + _LEGEND_LINE * plot.y_label.count("\n")
    figure.subplots_adjust(left=max(_LEFT, label + _SIGN * longest) / width)
    if note:
        figure.text(0.5, 0.05 / height, note, ha="center", va="bottom", size=7)
    if names:
        # Not matplotlib's own list, which omits names that begin with an underscore.
        figure.legend(
            [lines[name] for name in names], texts, loc="lower center", ncols=per_row, frameon=False, borderaxespad=0.2
        )
    return figure


def _draw(axes: Axes, panel: Panel, plot: Plot) -> dict[str, Artist]:
    """Draw the panel; returns the line of each name, without its error bars."""
    for name, level in panel.levels:
        axes.axhline(level, color="0.45", linewidth=0.8, linestyle=(0, (1, 2)))
        axes.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=6, color="0.35"
        )
    drawn = [(series, _draw_series(axes, series)) for series in panel.series]
    for which, scale in zip("xy", scales(plot, panel), strict=True):
        _set(axes, which, scale)
    axes.set_xlabel(plot.x_label)
    return {series.name: line for series, line in reversed(drawn) if not series.faint}


def _set(axes: Axes, which: str, scale: Scale) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    # Limits come first, or a log scale would choose its own where all points have one value.
    axes.set(**{f"{which}lim": (scale.low, scale.high)})
    axes.set(**{f"{which}scale": "log" if scale.log else "linear"})
    if scale.log:
        # Ticks over several decades at 1, 10, 100; over one at 1, 2, 5; over less as on a linear axis.
        decades = math.log10(scale.high / scale.low)
        several = LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0))
        axis.set_major_locator(several if decades > 1 else MaxNLocator(4))
        axis.set_major_formatter("{x:.10g}")
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))  # round numbers; more of them may overlap
    if scale.ticks:
        axis.set_ticks(*zip(*scale.ticks, strict=True))
    axis.set_minor_locator(NullLocator())


def _draw_series(axes: Axes, series: Series) -> Artist:
    look = stroke(series)
    colour = _INK if look.colour is None else LIGHT[look.colour]
    line, *_ = axes.errorbar(
        series.x,
        series.y,
        [error or math.nan for error in series.error] if any(series.error) else None,
        color=colour,
        alpha=look.opacity,
        linestyle=_DASHES[look.dash],
        linewidth=1.2 * look.width,
        elinewidth=0.8 if look.caps else 0.4,
        capsize=1.5 if look.caps else 0,
        drawstyle="steps-post" if look.steps else "default",
        marker=_MARKERS[look.marker],
        markersize=3.5 * look.size,
        markeredgewidth=0 if series.faint else 0.7,
        fillstyle="none" if look.marker == "circle-open" else "full",
    )
    for x, y, text in zip(series.x, series.y, series.labels, strict=False):
        around = [withStroke(linewidth=1.5, foreground="white")]  # keeps text readable where the line crosses it
        axes.annotate(
            text, (x, y), (3, 3), textcoords="offset points", size=6, color="0.35", path_effects=around, zorder=4
        )
    return line


def figure(plot: Plot, panel: Panel, rows: Mapping[int, str]) -> str:
    """plotly's data and layout as JSON. rows: the label of each row number. plotly reads text as HTML, so it is escaped."""
    x, y = scales(plot, panel)
    verdict = f'<br><span style="font-size: 11px">{escape(panel.verdict)}</span>' if panel.verdict else ""
    layout = {
        "title": {"text": escape(panel.title) + verdict} | ({"y": 0.94} if verdict else {}),
        "margin": {"t": 42 if verdict else 26 if panel.title else 8},
        "xaxis": _axis(x, plot.x_label),
        "yaxis": _axis(y, plot.y_label),
        "shapes": [
            {"y0": level, "y1": level, "label": {"text": escape(name), "textposition": "end"}}
            for name, level in panel.levels
        ],
    }
    content = {"data": [_trace(series, rows, panel) for series in panel.series], "layout": layout}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def swatch(series: Series) -> Markup:
    """Line and marker of a series for the legend."""
    look = stroke(series)
    text = f"{_STROKES[look.dash]}{_SIGNS.get(look.marker or '', '○' if look.marker else '')}"
    return Markup(f'<span aria-hidden="true" style="color: var({_colour(series)})">{text}</span> ')


def _trace(series: Series, rows: Mapping[int, str], panel: Panel) -> dict[str, Any]:
    look, colour = stroke(series), _colour(series)
    parts = {"lines": look.dash, "markers": look.marker, "text": series.labels}
    shape = "hv" if look.steps else "linear"
    trace: dict[str, Any] = {
        "legendgroup": series.name,  # the legend hides all series of a group
        "mode": "+".join(part for part, there in parts.items() if there),
        "x": _rounded(series.x),
        "y": _rounded(series.y),
        "opacity": look.opacity,
        "line": {"color": colour, "width": 2 * look.width, "dash": look.dash or "solid", "shape": shape},
        "marker": {"color": colour, "symbol": look.marker or "circle", "size": 8 * look.size},
        "text": [escape(label) for label in series.labels],
    }
    if any(series.error):
        trace["error_y"] = {"array": _rounded(series.error), "color": colour}
        trace["error_y"] |= {} if look.caps else {"width": 0, "thickness": 1}
    if series.faint:
        return trace | {"hoverinfo": "skip"}
    spread = ["" if error is None else f" ± {error:.4g}" for error in series.error]
    named = [(row, escape(rows.get(row, series.name))) for row in series.rows]
    where = f"%{{x{'' if panel.categories else ':.4~r'}}}: %{{y:.4~r}}"
    if not named:
        return trace | {
            "name": escape(series.name),
            "hovertemplate": f"<b>%{{fullData.name}}</b><br>{where}<extra></extra>",
        }
    return trace | {
        "customdata": [[*one, error] for one, error in zip_longest(named, spread, fillvalue="")],
        "hovertemplate": f"<b>%{{customdata[1]}}</b><br>{where}%{{customdata[2]}}<extra></extra>",
    }


def _axis(scale: Scale, title: str) -> dict[str, Any]:
    ends = [math.log10(end) if scale.log else end for end in (scale.low, scale.high)]
    axis: dict[str, Any] = {"type": "log" if scale.log else "linear", "range": ends, "title": {"text": escape(title)}}
    if scale.ticks:
        axis |= {"tickvals": [tick for tick, _ in scale.ticks], "ticktext": [escape(text) for _, text in scale.ticks]}
    return axis


def _colour(series: Series) -> str:
    place = stroke(series).colour
    return "--ink" if place is None else f"--c{place}"


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.{_DIGITS}g}") for value in values]
