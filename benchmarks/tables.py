"""The numbers that pages quote, from the scores in results/*.csv.

    python benchmarks/tables.py            # rewrites them in README.md and docs/
    python benchmarks/tables.py --check    # fails where a page disagrees with its table

A comment names the scores of the table or the paragraph below it; only numbers change, the words around them are the author's:

    <!-- scores
    one_commit with_labels/diffusion_guided_5_steps
    one_commit with_labels/gan
    -->

Above a table: a line for each row, with a study and a recipe. A column is the metric of its head, or of a first line
`columns fd_digits_cnn - recall`, where `-` is left alone. Braces hold one text for each column: `hour gan_{660,1660}_steps`.

Above a paragraph: a line for each `a ± b` and `a [b, c]` in it, with the metric behind the recipe.

    0.49            the mean over seeds
    0.49 ± 0.03     … and its standard error over seeds
    0.4 [0.1, 0.7]  … and the 95 % interval that the score states

`floor` behind a recipe reads the floors. `a minus b` is a difference with its 95 % interval, as `d ± half` or `d [low, high]`:
Welch's, over seeds, or with `paired` behind it paired by seeds, samples and images.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

from scipy.special import stdtrit

from diffusion_lab.report.comparison import Difference, Measured, difference

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLES = ("digits", "fashion_mnist", "emoji", "sprites", "features")  # one row a score
HEADS = {"evaluations": "nfe", "NFE": "nfe", "bits/dim": "bits_per_dim", "sliced Wasserstein": "sliced_wasserstein"}

Row = dict[str, str]


def rows(table: str) -> list[Row]:
    file = RESULTS / f"{table}.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.is_file() else []


def key(row: Row) -> tuple[str, ...]:
    return tuple(row[column] for column in ("study", "recipe", "seed", "samples_seed"))


@cache
def scores() -> dict[tuple[str, str], list[Row]]:
    """All scores by study and recipe, with bits/dim of every number of steps as bits_even_50."""
    found = defaultdict(list)
    by_key = {}
    for row in (row for table in TABLES for row in rows(table)):
        found[row["study"], row["recipe"]].append(row)
        by_key[key(row)] = row
    for row in rows("bits_by_steps"):
        by_key[key(row)] |= {f"bits_{row['spacing']}_{steps}": bits for steps, bits in row.items() if steps.isdigit()}
    return dict(found)


@cache
def metrics() -> set[str]:
    return {name for found in scores().values() for row in found for name in row}


@cache
def blocks() -> dict[tuple[str, ...], dict[str, list[float]]]:
    """What blocks of samples and images add to the error of a score: (study, recipe, seed, draw, measure) -> source -> blocks."""
    found: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(dict)
    for row in rows("blocks"):
        found[*key(row), row["measure"]][row["source"]] = [float(value) for value in row["blocks"].split()]
    return dict(found)


@dataclass(frozen=True)
class Scores:
    """The scores of one recipe: of several seeds, and of several draws of each."""

    rows: Sequence[Row]
    floor: bool

    def means(self, metric: str) -> dict[str, float]:
        """The mean of each seed, in order."""
        name = f"{metric}_floor" if self.floor else metric
        rows = sorted((row for row in self.rows if row.get(name)), key=_seed)
        if not rows:
            raise ValueError(f"{self.rows[0]['study']} {self.rows[0]['recipe']} has no {name}")
        return {seed: mean(float(row[name]) for row in group) for seed, group in groupby(rows, _seed)}

    def measured(self, metric: str) -> Measured:
        """With the blocks of its samples and images, of one draw a seed."""
        rows = {row["seed"]: row for row in self.rows}
        return Measured(
            self.means(metric),
            {seed: blocks().get((*key(row), metric), {}) for seed, row in rows.items()},
            {seed: seed for seed in rows},  # of one seed each, a difference is over samples and images alone
        )

    def variance_of_mean(self, metric: str) -> tuple[float, int]:
        """The square of the standard error over seeds, and its degrees of freedom."""
        values = list(self.means(metric).values())
        if len(values) < 2:
            raise ValueError(f"{self.rows[0]['study']} {self.rows[0]['recipe']} has one seed, so no error over seeds")
        return stdev(values) ** 2 / len(values), len(values) - 1


def _seed(row: Row) -> str:
    return row["seed"]


def apart(words: str, metric: str) -> tuple[float, float]:
    """Of `a minus b` (a − b, half the width of its 95 % interval): Welch's, over seeds, or paired by seeds, samples and images."""
    a, b = (selected(each) for each in words.removesuffix(" paired").split(" minus "))
    if words.endswith(" paired"):
        found: Difference | None = difference(a.measured(metric), b.measured(metric))
        if found is None:
            raise ValueError(f"{metric} of {words} has no paired interval")
        return found.mean, found.margin
    parts = [each.variance_of_mean(metric) for each in (a, b)]
    total = sum(square for square, _ in parts)
    freedom = total**2 / sum(square**2 / n for square, n in parts)
    means = [mean(each.means(metric).values()) for each in (a, b)]
    return means[0] - means[1], float(stdtrit(freedom, 0.975)) * total**0.5


def selected(words: str) -> Scores:
    """`study recipe`, and `floor` behind it."""
    study, recipe, *more = words.split()
    if more not in ([], ["floor"]) or (study, recipe) not in scores():
        raise ValueError(f"no score in results/*.csv is called {words!r}")
    return Scores(scores()[study, recipe], floor=bool(more))


