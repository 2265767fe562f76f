"""Plots as the page shows them: what plotly is to draw, whole but for colours, which are names of CSS variables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import Any

from markupsafe import Markup

from diffusion_lab.report.panels import Panel, Plot, Series
from diffusion_lab.report.style import Scale, scales, stroke

_DIGITS = 6  # significant ones of a number that is only drawn
# Dashes and marks (around 13, 5) of the legend.
_DASHES = {"solid": "", "dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3"}
_PATHS = {
    "circle": "M9.4 5a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z",
    "square": "M9.5 1.5h7v7h-7z",
    "triangle-up": "M13 .8 17 8.4H9z",
    "diamond": "M13 .6 17.4 5 13 9.4 8.6 5z",
    "triangle-down": "M13 9.2 9 1.6h8z",
    "x": "M10.2 1 13 3.8 15.8 1 17 2.2 14.2 5 17 7.8 15.8 9 13 6.2 10.2 9 9 7.8 11.8 5 9 2.2z",
    "cross": "M11.8 1h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
}


def figure(plot: Plot, panel: Panel, rows: Mapping[int, str]) -> str:
    """JSON of plotly's data and layout. rows: the label of each row number. plotly reads texts as HTML, so they are escaped."""
    x, y = scales(plot, panel)
    layout = {
        "title": {"text": escape(panel.title)},
        "margin": {"t": 26 if panel.title else 8},
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
    """Line and mark of a series, for the legend."""
    look, colour = stroke(series), f"var({_colour(series)})"
    dash = f'<path d="M0 5h26" stroke-width="2" stroke-dasharray="{_DASHES[look.dash]}"/>' if look.dash else ""
    mark = f'<path d="{_PATHS[look.marker]}"/>' if look.marker in _PATHS else ""
    return Markup(
        f'<svg width="26" height="10" aria-hidden="true" stroke="{colour}" fill="{colour}">{dash}{mark}</svg>'
    )


def _trace(series: Series, rows: Mapping[int, str], panel: Panel) -> dict[str, Any]:
    look, colour = stroke(series), _colour(series)
    parts = {"lines": look.dash, "markers": look.marker, "text": series.labels}
    shape = "hv" if look.steps else "linear"
    trace: dict[str, Any] = {
        "legendgroup": series.name,  # by which the legend hides it
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
