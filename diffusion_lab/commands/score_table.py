"""The table of a score in a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from diffusion_lab.store.measures import STANDARD_ERROR, TRAINING_SECONDS, Measure, ends, read_measures


def score_table(metrics: Mapping[str, Any], everything: bool) -> Table:
    """The table of metrics.json: name, value and meaning; below it the measures without a value, one line for each reason.

    everything: all measures; otherwise the main ones: distances with those of real images, precision, recall, bits/dim, seconds
    of sampling and of training, each in one line. A missing distance always has its reason.
    """
    protocol, values = metrics["protocol"], metrics["values"]
    title = Text(_title(protocol, values), style="table.title")
    floor = protocol.get("floor", {}).get("num_images")
    few = "" if floor in (None, protocol["samples"]["num_images"]) else f" ({floor} of them)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("measure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("", style="dim", no_wrap=not everything, overflow="ellipsis", ratio=1)
    missing = dict[str, list[str]]()
    for measure in sorted(read_measures(metrics), key=lambda measure: measure.name == TRAINING_SECONDS):
        if not (everything or _is_main(measure)):
            continue
        if measure.name in values:
            note = measure.detail or measure.meaning
            if not everything and measure.floor_of in values:
                note = f"real images: {values[measure.floor_of]:.{measure.decimals}f}{few}; {note}"
            table.add_row(*map(Text, (f"{measure.label} {measure.arrow}", _value(measure, values), note)))
        elif (reason := protocol["absent"].get(measure.name)) and (everything or measure.floor_of):
            missing.setdefault(reason, []).append(measure.label.strip())
    said = [f"not measured: {', '.join(labels)}: {reason}" for reason, labels in missing.items()]
    table.caption, table.caption_justify = Text("\n".join(said), style="dim") if said else None, "left"
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


def _evaluations(model: Mapping[str, str], nfe: float) -> str:
    """The network evaluations of a sample, with the steps that they serve where these are fewer."""
    steps = re.search(r"num_steps=(\d+)", model["sampler"])
    if steps is None or nfe <= int(steps[1]):
        return f"{nfe:.0f} evaluation{'' if nfe == 1 else 's'}"
    guided = "" if model.get("guidance", "Unguided()") == "Unguided()" else " with guidance"
    return f"{nfe:.0f} evaluations ({steps[1]} steps{guided})"


def _title(protocol: dict[str, Any], values: Mapping[str, float]) -> str:
    given = protocol["samples"].get("given")
    parts = [protocol["data"]["name"], protocol["model"]["family"]]
    if given is not None:
        parts.append(given["name"])
    else:
        sampler = protocol["model"].get("sampler", "").partition("Sampler(")[0]
        parts += (
            [f"{sampler} of {_evaluations(protocol['model'], values['nfe'])}"] if sampler and "nfe" in values else []
        )
        parts.append(f"weights {protocol['weights']}")
    reference = protocol["reference"]
    real = reference.get("given") or f"{reference['num_images']} {reference['split']} images"
    return f"{', '.join(parts)}, against {real}"
