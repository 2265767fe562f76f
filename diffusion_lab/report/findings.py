"""What the curves of a report say in words."""

from __future__ import annotations

from diffusion_lab.report import sampling_curves, training_curves
from diffusion_lab.report.table import Group, Table

_CURVES = (("training time", training_curves.overtakings), ("sampling cost", sampling_curves.changes))


def curve_findings(table: Table, group: Group) -> list[tuple[str, str]]:
    """(what, sentence): who overtakes whom, for the measures that the report speaks of."""
    return [
        (f"{measure.label} against {cost}", said)
        for cost, sentences in _CURVES
        for measure in group.measures
        if measure.headline and measure.better is not None
        for said in sentences(table, group, measure)
    ]
