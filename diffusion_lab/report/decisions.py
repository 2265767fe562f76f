"""What a sweep with sweep.decide found: a sentence and a panel for each pair, by the rule that stopped it, and what to do next.

Its number of seeds depends on the differences in one measure, so tests at a fixed level, which the other sweeps have, do not
hold for it. The intervals here hold at every look and over all pairs (`sweeps.stopping`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isfinite

from diffusion_lab.report.comparison import listed
from diffusion_lab.report.findings import Finding, costs_of, with_interval
from diffusion_lab.report.panels import DECISIONS, Panel, Plot, Series
from diffusion_lab.report.table import Cell, Group, Table
from diffusion_lab.store.measures import LOW
from diffusion_lab.store.option_names import grouped
from diffusion_lab.sweeps.decide import OPEN, Outcome, Standing, Standings
from diffusion_lab.sweeps.stopping import FIRST_LOOK

_MOST_PANELS = 12
_MOST_TICKS = 10
_WON = (Outcome.BETTER, Outcome.WORSE)


def legend_of(decision: Standings) -> str:
    """The meaning of marks and brackets, and the error of the decisions."""
    most, pairs = f"{100 * decision.question.error:g}\N{NO-BREAK SPACE}%", len(decision.pairs)
    over = f" over its {pairs} pairs" if pairs > 1 else ""
    return (
        "● decided, ○ undecided. After ± stands a standard error, in brackets the interval of a difference. The probability that "
        f"any decision is false, or any interval wrong, is at most {most}{over}, however often one looks."
    )


def decision_findings(table: Table, group: Group, decision: Standings) -> list[Finding]:
    """One sentence for each pair; those that were closed because one of their choices lost share one."""
    found = []
    for axis, some in grouped(decision.pairs, lambda one: one.pair.axis).items():
        what = table.names[axis] if axis else listed(list(table.names.values()))
        beaten_by = {_worse(one): _better(one) for one in reversed(some) if one.outcome in _WON}
        costs = costs_of(table, group, axis, sure=bool(beaten_by)) if axis else []
        for one in sorted((one for one in some if not _lost(one)), key=lambda one: not _decided(one)):
            found.append(Finding(what, "; ".join([_sentence(one, decision), *costs]), _decided(one)))
            costs = []
        closed = [(one, next(name for name in _names(one) if name in beaten_by)) for one in some if _lost(one)]
        for name, pairs in grouped(closed, lambda pair: pair[1]).items():
            others = listed([other for one, _ in pairs for other in _names(one) if other != name])
            text = f"{name} was not compared further with {others}, because it lost to {beaten_by[name]}"
            found.append(Finding(what, text, False))
    return found


def trainings(table: Table, decision: Standings) -> str:
    """The number of trainings, and how many fewer they are than those of most_seeds seeds of every choice."""
    cells, most = [cell for row in table.rows for cell in row.cells], decision.question.most_seeds
    first = [cell for cell in cells if cell.seed == str(decision.question.first_seed)]
    done, whole = _models(cells), most * _models(first)
    if not decision.over:
        return f"{done} trainings until now; {most} seeds of every choice take {whole}"
    saved = f": {whole - done} saved" if whole > done else ": none saved"
    return f"{done} trainings, where {most} seeds of every choice take {whole}{saved}"


def next_after(decision: Standings, names: Mapping[str, str], seeds: Sequence[str], far: str) -> str:
    """What to do after a sweep that decides. names: of axes. far: in words, that all are far from real images."""
    if not decision.over:
        return f"run the same command again: it goes on with seed {decision.question.first_seed + decision.rounds}"
    left = _left(decision, names)
    kept = [one for one, alone in left if alone]
    if far:
        return f"{f'keep {listed(kept)} for now, and ' if kept else ''}train longer before you decide: {far}"
    steps = []
    if kept:
        steps.append(
            f"keep {listed(kept)}. The decision needs no repetition; publish the interval with the difference, which tends to look "
            "larger than it is where a sweep stops"
        )
    if several := [one for one, alone in left if not alone]:
        steps.append(
            f"choose the cheaper or simpler of {', and of '.join(several)}, if a difference as large as the interval allows does "
            "not matter to you"
        )
    if any(one.outcome is Outcome.UNDECIDED for one in decision.pairs):
        further = f"run the sweep with sweep.decide.rule=open and new seeds, seed={first_new(seeds)}"
        further = "continue with a larger sweep.decide.most_seeds" if decision.question.rule == OPEN else further
        steps.append(f"to settle what is undecided, {further}")
    return ". Also: ".join(steps)


def first_new(seeds: Sequence[str]) -> int:
    """The first seed after all of these."""
    return max((int(seed) for seed in seeds if seed.isdigit()), default=0) + 1


def decision_plots(table: Table) -> list[Plot]:
    """The mean difference of each pair and its interval by the number of seeds; empty for sweeps that decide nothing."""
    decision = table.decision
    looked = [one for one in decision.pairs if one.looks] if decision else []
    if decision is None or not looked:
        return []
    last = {id(one) for one in sorted(looked, key=lambda one: (_lost(one), -len(one.looks)))[:_MOST_PANELS]}
    shown = [one for one in looked if id(one) in last]
    counts = range(FIRST_LOOK, max(one.looks[-1].n for one in shown) + 1)
    apart = ceil(len(counts) / _MOST_TICKS)
    ticks = ["" if i % apart else str(n) for i, n in enumerate(counts)]
    better = "below" if decision.measure.better == LOW else "above"
    note = (
        f"The first choice − the second: {better} 0 the first is better. With the interval after each seed, which holds at all "
        "looks together; the first ones may be wider than the panel."
    )
    note += f" {len(shown)} of {len(looked)} pairs, those with the most seeds." if len(shown) < len(looked) else ""
    return [
        Plot(
            key=f"decided_{decision.measure.name}",
            heading=DECISIONS,
            name=decision.measure.label,
            x_label="seeds",
            y_label=f"difference in {decision.measure.axis}",
            panels=[_panel(one, table.names, decision.question.smallest, ticks) for one in shown],
            note=note,
        )
    ]


def _panel(one: Standing, names: Mapping[str, str], smallest: float | None, ticks: list[str]) -> Panel:
    x, means = [float(look.n - FIRST_LOOK) for look in one.looks], [look.mean for look in one.looks]
    margins = [look.margin if isfinite(look.margin) else None for look in one.looks]
    edges = [smallest, -smallest] if smallest else []
    beyond = 1.5 * (margins[-1] or 0.0)  # wide enough for some of the intervals before the last
    ends = [0.0, *edges, *means, means[-1] - beyond, means[-1] + beyond]
    levels = [("", 0.0), *((f"±{edge:g}" if edge > 0 else "", edge) for edge in edges)]
    axis = f"{names[one.pair.axis]}: " if one.pair.axis else ""
    return Panel(
        title=f"{axis}{' − '.join(_names(one))}",
        series=[Series("mean difference", x, means, margins)],
        categories=ticks,
        levels=levels,
        verdict=f"{f'{_better(one)} is better' if one.outcome in _WON else _outcome(one, smallest)} {_after(one)}",
        ends=(min(ends), max(ends)),
    )


def _sentence(one: Standing, decision: Standings) -> str:
    (a, b), label, after = _names(one), decision.measure.label, _after(one)
    after += f", averaged over {len(one.pair.cells)} settings" if len(one.pair.cells) > 1 else ""
    look = one.looks[-1] if one.looks and isfinite(one.looks[-1].margin) else None
    if look and one.outcome in _WON:
        by = with_interval(abs(look.mean), look.margin)
        return f"{_better(one)} is better than {_worse(one)} by {by} in {label} {after}"
    found = (
        f": {a} − {b} is {with_interval(look.mean, look.margin)}" if look and one.outcome is not Outcome.SAME else ""
    )
    return f"{a} and {b} are {_outcome(one, decision.question.smallest)} in {label} {after}{found}"


def _outcome(one: Standing, smallest: float | None) -> str:
    """The outcome in a few words, unless one is better."""
    return {
        Outcome.SAME: "equal in every seed",
        Outcome.CLOSE: f"equal within ±{smallest}",
        Outcome.LOST: "not compared further",
        Outcome.UNDECIDED: "undecided",
    }.get(one.outcome, "not decided yet")


def _after(one: Standing) -> str:
    n = len(one.differences)
    return f"after {n} seed{'' if n == 1 else 's'}"


def _decided(one: Standing) -> bool:
    return one.outcome in (*_WON, Outcome.SAME, Outcome.CLOSE)


def _lost(one: Standing) -> bool:
    return one.outcome is Outcome.LOST


def _better(one: Standing) -> str:
    return _names(one)[one.outcome is Outcome.WORSE]


def _worse(one: Standing) -> str:
    return _names(one)[one.outcome is Outcome.BETTER]


def _left(decision: Standings, names: Mapping[str, str]) -> list[tuple[str, bool]]:
    """(choices that lost to none, whether it is one alone) of each axis."""
    found = []
    for axis, some in grouped(decision.pairs, lambda one: one.pair.axis).items():
        choices = dict.fromkeys(choice for one in some for choice in _names(one))
        beaten = {_worse(one) for one in some if one.outcome in _WON}
        left = [choice for choice in choices if choice not in beaten]
        if left:
            found.append((f"{names.get(axis, '')} {listed(left)}".strip(), len(left) == 1))
    return found


def _names(one: Standing) -> tuple[str, str]:
    return one.pair.first, one.pair.second


def _models(cells: Sequence[Cell]) -> int:
    return len({cell.model.path for cell in cells})
