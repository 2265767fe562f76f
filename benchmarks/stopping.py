"""Stopping rules of `sweep.decide` in simulated sweeps: false decisions, decided differences, trainings.

    python benchmarks/stopping.py [--sweeps 200000]

A score is x = effect of the seed + noise of the cell; lower is better. Sweeps: of two cells (one pair), and of four as two axes of
two values (`axes`, 2 pairs) or as each two cells (`cells`, 6 pairs). The error is divided by the number of pairs in all rules, also
in those for comparison: p < 0.05 after each of 3, 4, … 10 seeds, and after ten seeds only. A decision is false where there is no
difference, and in the opposite direction. Differences are in standard deviations of the paired difference: one cell, or one value
of the first axis, is better than the others. Writes one row a setting, and prints a markdown table. Real scores are in
`stopping_scores.py`.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from diffusion_lab.sweeps.decide import Pair, pairs_of
from diffusion_lab.sweeps.stopping import FIRST_LOOK, Bounded, Open, Rule

ERROR, FIXED_SEEDS = 0.05, 10
CHUNK = 5000  # sweeps simulated at once
RESULTS = Path(__file__).parent / "results"
COLUMNS = ("sweep", "noise", "difference", "rule", "most_seeds", "sweeps", "false", "false_standard_error")
COLUMNS += ("decided", "seeds", "saved_percent")


@dataclass(frozen=True)
class EachLook(Rule):
    """p < error after each seed."""

    def t_after(self, n: int) -> float:
        return float(stdtrit(n - 1, 1 - self.error / 2))


@dataclass(frozen=True)
class OneLook(EachLook):
    """p < error after ten seeds."""

    def t_after(self, n: int) -> float:
        return super().t_after(n) if n == FIXED_SEEDS else np.inf


RULES: list[tuple[str, Callable[[float], Rule], int]] = [  # name, from its error; most seeds
    *(("bounded", partial(Bounded, most_seeds=most), most) for most in (5, 8, 10)),
    *(("open", Open, most) for most in (10, 100)),
    ("p < 0.05/pairs at each look", EachLook, 10),
    ("p < 0.05/pairs after ten seeds", OneLook, FIXED_SEEDS),
]


class Design:
    """The pairs of a sweep as matrices.

    contrasts: (pairs, cells), of the differences. reads: (pairs, cells), whether a pair needs a cell. first, second: (pairs,
    choices).
    """

    def __init__(self, values: tuple[int, ...], kind: str) -> None:
        axes = {str(axis): [str(value) for value in range(number)] for axis, number in enumerate(values)}
        self.keys = [*product(*axes.values())]
        self.pairs = pairs_of(self.keys, axes, kind)
        self.contrasts = np.array([self._contrast(pair) for pair in self.pairs])
        self.reads = self.contrasts != 0
        choices = sorted({(one.axis, name) for one in self.pairs for name in (one.first, one.second)})
        self.first = np.array([[(one.axis, one.first) == choice for choice in choices] for one in self.pairs])
        self.second = np.array([[(one.axis, one.second) == choice for choice in choices] for one in self.pairs])

    def _contrast(self, pair: Pair) -> list[float]:
        firsts, seconds = zip(*pair.cells, strict=True)
        return [((key in firsts) - (key in seconds)) / len(pair.cells) for key in self.keys]

    def better_first(self, difference: float) -> np.ndarray:
        """(cells,): shifts by which the first pair has this difference in its standard deviations; cells that are alike in its
        choice have the same shift."""
        contrast = self.contrasts[0]
        return -difference * np.sqrt((contrast**2).sum()) * (contrast > 0)


DESIGNS = {"two cells": Design((2,), "cells"), "axes": Design((2, 2), "axes"), "cells": Design((2, 2), "cells")}


def of_one_cell(noise: Callable, others: Callable, spread: float) -> Callable:
    """The first cell has a noise of its own."""

    def both(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        x = others(random, shape)
        x[..., 0] = spread * noise(random, shape[:-1])
        return x

    return both


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_normal(shape)


def student(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Three degrees of freedom, variance 1."""
    return random.standard_t(3, shape) / 3**0.5


def log_normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """exp of a standard normal variable, less its mean, variance 1; skewness 6.2."""
    return (np.exp(random.standard_normal(shape)) - np.e**0.5) / (np.e**2 - np.e) ** 0.5


NOISES = {  # of (…, cells); all have mean 0; the other cells are normal
    "normal": normal,
    "t3": student,
    "log-normal": log_normal,
    "one cell 10 times": of_one_cell(normal, normal, 10),
    "one cell t3 10 times": of_one_cell(student, normal, 10),
    "one cell log-normal": of_one_cell(log_normal, normal, 1),
    "one cell log-normal 10 times": of_one_cell(log_normal, normal, 10),
}


