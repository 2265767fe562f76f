"""A report's conclusions: what it finds, what is undecided and what would decide it, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from diffusion_lab.report.comparison import MOST_SEEDS, POWER, listed
from diffusion_lab.report.decisions import decision_findings, first_new, legend_of, next_after, trainings
from diffusion_lab.report.findings import Comparison, Finding, axis_findings, comparisons, curve_findings
from diffusion_lab.report.table import Group, Table
from diffusion_lab.store.option_names import grouped

KEY = (
    "● decided, ○ undecided. After ± stands a standard error, in brackets the 95 % interval of a difference. If nothing differed, "
    "at most 5 % of sweeps would report any difference, however many comparisons they make."
)
_FAR = 10  # times the distance of real images
_TWO_SEEDS = "Two seeds show only very large differences; a third lowers the smallest several times"
UNDECIDED = (
    "undecided",
    "difference found (% of the better)",
    "smallest that these seeds can show",
    f"new seeds to show the one found ({100 * POWER:.0f}\N{NO-BREAK SPACE}% power)",
)


@dataclass(frozen=True)
class Conclusions:
    """undecided: one line per comparison, of the columns UNDECIDED. note: on these lines, or empty. next: what to do, or empty.
    key: the meaning of marks and intervals."""

    findings: list[Finding]
    undecided: list[tuple[str, ...]]
    note: str
    next: str
    key: str = KEY


def conclusions(table: Table, group: Group) -> Conclusions:
    """What is known about a group of rows, what is not, and what to do next; of curves only what is certain. What the rule of a
    sweep that decides has found stands with the first group."""
    if (decision := table.decision) is not None:
        if group is not table.groups[0]:
            return Conclusions([], [], "", "")
        said = decision_findings(table, group, decision)
        next_one = next_after(decision, table.names, table.seeds, _far_from_real(group))
        return Conclusions(said, [], trainings(table, decision), next_one, legend_of(decision))
    compared = comparisons(table, group)
    known = [*axis_findings(table, group, compared), *curve_findings(table, group)]
    doubts = [line for one in compared if (line := one.doubt) is not None]
    note = _TWO_SEEDS if any(one.seeds == 2 and one.doubt is not None for one in compared) else ""
    return Conclusions(known, doubts, note, next_steps(compared, table.seeds, _far_from_real(group)))


def _far_from_real(group: Group) -> str:
    """In words, that even the best row is far from real images by the first distance; else empty."""
    distance = group.distance
    floor = group.fact(distance.floor_of) if distance else None
    if distance is None or floor is None:
        return ""
    best = min((row.values[distance.name].mean for row in group.rows if distance.name in row.values), default=0.0)
    if not 0 < _FAR * floor < best:
        return ""
    who = "all rows are" if len(group.rows) > 1 else "samples are"
    return f"{who} far from real images ({distance.label} {best:.3g} against {floor:.2g})"


def next_steps(compared: Sequence[Comparison], seeds: Sequence[str], far: str = "") -> str:
    """What to do after this comparison, or empty. seeds: that were used. far: in words, that all are far from real images."""
    steps, chosen, contested = list[str](), list[str](), list[str]()
    pairs = sum(comb(len(some[0].names), 2) for some in grouped(compared, lambda one: one.what).values())
    for what, some in grouped((one for one in compared if one.sure), lambda one: one.what).items():
        best = some[0].names[some[0].ranking.best[0]]
        agreed = all(best in one.leaders for one in compared if one.what == what and one.ranking.rival(one.sure))
        if agreed:
            chosen.append(f"{what} {best}")
        else:
            contested.append(what)
    if far:
        first = f"keep {listed(chosen)} for now, and " if chosen else ""
        return f"{first}train longer, with three seeds or more, before you compare: {far}"
    if chosen:
        new = f" ({_new_seeds(len(seeds), seeds)})" if seeds else ""
        steps.append(f"keep {listed(chosen)}. Before you publish it, repeat the sweep once with new seeds{new}")
    if contested:
        steps.append(f"measures disagree on {listed(contested)}: choose by the one that counts for you")
    undecided = [one for one in compared if not one.sure and one.ranking.rival(False)]
    if any(one.needs_seeds for one in compared):
        steps.append("run the same sweep with seed=1,2,3")
    elif enough := [(n, one) for one in undecided if (n := one.seeds_to_show)]:
        _, one = min(enough, key=lambda pair: pair[0])
        steps.append(
            f"{one.what} in {one.measure.label} is cheapest to settle. Run the same sweep with seed={first_new(seeds)} in place of "
            f"its seeds, and sweep.decide.measure={one.measure.name} sweep.decide.most_seeds={one.most_seeds(pairs)}: it stops as "
            "soon as the differences are decided. "
            "Or choose the cheaper or simpler option"
        )
    elif undecided:
        steps.append(f"choose the cheaper or simpler option. {MOST_SEEDS} new seeds would not settle what is undecided")
    return ". Also: ".join(steps)


def _new_seeds(n: int, seeds: Sequence[str]) -> str:
    first = first_new(seeds)
    return f"seed={','.join(map(str, range(first, first + n)))}" if n < 5 else f"'seed=range({first},{first + n})'"
