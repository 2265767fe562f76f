"""Quality against what sampling costs: each measure by network evaluations per sample, and where two choices change places."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations

from diffusion_lab.report.comparison import LEVEL
from diffusion_lab.report.crossings import Cost, in_words, is_certain, races, ranked_measures
from diffusion_lab.report.lines import by_choice, by_look, floor_level, in_panels, plot_of, sets_steps
from diffusion_lab.report.panels import LIKELIHOOD, SAMPLES, STEPS_LABEL, Panel, Plot
from diffusion_lab.report.table import Choice, Group, Row, Table
from diffusion_lab.store.measures import Measure

COST = "sampling cost"
_EVALUATIONS = Cost("nfe", "network evaluations")
_MOST_PAIRS = 12


def plots(table: Table, group: Group) -> list[Plot]:
    """A plot for every measure of rows that differ in their evaluations."""
    found = []
    for measure in ranked_measures(group):
        rows = [row for row in group.rows if measure.name in row.values and _EVALUATIONS.name in row.values]
        if len({row.values[_EVALUATIONS.name].mean for row in rows}) < 2:
            continue
        panels = [
            Panel(title, by_look(table, group, part, measure, _EVALUATIONS.name), levels=floor_level(group, measure))
            for title, part in in_panels(table, group, rows)
        ]
        bound = "bound" in measure.agrees
        scored = [cell for row in rows for cell in row.cells_with(measure.name).values()]
        kinds = dict.fromkeys(cell.protocol.get("bound", {}).get("kind") for cell in scored)
        note = [f"Each point is the {' or the '.join(filter(None, kinds))}."] if bound else []
        crossings = sentences(table, group, measure)
        note += [f"Where the order changes: {'; '.join(said for said, _ in crossings)}."] if crossings else []
        heading = LIKELIHOOD if bound else SAMPLES
        found.append(plot_of("steps", heading, measure, STEPS_LABEL, panels, " ".join(note)))
    return found


def sentences(table: Table, group: Group, measure: Measure) -> list[tuple[str, bool]]:
    """(sentence, whether it is certain) for each two lines that differ in one axis and change their order with the evaluations."""
    compared = [
        (names, found)
        for names, some, others in _pairs(table, group, measure)
        if (found := races(some, others, measure, _EVALUATIONS))
    ]
    level = LEVEL / max(1, len(compared) * len(ranked_measures(group)))
    crossing = [(names, found) for names, found in compared if any(one.crossings for one in found.values())]
    sure = [is_certain(found, level) for _, found in crossing[:_MOST_PAIRS]]
    return [(in_words(*one, _EVALUATIONS, sure), sure) for one, sure in zip(crossing, sure, strict=False)]


def _pairs(table: Table, group: Group, measure: Measure) -> Iterator[tuple[tuple[str, str], list[Row], list[Row]]]:
    """(their names, rows of one, rows of the other). A line holds the rows that differ in nothing but their steps."""
    axes = [axis for axis in table.axes if not sets_steps(table, group, axis)]
    scored = [row for row in group.rows if measure.name in row.values and _EVALUATIONS.name in row.values]
    lines = {line: rows for line, rows in by_choice(table, scored, axes).items() if len(rows) > 1}
    varied = [place for place, values in enumerate(zip(*lines, strict=True)) if len(set(values)) > 1]
    for place in varied:
        alike: dict[Choice, list[Choice]] = {}  # by all choices but this one
        for line in lines:
            alike.setdefault((*line[:place], *line[place + 1 :]), []).append(line)
        for first, second in chain.from_iterable(combinations(some, 2) for some in alike.values()):
            shared = " · ".join(first[other] or "none" for other in varied if other != place)
            with_shared = f" with {shared}" if shared else ""
            names = (f"{first[place] or 'none'}{with_shared}", f"{second[place] or 'none'}{with_shared}")
            yield names, lines[first], lines[second]
