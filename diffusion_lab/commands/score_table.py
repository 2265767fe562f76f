"""The table of a score in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from diffusion_lab.store.measures import STANDARD_ERROR, TRAINING_SECONDS, Measure, ends, read_measures


def score_table(metrics: Mapping[str, Any], everything: bool) -> Table:
    """The table of metrics.json: name, value and meaning.

    everything: all measures, with reasons for missing ones; otherwise the main ones: distances with those of real images,
    precision, recall, bits/dim, seconds of sampling and of training. A missing distance always has its reason.
    """
    protocol, values = metrics["protocol"], metrics["values"]
    title = Text(_title(protocol, values), style="table.title")
    floor = protocol.get("floor", {}).get("num_images")
    few = "" if floor in (None, protocol["samples"]["num_images"]) else f" ({floor} of them)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("", style="dim")
    for measure in sorted(read_measures(metrics), key=lambda measure: measure.name == TRAINING_SECONDS):
        value, note = "–", protocol["absent"].get(measure.name)
        if measure.name in values:
            value, note = _value(measure, values), measure.detail or measure.meaning
        if note is None or not (everything or (_is_main(measure) and (measure.name in values or measure.floor_of))):
            continue
        if not everything and measure.floor_of in values:
            note = f"real images: {values[measure.floor_of]:.{measure.decimals}f}{few}; {note}"
        table.add_row(*map(Text, (f"{measure.label} {measure.arrow}", value, note)))
    return table


def _is_main(measure: Measure) -> bool:
    """Whether the short table shows it: measurements only, so not NFE, which follows from the choices.

    For features after the first, only distances are shown.
    """
    if measure.headline or measure.name == TRAINING_SECONDS:
        return True
    later = any(part.startswith("features_") for part in measure.agrees)
    return measure.brief and measure.column and bool(measure.agrees) and not later


def _value(measure: Measure, values: dict[str, float]) -> str:
    """The value with its standard error, or with the interval stated in the score.

    An unbiased estimate of a non-negative quantity can be negative: then only its interval is shown, cut at 0.
    """

    def written(number: float) -> str:
        return f"{number:.{measure.decimals}f}"

    name, error = measure.name, values.get(measure.name + STANDARD_ERROR)
    interval = [values[end] for end in ends(name) if end in values]
    text = written(values[name]) + (f" ± {written(error)}" if error is not None else "")
    if len(interval) == 2 and values[name] < 0:
        text = f"0 to {written(max(0, interval[1]))}"
    elif len(interval) == 2:
        text += f" [{', '.join(map(written, interval))}]"
    return text + (f" {measure.unit}" if measure.unit else "")


def _title(protocol: dict[str, Any], values: Mapping[str, float]) -> str:
    given = protocol["samples"].get("given")
    parts = [protocol["data"]["name"], protocol["model"]["family"]]
    if given is not None:
        parts.append(given["name"])
    else:
        sampler = protocol["model"].get("sampler", "").partition("Sampler(")[0]
        parts += [f"{sampler} of {values['nfe']:.0f} evaluations"] if sampler and "nfe" in values else []
        parts.append(f"weights {protocol['weights']}")
    reference = protocol["reference"]
    real = reference.get("given") or f"{reference['num_images']} {reference['split']} images"
    return f"{', '.join(parts)}, against {real}"
