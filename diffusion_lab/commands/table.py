"""A score as a person reads it: one table, every number with its unit and what to compare it with."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from diffusion_lab.store.measures import STANDARD_ERROR, Measure, ends, read_measures


def score_table(metrics: dict[str, Any]) -> Table:
    """metrics.json -> a table of name, value and what the value means."""
    protocol = metrics["protocol"]
    title = Text(_title(protocol), style="table.title")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("", style="dim")
    for measure in read_measures(metrics):
        if measure.name in metrics["values"]:
            value, note = _value(measure, metrics["values"]), measure.detail or measure.meaning
        elif measure.name in protocol["absent"]:
            value, note = "–", protocol["absent"][measure.name]
        else:
            continue
        table.add_row(*map(Text, (f"{measure.label} {measure.arrow}", value, note)))
    return table


def _value(measure: Measure, values: dict[str, float]) -> str:
    """The value, with its standard error or with the interval that the score states.

    An unbiased estimate of a non-negative quantity may be below 0: then only its interval is shown, starting at 0.
    """

    def written(number: float) -> str:
        return f"{number:.{measure.decimals}f}"

    name, error = measure.name, values.get(measure.name + STANDARD_ERROR)
    interval = [values[end] for end in ends(name) if end in values]
    text = written(values[name]) + (f" ± {written(error)}" if error is not None else "")
    if len(interval) == 2:
        text = (
            f"0 to {written(max(0, interval[1]))}"
            if values[name] < 0
            else f"{text} [{', '.join(map(written, interval))}]"
        )
    return text + (f" {measure.unit}" if measure.unit else "")


def _title(protocol: dict[str, Any]) -> str:
    given = protocol["samples"].get("given")
    drawn = f"weights {protocol['weights']}" if given is None else given["name"]
    reference = protocol["reference"]
    real = reference.get("given") or f"{reference['num_images']} {reference['split']} images"
    return f"{protocol['data']['name']}, {protocol['model']['family']}, {drawn}, against {real}"
