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
from diffusion_lab.sweeps.decide import Key, Outcome, Standing, Standings
from diffusion_lab.sweeps.stopping import FIRST_LOOK

_MOST_PANELS = 12
_MOST_TICKS = 10
_WON = (Outcome.BETTER, Outcome.WORSE)
_EQUAL = (Outcome.SAME, Outcome.CLOSE)


def key_of(decision: Standings) -> str:
    """The meaning of marks and brackets, and the error of the decisions."""
    most, several = f"{100 * decision.question.error:g}\N{NO-BREAK SPACE}%", len(decision.pairs) > 1
    over = f" over its {len(decision.pairs)} pairs" if several else ""
    return (
        "● decided, ○ undecided. After ± stands a standard error, in brackets the interval of a difference. The probability that "
        f"any decision is false, or any interval wrong, is at most {most}{over}, however often one looks."
    )


def decision_findings(table: Table, group: Group, decision: Standings) -> list[Finding]:
    """One sentence for each pair; all that were closed because one choice lost share one."""
    won = {_loser(one): one for one in reversed(decision.pairs) if one.outcome in _WON}
    compared = [one for one in decision.pairs if one.outcome is not Outcome.LOST]
    found = []
    for axis, some in grouped(compared, lambda one: one.pair.axis).items():
        costs = costs_of(table, group, axis, sure=any(one.outcome in _WON for one in some)) if axis else []
        texts = ["; ".join([_sentence(one, decision), *(costs if one is some[0] else [])]) for one in some]
        found += [
            Finding(_what(table, axis), text, one.outcome in (*_WON, *_EQUAL))
            for one, text in zip(some, texts, strict=True)
        ]
    lost = [one for one in decision.pairs if one.outcome is Outcome.LOST]

    def loser(one: Standing) -> tuple[str, str]:
        return next((one.pair.axis, name) for name in _names(one) if (one.pair.axis, name) in won)

    for (axis, name), some in grouped(lost, loser).items():
        others = listed([other for one in some for other in _names(one) if other != name])
        text = f"{name} and {others} were not compared further, because {name} lost to {_better(won[axis, name])}"
        found.append(Finding(_what(table, axis), text, False))
    return found


def trainings(table: Table, decision: Standings) -> str:
    """The number of trainings, and how many fewer they are than those of most_seeds seeds of every choice."""
    cells, most = [cell for row in table.rows for cell in row.cells], decision.question.most_seeds
    first = [cell for cell in cells if cell.seed == str(decision.question.first_seed)]
    done, whole = _models(cells), most * _models(first)
    if not decision.over:
        return f"{done} trainings until now; {most} seeds of every choice take {whole}"
    return f"{done} trainings instead of the {whole} that {most} seeds of every choice take: {whole - done} saved"


def next_after(decision: Standings, names: Mapping[str, str], seeds: Sequence[str], far: str) -> str:
    """What to do after a sweep that decides. names: of axes. far: in words, that all are far from real images."""
    if not decision.over:
        return f"run the same command again: it goes on with seed {decision.question.first_seed + decision.rounds}"
    left = _left(decision, names)
    kept = listed([one for one, alone in left if alone])
    if far:
        return f"{f'keep {kept} for now, and ' if kept else ''}train longer before you decide: {far}"
    steps = []
    if kept:
        steps.append(
            f"keep {kept}. The decision needs no repetition; publish the interval with the difference, because where a sweep stops a "
            "difference tends to look larger than it is"
        )
    if several := [one for one, alone in left if not alone]:
        steps.append(f"choose the cheaper or simpler of {', and of '.join(several)}")
    if any(one.outcome is Outcome.UNDECIDED for one in decision.pairs):
        further = f"run the sweep with sweep.decide.rule=open and new seeds, seed={first_new(seeds)}"
        further = "continue with a larger sweep.decide.most_seeds" if decision.question.rule == "open" else further
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
    last = {id(one) for one in sorted(looked, key=lambda one: -len(one.looks))[:_MOST_PANELS]}
    shown = [one for one in looked if id(one) in last]
    counts = range(FIRST_LOOK, max(one.looks[-1].n for one in shown) + 1)
    apart = ceil(len(counts) / _MOST_TICKS)
    ticks = ["" if i % apart else str(n) for i, n in enumerate(counts)]
    better = "below" if decision.measure.better == LOW else "above"
    note = (
        f"The first choice − the second: {better} 0 the first is better. With the interval after each seed, which holds at all "
        "looks together; the first ones may be wider than the panel."
    )
    note += f" The {len(shown)} of {len(looked)} pairs with the most seeds." if len(shown) < len(looked) else ""
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
    looks, pair = one.looks, one.pair
    margins = [look.margin if isfinite(look.margin) else None for look in looks]
    known, edges = margins[-1] or 0.0, [smallest, -smallest] if smallest else []
    ends = [0.0, *edges, *(look.mean for look in looks), *(looks[-1].mean + side * 1.5 * known for side in (-1, 1))]
    means = Series(
        "mean difference", [float(look.n - FIRST_LOOK) for look in looks], [look.mean for look in looks], margins
    )
    levels = [("", 0.0), *(("", edge) for edge in edges)]
    axis = f"{names[pair.axis]}: " if pair.axis else ""
    title = f"{axis}{' − '.join(_names(one))}"
    return Panel(title, [means], ticks, levels, _outcome(one, smallest), (min(ends), max(ends)))


