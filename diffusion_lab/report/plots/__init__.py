"""The plots of a group of rows: one file a kind, found by the names in KINDS.

Such a file has `plots(table, group)`. If its curves say something in words too, it names their COST and has
`sentences(table, group, measure)`: (a sentence, whether it is certain).
"""

from importlib import import_module

from diffusion_lab.report.panels import Plot
from diffusion_lab.report.table import Group, Table
from diffusion_lab.report.wording import Finding, columns, finding

# In the order of the page.
KINDS = ("training_cost", "sampling_cost", "effects", "against_seconds", "bounds_by_steps", "trade_off")
_MODULES = [import_module(f"{__name__}.{kind}") for kind in KINDS]


def plots_of(table: Table, group: Group) -> list[Plot]:
    """Every plot of a group that has something to show."""
    return [plot for module in _MODULES for plot in module.plots(table, group)]


def findings(table: Table, group: Group) -> list[Finding]:
    """The best rows of each main measure, then the order of its curves."""
    named = {column.measure.name: column for column in columns(group)}
    best = [finding(one, named[one.measure.name]) for one in group.standings if one.measure.headline]
    return [*best, *curve_findings(table, group)]


def curve_findings(table: Table, group: Group) -> list[Finding]:
    """What curves say in words."""
    return [
        Finding(f"{measure.label} against {module.COST}", said, sure)
        for module in _MODULES
        if hasattr(module, "COST")
        for measure in group.measures
        if measure.headline and measure.better is not None
        for said, sure in module.sentences(table, group, measure)
    ]
