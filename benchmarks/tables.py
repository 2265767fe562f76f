"""The numbers that pages quote, from the scores in results/*.csv.

    python benchmarks/tables.py            # rewrites them in README.md, docs/ and benchmarks/README.md
    python benchmarks/tables.py --check    # fails where a page disagrees with its table

A comment names the scores of the table or the paragraph below it; only numbers change, the words around them are the author's:

    <!-- scores
    one_commit with_labels/diffusion_guided_5_steps
    one_commit with_labels/gan
    -->

Above a table: a line for each row, with a study and a recipe (`-`: no scores). A column is the metric of its head, or of a first
line `columns - fd_digits_cnn precision+recall row`: `-` is left alone, `+` joins the metrics of one cell, and with `row` the metric
stands at the end of the row's line. Braces hold one text for each column: `hour gan_{660,1660}_steps`.

Above a paragraph: a line for each `a ± b` in it, with the metric behind the recipe.

    0.49            the mean over seeds
    0.49 ± 0.03     … and its standard error over seeds; with the word `blocks` over samples and images too
    0.49 (0.45, …)  … and each seed, or with the word `draws` each evaluation seed
    0.49 (0.45–…)   … and the lowest and the highest seed
    0.4 [0.1, 0.7]  … and the 95 % interval that the score states

`floor` behind a recipe reads the floors, `column=value` selects rows (`samples_seed=0`), `a | b` takes the first with the metric.
`a minus b` is a difference with its 95 % interval: Welch's, for seeds, or `paired` by seeds, samples and images.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

from scipy.special import stdtrit

from diffusion_lab.report.comparison import Blocks, Difference, Measured, difference

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
    floor: bool = False
    draws: bool = False
    blocks: bool = False

    def means(self, metric: str, by: str = "seed") -> dict[str, float]:
        """The mean of each seed, or of each draw, in order."""
        name = f"{metric}_floor" if self.floor else metric
        rows = sorted((row for row in self.rows if row.get(name)), key=lambda row: row[by])
        if not rows:
            raise ValueError(f"{self.rows[0]['study']} {self.rows[0]['recipe']} has no {name}")
        return {key: mean(float(row[name]) for row in group) for key, group in groupby(rows, lambda row: row[by])}

    def measured(self, metric: str) -> Measured:
        """With the blocks of its samples and images, of one draw a seed."""
        rows = {row["seed"]: row for row in self.rows}
        return Measured(
            self.means(metric),
            {seed: sources_of(row, metric) for seed, row in rows.items()},
            {seed: seed for seed in rows},  # of one seed each, a difference is over samples and images alone
        )

    def error(self, metric: str) -> float:
        """The standard error of the mean: over seeds; of one seed, or with `blocks`, over samples and images."""
        values = list(self.means(metric).values())
        if not self.blocks and len(values) > 1:
            return stdev(values) / len(values) ** 0.5
        found = self.measured(metric).error
        return next(iter(self.means(f"{metric}_standard_error").values())) if found is None else found


def sources_of(row: Row, metric: str) -> Blocks:
    return blocks().get((*key(row), metric), {})


def apart(a: Scores, b: Scores, metric: str, paired: bool) -> tuple[float, float]:
    """(a − b, half the width of its 95 % interval): Welch's, over seeds, or paired by seeds, samples and images."""
    if paired:
        found: Difference | None = difference(a.measured(metric), b.measured(metric))
        if found is None:
            raise ValueError(f"{metric} of {a.rows[0]['recipe']} and {b.rows[0]['recipe']} has no paired interval")
        return found.mean, found.margin
    seeds = [list(each.means(metric).values()) for each in (a, b)]
    parts = [(stdev(values) ** 2 / len(values), len(values) - 1) for values in seeds]
    total = sum(square for square, _ in parts)
    freedom = total**2 / sum(square**2 / n for square, n in parts)
    return mean(seeds[0]) - mean(seeds[1]), float(stdtrit(freedom, 0.975)) * total**0.5


def having(words: str, metric: str) -> Scores:
    """The first of `scores | others` that has the metric."""
    found = [selected(each) for each in words.split(" | ")]
    return next((each for each in found if any(row.get(metric) for row in each.rows)), found[-1])


def selected(words: str) -> Scores:
    """`study recipe`, and what may follow it."""
    study, recipe, *more = words.split()
    flags = {word for word in more if "=" not in word}
    if flags - {"floor", "draws", "blocks"} or (study, recipe) not in scores():
        raise ValueError(f"no score in results/*.csv is called {words!r}")
    wanted = [word.split("=", 1) for word in more if "=" in word]
    rows = [row for row in scores()[study, recipe] if all(row[column] == value for column, value in wanted)]
    if not rows:
        raise ValueError(f"no score of {study} {recipe} has {', '.join('='.join(pair) for pair in wanted)}")
    return Scores(rows, **dict.fromkeys(flags, True))


