"""Comparisons that are decided while seeds are added: pairs of choices, their standing after each round, and the cells needed next.

A round is one seed, which trains and scores the cells that an open pair reads. A pair is two choices of an axis, averaged over
the cells that have both, or two cells. After the third round and each further one, the paired differences of every open pair
are tested by a rule of `stopping`, whose error is divided by the number of pairs (Bonferroni): the probability of any false
decision in the sweep is at most `error`. A pair is closed when it is decided, or when one of its choices has lost to another.
Standings are computed from scores alone, so a sweep that was killed continues with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from math import floor, inf, isfinite, log10
from typing import Any

from pydantic import TypeAdapter, ValidationError

from diffusion_lab.store import RunDirectory, RunError, SweepDirectory, run_directory
from diffusion_lab.store.measures import LOW, Measure, read_measures
from diffusion_lab.store.option_names import grouped, short_names
from diffusion_lab.store.records import first_error
from diffusion_lab.sweeps.stopping import FIRST_LOOK, Bounded, Open, Rule

SEED = "seed"  # the axis of rounds
BOUNDED, OPEN = "bounded", "open"
AXES, CELLS = "axes", "cells"

_ROUNDING = 1e-12  # relative

Key = tuple[str | None, ...]  # a cell: its choices but the seed, in the order of the axes
Scores = Mapping[Key, float]  # of one round


class Outcome(Enum):
    """open: more seeds are needed. better, worse: decided, of the first choice. same: all differences are zero. close: the interval
    is within ± smallest. lost: closed, because one of its choices lost to another. undecided: after the last round."""

    OPEN = "open"
    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    CLOSE = "close"
    LOST = "lost"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Question:
    """What is to be decided, as in sweep.json: the options sweep.decide of conf/train.yaml. first_seed: of the first round.

    ValueError for values out of range."""

    measure: str
    most_seeds: int
    error: float
    rule: str
    pairs: str
    smallest: float | None
    first_seed: int

    def __post_init__(self) -> None:
        def require(is_valid: bool, name: str, words: str) -> None:
            if not is_valid:
                raise ValueError(f"sweep.decide.{name}={getattr(self, name)} must be {words}")

        require(self.most_seeds >= FIRST_LOOK, "most_seeds", f"at least {FIRST_LOOK}")
        require(0 < self.error < 1, "error", "between 0 and 1, such as 0.05")
        require(self.rule in (BOUNDED, OPEN), "rule", f"{BOUNDED} or {OPEN}")
        require(self.pairs in (AXES, CELLS), "pairs", f"{AXES} or {CELLS}")
        require(self.smallest is None or self.smallest > 0, "smallest", "positive; null: no difference is too small")

    def rule_of(self, num_pairs: int) -> Rule:
        """The rule for each of so many pairs."""
        error = self.error / max(num_pairs, 1)
        return Open(error) if self.rule == OPEN else Bounded(error, self.most_seeds)

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.most_seeds)


@dataclass(frozen=True)
class Pair:
    """Two choices. axis: empty for two cells. cells: (of the first, of the second), equal in all else."""

    axis: str
    first: str
    second: str
    cells: tuple[tuple[Key, Key], ...]

    def difference(self, scores: Scores) -> float:
        """First − second, averaged over the cells."""
        return sum(scores[a] - scores[b] for a, b in self.cells) / len(self.cells)


@dataclass(frozen=True)
class Look:
    """The mean difference after n seeds, and half its interval, which is valid at all looks together; it may be infinite."""

    n: int
    mean: float
    margin: float


@dataclass(frozen=True)
class Standing:
    """A pair after the rounds so far. differences: one per seed until the pair was closed. looks: after three and more."""

    pair: Pair
    outcome: Outcome
    differences: tuple[float, ...]
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class Standings:
    """All pairs of a sweep. rounds: the number of complete ones."""

    question: Question
    measure: Measure
    pairs: tuple[Standing, ...]
    rounds: int

    @property
    def over(self) -> bool:
        return all(one.outcome is not Outcome.OPEN for one in self.pairs)

    @property
    def needed(self) -> set[Key]:
        """The cells that an open pair reads."""
        return {key for one in self.pairs if one.outcome is Outcome.OPEN for two in one.pair.cells for key in two}


def pairs_of(keys: Sequence[Key], axes: Mapping[str, Sequence[str]], kind: str) -> list[Pair]:
    """The pairs of a sweep. keys: of its cells. axes: in the order of the keys, without the seed. kind: axes or cells."""
    if kind == CELLS:
        names = {key: " · ".join(choice for choice in key if choice is not None) for key in keys}
        return [Pair("", names[a], names[b], ((a, b),)) for a, b in combinations(keys, 2)]
    found = []
    for place, (axis, values) in enumerate(axes.items()):
        alike = grouped(keys, lambda key: (*key[:place], *key[place + 1 :]))  # noqa: B023 - used at once
        by_value = [{key[place]: key for key in some} for some in alike.values()]
        for a, b in combinations(values, 2):
            cells = tuple((one[a], one[b]) for one in by_value if a in one and b in one)
            found += [Pair(axis, a, b, cells)] if cells else []
    return found


def standings(question: Question, measure: Measure, pairs: Sequence[Pair], rounds: Sequence[Scores]) -> Standings:
    """The standing of every pair. rounds: the scores of each seed, in order; those after an incomplete one are not used."""
    rule = question.rule_of(len(pairs))
    found = [Standing(pair, Outcome.OPEN, (), ()) for pair in pairs]
    done = 0
    for scores in rounds:
        reads = {key for one in found if one.outcome is Outcome.OPEN for two in one.pair.cells for key in two}
        if not reads or not reads <= scores.keys():
            break
        done += 1
        found = [_after(one, scores, rule, question, measure) for one in found]
        found = _without_losers(found)
    return Standings(question, measure, tuple(found), done)


def _after(one: Standing, scores: Scores, rule: Rule, question: Question, measure: Measure) -> Standing:
    """The standing after a further round."""
    if one.outcome is not Outcome.OPEN:
        return one
    differences = (*one.differences, one.pair.difference(scores))
    if (n := len(differences)) < FIRST_LOOK:
        return Standing(one.pair, Outcome.OPEN, differences, ())
    t, mean = rule.t_after(n), sum(differences) / n
    error = (sum((d - mean) ** 2 for d in differences) / (n * (n - 1))) ** 0.5
    # Equal differences, of a measure with few values, decide nothing but that they are zero.
    margin = t * error if error > _ROUNDING * abs(mean) else inf if mean else 0.0
    look = Look(n, mean, margin)
    outcome = Outcome.OPEN
    if not any(differences):
        outcome = Outcome.SAME
    elif abs(mean) > look.margin:
        outcome = Outcome.BETTER if (mean < 0) == (measure.better == LOW) else Outcome.WORSE
    elif question.smallest is not None and abs(mean) + look.margin <= question.smallest:
        outcome = Outcome.CLOSE
    elif n == question.most_seeds:
        outcome = Outcome.UNDECIDED
    return Standing(one.pair, outcome, differences, (*one.looks, look))


def _without_losers(found: Sequence[Standing]) -> list[Standing]:
    """Close open pairs with a choice that has lost to another."""
    lost = {(one.pair.axis, one.pair.second) for one in found if one.outcome is Outcome.BETTER}
    lost |= {(one.pair.axis, one.pair.first) for one in found if one.outcome is Outcome.WORSE}

    def closed(one: Standing) -> bool:
        return one.outcome in (Outcome.OPEN, Outcome.UNDECIDED) and any(
            (one.pair.axis, choice) in lost for choice in (one.pair.first, one.pair.second)
        )

    return [Standing(one.pair, Outcome.LOST, one.differences, one.looks) if closed(one) else one for one in found]


def key_of(choices: Mapping[str, str | None]) -> Key:
    """The key of a cell with these choices of the swept axes."""
    return tuple(choice for axis, choice in choices.items() if axis != SEED)


def read_standings(sweep: SweepDirectory, most_rounds: int | None = None) -> Standings | None:
    """The standings of a sweep from its folder and its scores, or of its first rounds only; None if it decides nothing, or has no
    score yet. RunError if the measure is in no score, has no better direction, or was not measured alike in the cells of a pair."""
    content = sweep.read_sweep()
    if content.get("decide") is None:
        return None
    try:
        question = TypeAdapter(Question).validate_python(content["decide"])
    except ValidationError as error:
        raise RunError(f"{sweep.sweep} is not valid: {first_error(error, 'decide')}") from None
    axes = {axis: values for axis, values in content["axes"].items() if axis != SEED}
    scores: dict[str, dict[Key, float]] = {}
    ways: dict[Key, dict[str, Any]] = {}
    keys: dict[Key, None] = {}
    measure = None
    for cell in content["cells"]:
        keys[key := key_of(cell["choices"])] = None
        run = run_directory(sweep.outputs, cell["run"])
        if run.metrics.is_file():
            found, value, way = _measured(run, question.measure)
            measure = measure or found
            ways.setdefault(key, way)
            scores.setdefault(str(cell["choices"].get(SEED)), {})[key] = value
    if measure is None:
        return None
    pairs = pairs_of([*keys], axes, question.pairs)
    _check_alike(pairs, ways, question.measure)
    rounds = [scores.get(str(seed), {}) for seed in question.seeds[:most_rounds]]
    return standings(question, measure, pairs, rounds)


def _measured(run: RunDirectory, name: str) -> tuple[Measure, float, dict[str, Any]]:
    """The description, the value and the way of measuring of a measure in a score."""
    metrics = run.read_metrics()
    protocol: dict[str, Any] = metrics.get("protocol", {})
    measure = next((one for one in read_measures(metrics) if one.name == name), None)
    if measure is None or name not in metrics["values"]:
        why = protocol.get("absent", {}).get(name) or f"it has {_names(metrics['values'])}"
        raise RunError(f"sweep.decide.measure={name}: {run.metrics} has no such value: {why}")
    if measure.better is None:
        raise RunError(f"sweep.decide.measure={name} has no better direction, so no choice can be better by it")
    return measure, float(metrics["values"][name]), measure.how(protocol)


def _check_alike(pairs: Sequence[Pair], ways: Mapping[Key, Mapping[str, Any]], name: str) -> None:
    """RunError if the two cells of a pair were measured differently. ways: how each scored cell was measured."""
    for pair in pairs:
        for a, b in pair.cells:
            if a in ways and b in ways and ways[a] != ways[b]:
                parts = _names(part for part in ways[a] if ways[a][part] != ways[b].get(part))
                two = f"{pair.axis}={pair.first} and {pair.second}" if pair.axis else f"{pair.first} and {pair.second}"
                raise RunError(
                    f"sweep.decide.measure={name}: {two} are measured in different ways ({parts}) and cannot be compared"
                )


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))


# ---- in words


def said_of(standing: Standing, found: Standings) -> str:
    """The standing of a pair in one sentence, such as: after 5 seeds: schedule cosine is better than linear by 0.21 [0.08, 0.34]"""
    pair, n = standing.pair, len(standing.differences)
    axis = f"{short_names({one.pair.axis for one in found.pairs})[pair.axis]} " if pair.axis else ""
    both, interval = f"{axis}{pair.first} and {pair.second}", _interval(standing)
    text = {
        Outcome.BETTER: f"{axis}{pair.first} is better than {pair.second} by {interval}",
        Outcome.WORSE: f"{axis}{pair.second} is better than {pair.first} by {interval}",
        Outcome.SAME: f"{both} are equal in every seed",
        Outcome.CLOSE: f"{both} are equal within ±{found.question.smallest}: {interval}",
        Outcome.LOST: f"{both} are not compared further, because one of them has lost to another choice",
        Outcome.UNDECIDED: f"{both} are undecided" + (f": {interval}" if interval else ""),
        Outcome.OPEN: f"{both} are open" + (f": {interval}" if interval else ""),
    }[standing.outcome]
    return f"after {n} seed{'' if n == 1 else 's'}: {text}"


def _interval(standing: Standing) -> str:
    """0.21 [0.08, 0.34]: the mean difference and its interval; of a decided pair, how much the better choice is better."""
    if not standing.looks or not isfinite(standing.looks[-1].margin):
        return ""
    mean, margin = standing.looks[-1].mean, standing.looks[-1].margin
    if standing.outcome in (Outcome.BETTER, Outcome.WORSE):
        mean = abs(mean)
    digits = margin or abs(mean)  # two of them
    decimals = max(0, 1 - floor(log10(digits))) if digits else 0
    form = f".{decimals}f" if decimals < 7 else ".2g"
    return f"{mean:{form}} [{mean - margin:{form}}, {mean + margin:{form}}]"


def said_of_savings(sweep: SweepDirectory, found: Standings) -> str:
    """The trainings that were not needed, beside those of the same number of seeds for every cell, once over of the most."""
    models: dict[str | None, set[str]] = {}
    for cell in sweep.read_sweep()["cells"]:
        models.setdefault(cell["choices"].get(SEED), set()).add(cell["model"])
    seeds = found.question.most_seeds if found.over else len(models)
    fixed, done = len(next(iter(models.values()))) * seeds, sum(map(len, models.values()))
    still = sum(one.outcome is Outcome.OPEN for one in found.pairs)
    state = f"{still} of {len(found.pairs)} pairs are open" if still else "no pair is open"
    return f"{state}; trainings saved beside {seeds} seeds of every cell: {fixed - done} of {fixed}"


def said_of_sweep(sweep: SweepDirectory) -> list[str]:
    """The standing of each pair and the trainings saved, in lines of text; none if the sweep decides nothing or has no score."""
    try:
        found = read_standings(sweep)
    except RunError as error:
        return [str(error)]
    return [] if found is None else [*(said_of(one, found) for one in found.pairs), said_of_savings(sweep, found)]
