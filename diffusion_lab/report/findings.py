"""What a report says in words."""

from __future__ import annotations

from diffusion_lab.report import sampling_curves, training_curves
from diffusion_lab.report.layout import Finding, columns, finding
from diffusion_lab.report.table import Group, Table

_CURVES = (("training time", training_curves.comparisons), ("sampling cost", sampling_curves.changes))


def findings(table: Table, group: Group) -> list[Finding]:
    """The best rows of each main measure, then the order of its curves."""
    named = {column.measure.name: column for column in columns(group)}
    return [
        *(finding(one, named[one.measure.name]) for one in group.standings if one.measure.headline),
        *curve_findings(table, group),
    ]


def curve_findings(table: Table, group: Group) -> list[Finding]:
    return [
        Finding(f"{measure.label} against {cost}", said, sure)
        for cost, sentences in _CURVES
        for measure in group.measures
        if measure.headline and measure.better is not None
        for said, sure in sentences(table, group, measure)
    ]