def t_values(design: Design, x: np.ndarray) -> np.ndarray:
    """t_n of the pairs for n = 1, 2, …: (sweeps, seeds, pairs), from scores (sweeps, seeds, cells)."""
    d = x @ design.contrasts.T
    n = np.arange(1, x.shape[1] + 1)[:, None]
    total = d.cumsum(1)
    with np.errstate(all="ignore"):  # n = 1
        return total / np.sqrt(n * ((d**2).cumsum(1) - total**2 / n) / (n - 1))


def decisions(design: Design, rule: Rule, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`standings` of many sweeps: the sign of decided differences, or 0 (sweeps, pairs); numbers of seeds and trainings."""
    sign = np.zeros(t[:, 0].shape, int)
    is_open = np.ones(sign.shape, bool)
    seeds, trainings = np.zeros((2, len(t)), int)
    for n in range(1, t.shape[1] + 1):
        seeds += is_open.any(1)
        trainings += (is_open @ design.reads).sum(1)
        if n >= FIRST_LOOK:
            now = np.where(is_open & (np.abs(t[:, n - 1]) >= rule.t_after(n)), np.sign(t[:, n - 1]), 0).astype(int)
            sign += now
            lost = (now < 0) @ design.second | (now > 0) @ design.first
            is_open &= (now == 0) & ~(lost @ (design.first | design.second).T)
    return sign, seeds, trainings


@dataclass
class Count:
    """Sums over sweeps of one setting. right: decided pairs that differ."""

    sweeps: int = 0
    false: int = 0
    right: int = 0
    seeds: int = 0
    trainings: int = 0

    def add(self, design: Design, rule: Rule, t: np.ndarray, shifts: np.ndarray) -> None:
        sign, seeds, trainings = decisions(design, rule, t)
        true = np.sign(design.contrasts @ shifts)
        self.sweeps += len(t)
        self.false += int(((sign != 0) & (sign != true)).any(1).sum())
        self.right += int(((sign == true) & (true != 0)).sum())
        self.seeds += int(seeds.sum())
        self.trainings += int(trainings.sum())

    def row(self, design: Design, shifts: np.ndarray) -> tuple[str, ...]:
        """The columns from `sweeps`."""
        false, differ = self.false / self.sweeps, int((design.contrasts @ shifts != 0).sum())
        saved = 1 - self.trainings / (self.sweeps * FIXED_SEEDS * len(design.keys))
        decided = f"{self.right / (self.sweeps * differ):.4f}" if differ else ""
        error = (false * (1 - false) / self.sweeps) ** 0.5
        return (
            str(self.sweeps),
            f"{false:.5f}",
            f"{error:.5f}",
            decided,
            f"{self.seeds / self.sweeps:.2f}",
            f"{100 * saved:.1f}",
        )


def rows_of(
    name: str, noise: str, difference: float, chunks: Callable[[int], Iterator[np.ndarray]]
) -> list[tuple[str, ...]]:
    """A row of every rule. chunks: from a number of seeds, scores (sweeps, seeds, cells) without a difference."""
    design, rows = DESIGNS[name], []
    shifts = design.better_first(difference)
    for horizon in sorted({most for *_, most in RULES}):
        rules = [(rule, of(ERROR / len(design.pairs)), most) for rule, of, most in RULES if most == horizon]
        counts = [Count() for _ in rules]
        for x in chunks(horizon):
            t = t_values(design, x + shifts)
            for count, (_, rule, _) in zip(counts, rules, strict=True):
                count.add(design, rule, t, shifts)
        settings = [(name, noise, f"{difference:g}", rule, str(most)) for rule, _, most in rules]
        rows += [
            (*one, *count.row(design, shifts)) for one, count in zip(settings, counts, strict=True) if count.sweeps
        ]
    return rows


def simulated(name: str, noise: str, sweeps: int, num_seeds: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng([*DESIGNS].index(name) * 100 + [*NOISES].index(noise))
    for start in range(0, sweeps, CHUNK):
        shape = (min(CHUNK, sweeps - start), num_seeds, len(DESIGNS[name].keys))
        yield random.standard_normal((*shape[:2], 1)) + NOISES[noise](random, shape)


def simulation(sweeps: int) -> Iterator[tuple[str, ...]]:
    for noise, name in product(NOISES, DESIGNS):
        yield from rows_of(name, noise, 0, partial(simulated, name, noise, sweeps))
    for name, difference in product(DESIGNS, (0.5, 1, 2, 3)):
        yield from rows_of(name, "normal", difference, partial(simulated, name, "normal", sweeps))


def write(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write the rows to a file, and print them."""
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(row)
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=200_000)
    write(RESULTS / "stopping.csv", simulation(parser.parse_args().sweeps))