def _sentence(one: Standing, decision: Standings) -> str:
    (a, b), label, after = _names(one), decision.measure.label, _after(one)
    after += f", averaged over {len(one.pair.cells)} settings" if len(one.pair.cells) > 1 else ""
    look = one.looks[-1] if one.looks and isfinite(one.looks[-1].margin) else None
    found = f": {a} − {b} is {with_interval(look.mean, look.margin)}" if look else ""
    match one.outcome:
        case Outcome.BETTER | Outcome.WORSE:
            by = with_interval(abs(one.looks[-1].mean), one.looks[-1].margin)
            return f"{_better(one)} is better than {_loser(one)[1]} by {by} in {label} {after}"
        case Outcome.SAME:
            return f"{a} and {b} are equal in {label} in every seed, {after}"
        case Outcome.CLOSE:
            within = f"{decision.question.smallest:g}"
            return f"{a} and {b} differ by less than {within} in {label}, for your purpose equal, {after}{found}"
        case Outcome.UNDECIDED:
            return f"undecided between {a} and {b} in {label} {after}{found}"
        case _:
            return f"not decided yet between {a} and {b} in {label} {after}{found}"


def _outcome(one: Standing, smallest: float | None) -> str:
    """The outcome in a few words."""
    words = {
        Outcome.SAME: "equal in every seed",
        Outcome.CLOSE: f"equal within {smallest}",
        Outcome.LOST: "not compared further",
        Outcome.UNDECIDED: "undecided",
        Outcome.OPEN: "not decided yet",
    }
    return f"{words.get(one.outcome) or f'{_better(one)} is better'} {_after(one)}"


def _after(one: Standing) -> str:
    n = len(one.differences)
    return f"after {n} seed{'' if n == 1 else 's'}"


def _better(one: Standing) -> str:
    return _names(one)[one.outcome is Outcome.WORSE]


def _loser(one: Standing) -> tuple[str, str]:
    """(axis, choice)."""
    return one.pair.axis, _names(one)[one.outcome is Outcome.BETTER]


def _left(decision: Standings, names: Mapping[str, str]) -> list[tuple[str, bool]]:
    """(choices that lost to none, whether it is one alone) of each axis."""
    lost = {_loser(one) for one in decision.pairs if one.outcome in _WON}
    found = []
    for axis, some in grouped(decision.pairs, lambda one: one.pair.axis).items():
        choices = dict.fromkeys(choice for one in some for choice in _names(one))
        left = [choice for choice in choices if (axis, choice) not in lost]
        if left:
            found.append((f"{names.get(axis, '')} {listed(left)}".strip(), len(left) == 1))
    return found


def _names(one: Standing) -> tuple[str, str]:
    """The choices of the pair; of two cells as rows are written."""
    a, b = one.pair.cells[0]
    return (one.pair.first, one.pair.second) if one.pair.axis else (_row(a), _row(b))


def _row(key: Key) -> str:
    return " · ".join(filter(None, key))


def _what(table: Table, axis: str) -> str:
    """The axis or, of whole cells, all of them."""
    return table.names[axis] if axis else listed(list(table.names.values()))


def _models(cells: Sequence[Cell]) -> int:
    return len({cell.model.path for cell in cells})
