"""What a plot shows, as numbers; the page draws it for the eye, `figures` for paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

# Headings under which plots stand, on the page and at W&B.
SAMPLES, LIKELIHOOD = "Samples against steps", "Likelihood against steps"
EFFECTS, TIME, TRADE = "Effect of each axis", "Distance against time", "Precision against recall"
TRAINING_COST = "Quality against training time"
BOUND, TRAINING = "The bound by t", "Training"
DIAGNOSIS, ADVICE = "Where the error comes from", "Recommended steps"
# Labels of abscissas.
MINUTES_LABEL = "minutes of training"
STEPS_LABEL, SECONDS_LABEL = "network evaluations per sample", "seconds per 1000 samples"

# Config groups that get the colour and the line where they are axes: the question "per sampler and variance".
COLOUR, LINE = "variance", "sampler"
SERIES = "series"  # the key that separates the lines at W&B

FRONT = -1  # the colour of a front rather than of a choice


def series(choices: Mapping[str, str | None]) -> str:
    """The line that a cell with these choices of config groups is a point of; a family without such groups is one line."""
    chosen = [choice for group in (COLOUR, LINE) if (choice := choices.get(group)) is not None]
    return " · ".join(chosen) or str(choices["model"])


@dataclass(frozen=True)
class Series:
    """One line, or points alone.

    colour, line: places in the palettes. rows: the row number of each point. labels: what is written at each. dots: no line.
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
    """One pair of axes. categories: the names at x = 0, 1, …; levels: horizontal lines with a name."""

    title: str
    series: list[Series]
    categories: list[str] = field(default_factory=list)
    levels: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Plot:
    """Panels that share their axes. heading: under which it is one of several, `name` which of them. key: its file's name.
    note: what has to be known to read it. paper: whether it becomes a file."""

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


# Of series, on white and on black: after Okabe & Ito, which everyone can distinguish, without their yellow, and darker on white.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b85c99", "#c98a00", "#3f9fd4", "#777777", "#222222")
DARK = ("#5aa9e6", "#ff8c42", "#3cc9a0", "#e39cc8", "#f0b429", "#8fd0f5", "#a8a8a8", "#ffffff")
_DASHES = ("solid", "dash", "dot", "dashdot")
_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "x", "cross")
_MANY = 30  # points of a line that are not marked one by one


@dataclass(frozen=True)
class Stroke:
    """colour: place in LIGHT and DARK, None for that of text. dash, marker: plotly's names, None for no line and no marks.
    width, size: of line and marks, in those of an ordinary series. steps: from point to point first along x, then along y.
    caps: on error bars."""

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
    """One series for each name in the legend; none where there is one name, or where the names stand along the axis."""
    first = {series.name: series for panel in reversed(plot.panels) for series in reversed(panel.series)}
    names = dict.fromkeys(series.name for panel in plot.panels for series in panel.series if not series.faint)
    return [first[name] for name in names] if len(names) > 1 and not plot.panels[0].categories else []


@dataclass(frozen=True)
class Scale:
    """One axis. ticks: names along it; empty for numbers."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]


def scales(plot: Plot, panel: Panel) -> tuple[Scale, Scale]:
    """Of x and of y: the panels of a plot share both, but for names along x."""
    series = [one for part in plot.panels for one in part.series]
    ends = [y + side * (error or 0) for s in series for y, error in zip_longest(s.y, s.error) for side in (-1, 1)]
    levels = [level for part in plot.panels for _, level in part.levels]
    y = _scale([*ends, *levels], plot.log_y, 0.07)
    if panel.categories:
        return Scale(-0.4, len(panel.categories) - 0.6, False, list(enumerate(panel.categories))), y
    return _scale([x for one in series for x in one.x], plot.log_x, 0.06), y


def _scale(values: Sequence[float], log: bool, room: float) -> Scale:
    shown = [value for value in values if value > 0 or not log] or [1.0]
    low, high = min(shown), max(shown)
    if not log:
        space = room * (high - low or abs(high) or 1)
        return Scale(low - space, high + space, False, [])
    factor = (high / low) ** room * 1.05
    return Scale(low / factor, high * factor, True, [])
