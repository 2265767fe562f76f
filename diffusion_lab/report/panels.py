"""What a plot shows, as numbers; the page draws it for the eye, `figures` for paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
