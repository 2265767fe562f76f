"""The content of plots as numbers; the page and `figures` draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest

# Headings of plots, on the page and at W&B.
SAMPLES, LIKELIHOOD = "Samples against steps", "Likelihood against steps"
EFFECTS, TIME, TRADE = "Effect of each axis", "Distance against time", "Precision against recall"
TRAINING_COST = "Quality against training time"
DECISIONS = "Differences by number of seeds"
BOUND, TRAINING = "The bound by t", "Training"
DIAGNOSIS, ADVICE = "Where the error comes from", "Recommended steps"
# Labels of abscissas.
MINUTES_LABEL = "minutes of training"
STEPS_LABEL, SECONDS_LABEL = "network evaluations per sample", "seconds per 1000 samples"

# Config groups that set colour and line style if they are axes: "per sampler and variance".
COLOUR, LINE = "variance", "sampler"
SERIES = "series"  # the key that groups lines at W&B

FRONT = -1  # the colour of a Pareto front


def series(choices: Mapping[str, str | None]) -> str:
    """The line of a cell with these choices of config groups; a family without such groups is one line."""
    chosen = [choice for group in (COLOUR, LINE) if (choice := choices.get(group)) is not None]
    return " · ".join(chosen) or str(choices["model"])


@dataclass(frozen=True)
class Series:
    """One line, or points without a line.

    colour, line: indices into the palettes. rows: the row number of each point. labels: text at each point. dots: no line.
    """

    name: str
    x: list[float]
    y: list[float]
    error: list[float | None] = field(default_factory=list)
    colour: int = 0
    line: int = 0
    rows: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. categories: the names at x = 0, 1, …; levels: named horizontal lines; verdict: a line below the title.
    ends: of its own ordinate; None if panels share it."""

    title: str
    series: list[Series]
    categories: list[str] = field(default_factory=list)
    levels: list[tuple[str, float]] = field(default_factory=list)
    verdict: str = ""
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Plot:
    """Panels that share their axes. heading, name: the plot's place on the page. key: its file's name.
    note: what a reader must know. paper: whether it is written as a file."""

    key: str
    heading: str
    name: str
    x_label: str
    y_label: str
    panels: list[Panel]
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    paper: bool = True


# Colours of series on white and on black: after Okabe & Ito (distinguishable by everyone), without yellow, and darker on white.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b85c99", "#c98a00", "#3f9fd4", "#777777", "#222222")
DARK = ("#5aa9e6", "#ff8c42", "#3cc9a0", "#e39cc8", "#f0b429", "#8fd0f5", "#a8a8a8", "#ffffff")
_DASHES = ("solid", "dash", "dot", "dashdot")
_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "x", "cross")
_MOST_TICKS = 6  # at chosen numbers
_MANY = 30  # lines with more points have no markers


@dataclass(frozen=True)
class Stroke:
    """colour: index into LIGHT and DARK, None for the colour of text. dash, marker: plotly's names, None for no line or marker.
    width, size: of line and marker, relative to an ordinary series. steps: draw first along x, then along y. caps: on error
    bars."""

    colour: int | None
    dash: str | None
    marker: str | None
    width: float = 1.0
    size: float = 1.0
    opacity: float = 1.0
    steps: bool = False
    caps: bool = True


def stroke(series: Series) -> Stroke:
    if series.colour == FRONT:
        return Stroke(None, "solid", "circle-open", size=2.0, steps=True)
    many = len(series.x) > _MANY and not series.dots
    return Stroke(
        colour=series.colour % len(LIGHT),
        dash=None if series.dots else _DASHES[series.line % len(_DASHES)],
        marker=None if many else _MARKERS[series.line % len(_MARKERS)],
        width=0.7 if many else 1.0,
        size=0.8 if series.faint else 1.0,
        opacity=0.3 if series.faint else 1.0,
        caps=not many,
    )


def legend(plot: Plot) -> list[Series]:
    """One series per name; empty for a single name, or if the names stand along the axis."""
    first = {series.name: series for panel in reversed(plot.panels) for series in reversed(panel.series)}
    names = dict.fromkeys(series.name for panel in plot.panels for series in panel.series if not series.faint)
    return [first[name] for name in names] if len(names) > 1 and not plot.panels[0].categories else []


@dataclass(frozen=True)
class Scale:
    """One axis. ticks: the names along it; empty for numbers."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]


def scales(plot: Plot, panel: Panel) -> tuple[Scale, Scale]:
    """The axes x and y. Panels of a plot share both, except for names along x and ends of their own."""
    series = [one for part in plot.panels for one in part.series]
    ends = [y + side * (error or 0) for s in series for y, error in zip_longest(s.y, s.error) for side in (-1, 1)]
    levels = [level for part in plot.panels for _, level in part.levels]
    y = _scale(panel.ends or [*ends, *levels], plot.log_y, 0.07)
    if panel.categories:
        return Scale(-0.4, len(panel.categories) - 0.6, False, list(enumerate(panel.categories))), y
    room = 0.2 if any(one.labels for one in series) else 0.06  # for the text of the last point
    x = _scale([x for one in series for x in one.x], plot.log_x, room)
    return replace(x, ticks=_chosen(sorted({x for one in series for x in one.x})) if plot.log_x else []), y


def _chosen(values: Sequence[float]) -> list[tuple[float, str]]:
    """Ticks at a few whole numbers, such as numbers of steps, that are far enough apart on a logarithmic axis; else none."""
    whole = 1 < len(values) <= _MOST_TICKS and values[0] > 0 and all(float(value).is_integer() for value in values)
    apart = whole and all(b > 1.3 * a for a, b in pairwise(values))
    return [(value, f"{value:.0f}") for value in values] if apart else []


def _scale(values: Sequence[float], log: bool, room: float) -> Scale:
    shown = [value for value in values if value > 0 or not log] or [1.0]
    low, high = min(shown), max(shown)
    if not log:
        space = room * (high - low or abs(high) or 1)
        return Scale(low - space, high + space, False, [])
    factor = (high / low) ** room * 1.05
    return Scale(low / factor, high * factor, True, [])