# A number with what belongs to it: ± error, (seeds), (lowest–highest), [low, high]. Not one inside a word, or of `code`.
_NUMBER = r"[−-]?\d+(?:,\d{3})*(?:\.\d+)?"
_QUANTITY = re.compile(
    rf"(?<![\w.`/])(?P<value>{_NUMBER})(?P<error> ± {_NUMBER})?(?P<extra>\*{{0,2}} (?:\({_NUMBER}(?:, {_NUMBER})+\)"
    rf"|\({_NUMBER}(?:–| to ){_NUMBER}\)|\[{_NUMBER}, {_NUMBER}\]))?(?![\w`]|\.\d)"
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
    """The quantity of the same form: of the first of `scores | others` that has the metric, or of `a minus b`."""
    if " minus " in words:
        a, b = (having(each, metric) for each in words.removesuffix(" paired").split(" minus "))
        return as_written(match[0], *apart(a, b, metric, words.endswith(" paired")))
    found = having(words, metric)
    seeds = list(found.means(metric).values())
    text = as_written(match["value"], mean(seeds))
    if match["error"]:
        text += as_written(match["error"], found.error(metric))
    if not (extra := match["extra"]):
        return text
    if "[" in extra:
        return text + as_written(extra, *(mean(found.means(f"{metric}_{end}").values()) for end in ("low", "high")))
    if "–" in extra or " to " in extra:
        return text + as_written(extra, min(seeds), max(seeds))
    each = list(found.means(metric, "samples_seed" if found.draws else "seed").values())
    if len(each) != len(re.findall(_NUMBER, extra)):
        raise ValueError(f"{match[0]!r} is of {len(each)} {'draws' if found.draws else 'seeds'}")
    return text + as_written(extra, *each)


def table(lines: Sequence[str], text: str) -> str:
    """The Markdown table with its numbers from the scores."""
    head, rule, *rows = text.splitlines()
    columns = [HEADS.get(name, name) for name in (cell.strip(" `*") for cell in _cells(head))]
    if lines and lines[0].startswith("columns "):
        columns, lines = [columns[0], *lines[0].split()[1:]], lines[1:]
        if unknown := {name for column in columns[1:] for name in column.split("+")} - {"-", "row", *metrics()}:
            raise ValueError(f"no score has {', '.join(sorted(unknown))}")
    places = [i for i, name in enumerate(columns) if i and (metrics() | {"row"}).issuperset(name.split("+"))]
    if len(lines) != len(rows):
        raise ValueError(f"a table of {len(rows)} rows has {len(lines)} lines of scores: {lines}")
    written = [_row(line, row, columns, places) for line, row in zip(lines, rows, strict=True)]
    return "\n".join([head, rule, *written])


def _row(line: str, row: str, columns: Sequence[str], places: Sequence[int]) -> str:
    cells = _cells(row)
    for number, place in enumerate(places if line != "-" else ()):
        if place < len(cells) and re.search(r"\d", cells[place]):
            cells[place] = _cell(cells[place], _in_column(line, number), columns[place])
    return f"{row[: row.index('|')]}|{'|'.join(cells)}|"


def _in_column(line: str, number: int) -> str:
    """The line with one text of each pair of braces."""

    def text(braces: re.Match[str]) -> str:
        texts = braces[1].split(",")
        if number >= len(texts):
            raise ValueError(f"{braces[0]} has nothing for column {number + 1}")
        return texts[number]

    return re.sub(r"\{([^}]*)\}", text, line)


def _cell(text: str, words: str, metric: str) -> str:
    """The cell with its first number, or with as many as metrics are joined; others, as in "3.09, 50 steps", stay."""
    if (last := words.rpartition(" "))[2] in metrics():
        words, metric = last[0], last[2]
    wanted = iter(metric.split("+"))

    def replaced(match: re.Match[str]) -> str:
        name = next(wanted, None)
        return quantity(match, words, name) if name else match[0]

    return _QUANTITY.sub(replaced, text)


def _cells(row: str) -> list[str]:
    return row.strip().removeprefix("|").removesuffix("|").split("|")


def paragraph(lines: Sequence[str], text: str) -> str:
    """The paragraph with each `a ± b` from the scores."""
    wanted = iter(lines)

    def replaced(match: re.Match[str]) -> str:
        if not match["error"]:
            return match[0]
        if (line := next(wanted, None)) is None:
            raise ValueError(f"nothing says where {match[0]!r} comes from")
        words, _, metric = line.rpartition(" ")
        return match[0] if line == "-" else quantity(match, words, metric)

    new = _QUANTITY.sub(replaced, text)
    if left := list(wanted):
        raise ValueError(f"no `a ± b` is left for {left}")
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
    for file in [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
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
