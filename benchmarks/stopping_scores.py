"""Stopping rules of `sweep.decide` on real scores: sweeps of equal trainings, and questions whose answer ten seeds know.

    python benchmarks/stopping_scores.py --runs outputs/runs    # collects the scores of the commands in README.md
    python benchmarks/stopping_scores.py [--resamples 2000]

Equal trainings: the cells of a sweep are trainings of the first recipe on digits, drawn without replacement. Questions:
two recipes that differ in one option, with ten seeds each, at which the rules look in order, after the third and each further one.
"""

import argparse
import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp
from stopping import DESIGNS, RESULTS, rows_of, write

from diffusion_lab.report.read import read_runs
from diffusion_lab.store.measures import LOW, Measure
from diffusion_lab.sweeps.decide import AXES, BOUNDED, OPEN, Outcome, Pair, Question, standings
from diffusion_lab.sweeps.stopping import Bounded

SCORES = RESULTS / "stopping_scores.csv"
FIRST = {"schedule": "cosine", "optimizer": "muon", "variance": "learned", "sampler.spacing.num_steps": "20"}
QUESTIONS = [  # option, its two values
    ("schedule", "cosine", "linear"),
    ("variance", "learned", "fixed_large"),
    ("sampler.spacing.num_steps", "50", "10"),
    ("optimizer", "muon", "adamw"),
]
SEEDS = 10

Scores = dict[tuple[str, ...], dict[int, float]]  # (data, values of the options) -> by seed


def collect(folder: Path) -> None:
    """Write the scores of runs to SCORES."""
    found = read_runs(sorted(folder.iterdir()), "runs").cells
    with SCORES.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["data", *FIRST, "seed", "measure", "value"])
        for cell in found:
            data = str(cell.protocol["data"]["name"])
            (measure,) = [name for name in cell.values if name.endswith("_ssl")]
            options = [cell.choices.get(option) or value for option, value in FIRST.items()]
            writer.writerow([data, *options, cell.seed, measure, f"{cell.values[measure]:.6g}"])


def read() -> Scores:
    scores: Scores = {}
    with SCORES.open(newline="") as file:
        for row in csv.DictReader(file):
            recipe = (row["data"], *(row[option] for option in FIRST))
            scores.setdefault(recipe, {})[int(row["seed"])] = float(row["value"])
    return scores


def resampled(values: np.ndarray, name: str, sweeps: int, num_seeds: int) -> Iterator[np.ndarray]:
    """Scores (sweeps, seeds, cells) of equal cells; nothing if there are too few values."""
    shape = (sweeps, num_seeds, len(DESIGNS[name].keys))
    if (needed := shape[1] * shape[2]) <= len(values):
        order = np.random.default_rng(0).random((sweeps, len(values))).argsort(1)
        yield values[order[:, :needed]].reshape(shape)


def equal_trainings(scores: Scores, sweeps: int) -> Iterator[tuple[str, ...]]:
    values = np.array([*scores["digits", *FIRST.values()].values()])
    for name in DESIGNS:
        yield from rows_of(name, f"{len(values)} trainings on digits", 0, partial(resampled, values, name, sweeps))


def questions(scores: Scores) -> Iterator[tuple[str, ...]]:
    """One row a question: the answer of ten seeds, and when the rules decide."""
    for data in dict.fromkeys(recipe[0] for recipe in scores):
        for option, *values in QUESTIONS:
            a, b = (scores.get((data, *(FIRST | {option: value}).values()), {}) for value in values)
            seeds = range(1, SEEDS + 1)
            if not {*seeds} <= a.keys() & b.keys():
                continue
            d = np.array([a[seed] - b[seed] for seed in seeds])
            p = float(ttest_1samp(d, 0).pvalue)
            answers = [
                _answer(rule, [*zip((a[n] for n in seeds), (b[n] for n in seeds), strict=True)])
                for rule in (BOUNDED, OPEN)
            ]
            in_all = f"{d.mean():.3f} (p = {p:.2g}{'' if p <= Bounded(0.05, SEEDS).level else ', above p*'})"
            yield data, f"{option.rpartition('.')[2]} {values[0]} − {values[1]}", in_all, *answers


def _answer(rule: str, rounds: list[tuple[float, float]]) -> str:
    """When and how a rule decides."""
    question = Question("value", SEEDS, 0.05, rule, AXES, None, 1)
    pair = Pair("", "a", "b", ((("a",), ("b",)),))
    scores = [{("a",): a, ("b",): b} for a, b in rounds]
    (one,) = standings(question, Measure("value", "value", better=LOW), [pair], scores).pairs
    n = len(one.differences)
    if one.outcome is Outcome.UNDECIDED:
        return "undecided"
    look = one.looks[-1]
    return f"{n} seeds: {look.mean:.3f} [{look.mean - look.margin:.3f}, {look.mean + look.margin:.3f}], {10 * (SEEDS - n)} % saved"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="a folder of scored runs, in place of the tables")
    parser.add_argument("--resamples", type=int, default=2000, help="sweeps of equal trainings")
    given = parser.parse_args()
    if given.runs:
        collect(given.runs)
    else:
        found = read()
        write(RESULTS / "stopping_equal.csv", equal_trainings(found, given.resamples))
        print("\n| data | difference | ten seeds | bounded | open |\n|---|---|---|---|---|")
        for row in questions(found):
            print("| " + " | ".join(row) + " |")