# A number with what belongs to it: ± error, or [low, high]. Not one inside a word, or of `code`.
_NUMBER = r"[−-]?\d+(?:,\d{3})*(?:\.\d+)?"
_QUANTITY = re.compile(
    rf"(?<![\w.`/]){_NUMBER}(?:(?P<error>\s±\s{_NUMBER})|(?P<interval>\s\[{_NUMBER},\s{_NUMBER}\]))?(?![\w`]|\.\d)"
)


def as_written(old: str, *values: float) -> str:
    """The text with these numbers in place of its own, each with as many decimals as the one that it replaces."""
    new = iter(values)

    def number(match: re.Match[str]) -> str:
        decimals = len(match[0].partition(".")[2])
        text = f"{next(new):{',' if ',' in match[0] else ''}.{decimals}f}"
        return text.replace("-", "-" if match[0].startswith("-") else "−")

    return re.sub(_NUMBER, number, old)


def quantity(match: re.Match[str], words: str, metric: str) -> str:
    """The quantity of the same form, of the scores or of `a minus b`."""
    if " minus " in words:
        middle, half = apart(words, metric)
        return as_written(match[0], middle, *([half] if match["error"] else [middle - half, middle + half]))
    found = selected(words)
    values = [mean(found.means(metric).values())]
    if match["error"]:
        values.append(found.variance_of_mean(metric)[0] ** 0.5)
    if match["interval"]:
        values += [mean(found.means(f"{metric}_{end}").values()) for end in ("low", "high")]
    return as_written(match[0], *values)


def table(lines: Sequence[str], text: str) -> str:
    """The Markdown table with its numbers from the scores."""
    head, rule, *rows = text.splitlines()
    columns = [HEADS.get(name, name) for name in (cell.strip(" `*") for cell in _cells(head))]
    if lines and lines[0].startswith("columns "):
        columns, lines = [columns[0], *lines[0].split()[1:]], lines[1:]
        if unknown := set(columns[1:]) - {"-", *metrics()}:
            raise ValueError(f"no score has {', '.join(sorted(unknown))}")
    places = [i for i, name in enumerate(columns) if i and name in metrics()]
    if len(lines) != len(rows):
        raise ValueError(f"a table of {len(rows)} rows has {len(lines)} lines of scores: {lines}")
    written = [_row(line, row, columns, places) for line, row in zip(lines, rows, strict=True)]
    return "\n".join([head, rule, *written])


def _row(line: str, row: str, columns: Sequence[str], places: Sequence[int]) -> str:
    cells = _cells(row)
    for number, place in enumerate(places):
        if place < len(cells) and re.search(r"\d", cells[place]):
            words, metric = _in_column(line, number), columns[place]
            cells[place] = _QUANTITY.sub(partial(quantity, words=words, metric=metric), cells[place], count=1)
    return f"{row[: row.index('|')]}|{'|'.join(cells)}|"


def _in_column(line: str, number: int) -> str:
    """The line with one text of each pair of braces."""

    def text(braces: re.Match[str]) -> str:
        texts = braces[1].split(",")
        if number >= len(texts):
            raise ValueError(f"{braces[0]} has nothing for column {number + 1}")
        return texts[number]

    return re.sub(r"\{([^}]*)\}", text, line)


def _cells(row: str) -> list[str]:
    return row.strip().removeprefix("|").removesuffix("|").split("|")


def paragraph(lines: Sequence[str], text: str) -> str:
    """The paragraph with each `a ± b` and `a [b, c]` from the scores."""
    wanted = iter(lines)

    def replaced(match: re.Match[str]) -> str:
        if not match["error"] and not match["interval"]:
            return match[0]
        if (line := next(wanted, None)) is None:
            raise ValueError(f"nothing says where {match[0]!r} comes from")
        words, _, metric = line.rpartition(" ")
        return quantity(match, words, metric)

    new = _QUANTITY.sub(replaced, text)
    if left := list(wanted):
        raise ValueError(f"no `a ± b` or `a [b, c]` is left for {left}")
    return new


_MARK = re.compile(r"(?P<mark><!-- scores\n(?P<lines>.*?)\n *-->\n\n?)(?P<block>.+?)(?=\n\s*\n|\s*\Z)", re.DOTALL)


def written(text: str) -> str:
    """A page with the numbers of the tables."""

    def block(match: re.Match[str]) -> str:
        lines = [line.strip() for line in match["lines"].splitlines()]
        write = table if match["block"].lstrip().startswith("|") else paragraph
        return match["mark"] + write(lines, match["block"])

    return _MARK.sub(block, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a page disagrees with its table"
    )
    options = parser.parse_args()
    wrong = []
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        old = file.read_text()
        try:
            new = written(old)
        except ValueError as error:
            sys.exit(f"{file.relative_to(ROOT)}: {error}")
        lines = zip(old.splitlines(), new.splitlines(), strict=True)
        wrong += [f"{file.relative_to(ROOT)}: {a}\n  table: {b}" for a, b in lines if a != b]
        if new != old and not options.check:
            file.write_text(new)
    if wrong:
        print("\n".join(wrong))
        if options.check:
            sys.exit(f"{len(wrong)} lines are not those of the tables: python benchmarks/tables.py writes them")


if __name__ == "__main__":
    main()
