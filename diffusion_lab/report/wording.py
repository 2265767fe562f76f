"""Numbers as texts (digits, errors, footnotes), notes and findings: the same on the page, in the files and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.report.comparison import listed
from diffusion_lab.report.table import Group, Row, Standing, Table, seed_of
from diffusion_lab.store.measures import ENTROPY, Measure
from diffusion_lab.store.options import flat, short_names

NONE = "–"  # no such option, no such value


@dataclass(frozen=True)
class Entry:
    """One value as it is written. number: what it sorts by. letter: of the footnote that says how it was measured."""

    value: str
    error: str = ""
    letter: str = ""
    best: bool = False
    number: float | None = None
    why: str = ""

    @property
    def text(self) -> str:
        return f"{self.value} ± {self.error}" if self.error else self.value


@dataclass(frozen=True)
class Column:
    """A measure over a group. floor: of real images. notes: letter -> how values with it were measured; one letter at most
    is written as none."""

    measure: Measure
    decimals: int
    letters: Mapping[str, str]
    notes: Mapping[str, str]
    floor: str

    def entry(self, row: Row, marked: set[tuple[int, str]]) -> Entry:
        if self.measure.name not in row.values:
            return Entry(NONE, why=row.absent(self.measure))
        measured = row.values[self.measure.name]
        error = measured.error if self.measure.better is not None else None
        n = f"mean of {measured.n} seeds" if measured.n > 1 else "one seed"
        over = "" if error is None else f" ± standard error over {measured.error_over}"
        return Entry(
            value=f"{measured.mean:.{self.decimals}f}",
            error="" if error is None else f"{error:.{self.decimals}f}",
            letter=self.letters.get(row.protocol_key(self.measure), ""),
            best=(row.number, self.measure.name) in marked,
            number=measured.mean,
            why=n + over,
        )


def columns(group: Group) -> list[Column]:
    """One for each measure of the group."""
    return [_column(group, measure) for measure in group.measures]


def label(row: Row) -> str:
    """The choices of a row in one line."""
    return " · ".join(value for value in row.choice if value is not None) or "the only choice"


def seeds_of(row: Row) -> str:
    """How many of the seeds are finished."""
    asked = {seed_of(cell) for cell in row.cells}
    return str(len(asked)) if len(row.seeds) == len(asked) else f"{len(row.seeds)} of {len(asked)}"


def question(table: Table) -> str:
    """The question that the axes answer, in words."""
    names = short_names(table.axes)
    data = sorted({group.protocol["data"]["name"] for group in table.groups if "data" in group.protocol})
    on = f" on {listed(data)}" if data else ""
    if not table.axes:
        return f"How good are samples and likelihood{on}?"
    verb = "does" if len(table.axes) == 1 else "do"
    return f"What {verb} {listed([names[axis] for axis in table.axes])} change in samples, likelihood and cost{on}?"


@dataclass(frozen=True)
class Finding:
    """A sentence of a report. what: the column or the curves; sure: whether the difference is beyond its uncertainty."""

    what: str
    text: str
    sure: bool


def finding(standing: Standing, column: Column) -> Finding:
    """The best rows of a column, by how much they are better, and whether that is certain."""
    letter = column.letters.get(standing.best[0].protocol_key(standing.measure))
    what = standing.measure.label + (f" ({column.notes[letter]})" if letter else "")
    best = listed([label(row) for row in standing.best[:3]])
    if len(standing.best) > 3:
        best += f" and {len(standing.best) - 3} more of the same value"
    best += f" ({column.entry(standing.best[0], set()).text})"
    if standing.runner_up is None and standing.left_out and len(standing.best) == 1:
        return Finding(what, f"not ranked: no other row has the same seeds as {best}", False)
    if standing.runner_up is None:
        return Finding(what, f"the same in all rows: {column.entry(standing.best[0], set()).text}", False)
    said = (
        f"{best} {'is' if len(standing.best) == 1 else 'are'} {(standing.measure.better or '').removesuffix('er')}est"
    )
    if standing.lead is None:
        return Finding(what, f"{said}, but one seed per training gives no interval; run seed=1,2,3", False)
    by = f"{abs(standing.lead.mean):.{column.decimals}f} ± {standing.lead.margin:.{column.decimals}f}"
    said += f"; the difference to {label(standing.runner_up)}, {by} (95 % interval, {standing.lead.how}), is "
    if standing.marked:
        return Finding(what, f"{said}certain", True)
    not_certain = "not certain over all rows and columns"
    return Finding(what, said + (not_certain if standing.lead.beyond_its_uncertainty else "within noise"), False)


def _column(group: Group, measure: Measure) -> Column:
    rows = [row for row in group.rows if measure.name in row.values]
    first = {row.protocol_key(measure): row for row in reversed(rows)}
    keys = list(dict.fromkeys(row.protocol_key(measure) for row in rows))
    ways = {way: how for row in rows for way, how in row.ways(measure).items()}
    differences = dict(zip(ways, _differences(list(ways.values())), strict=True))
    texts = ["; for other seeds ".join(differences[way] for way in first[key].ways(measure)) for key in keys]
    letters = {key: "abcdefghijklmnopqrstuvwxyz"[i % 26] for i, key in enumerate(keys)} if len(ways) > 1 else {}
    floor = group.floor(measure)
    decimals = group.decimals(measure)
    return Column(
        measure,
        decimals,
        letters,
        dict(zip(letters.values(), texts, strict=True)) if letters else {},
        "" if floor is None else f"{floor:.{decimals}f}",
    )


def _differences(hows: list[dict[str, Any]]) -> list[str]:
    """Of several ways of measuring, what each has that differs from the others."""
    ways = [flat(how, " ") for how in hows]
    differing = [key for key in dict.fromkeys(k for f in ways for k in f) if len({str(f.get(key)) for f in ways}) > 1]
    return [
        ", ".join(str(f[key]) if isinstance(f[key], str) else f"{key} {f[key]}" for key in differing if key in f)
        for f in ways
    ]


def has_floor(group: Group) -> bool:
    return any(group.floor(measure) is not None for measure in group.measures)


def notes(group: Group, measures: Sequence[Measure]) -> list[str]:
    """What has to be known to read these numbers of a group: how they were measured, what ± and marks mean, footnotes."""
    if not group.rows:
        return []
    samples, reference = group.protocol.get("samples", {}), group.protocol.get("reference", {})
    data, features = group.protocol.get("data", {}), group.protocol.get("features", {})
    drawn = f"{samples.get('num_images')} samples of seed {samples.get('seed')}"
    real = f"{reference.get('num_images')} {reference.get('split')} images"
    real = f"{reference.get('form')} of {reference['given']}" if "given" in reference else real
    said = [
        f"{data.get('name')}: {drawn} against {real}, features {features.get('name')} unless a column names others."
    ]
    for cell in (cell for row in group.rows for cell in row.done):
        if (given := cell.given) is not None:
            remarks = cell.protocol.get("remarks", [])
            facts = [f"given images, SHA-256 of their pixels {str(given.get('digest'))[:12]}…", *remarks]
            said.append(f"{given.get('name')}: {'; '.join(facts)}.")
    seeds = max(len(row.seeds) for row in group.rows)
    said.append(
        _errors(group, measures)
        + ("" if seeds > 1 else " The spread between trainings with different seeds is not known.")
    )
    if len(group.rows) > 1:
        said.append(
            "Best (bold) only where the 95 % interval of its difference to every other row measured the same way "
            "excludes 0: an interval from all these sources, paired over shared seeds, noise and images."
            + (" Its part over two seeds is ±12.7 standard errors, over three ±4.3." if seeds == 2 else "")
        )
    floor = next(
        (cell.protocol["floor"] for row in group.rows for cell in row.done if cell.protocol.get("floor")), None
    )
    if floor is not None and has_floor(group):
        other = (
            "" if floor.get("num_images") == samples.get("num_images") else ", a different number, so not comparable"
        )
        said.append(f"Real images: {floor.get('num_images')} of {floor.get('split')} against the same{other}.")
    for column in (column for column in columns(group) if column.measure in measures):
        said += [f"{column.measure.label} [{letter}]: {text}." for letter, text in column.notes.items()]
        if not column.letters and column.measure.name == "bits_per_dim":
            cell = next(cell for row in group.rows for cell in row.cells_with("bits_per_dim").values())
            bound = cell.protocol.get("bound", {})
            said.append(f"bits/dim: {bound.get('kind')}, of {bound.get('num_images')} {bound.get('split')} images.")
    said += [f"{measure.label}: {measure.meaning}." for measure in measures if measure.floor_of]
    entropy = group.fact(ENTROPY)
    if entropy is not None:
        said.append(
            f"The entropy of the data is {entropy:.3f} bits/dim: an unconditional model needs at least as many."
        )
    return said


def _errors(group: Group, measures: Sequence[Measure]) -> str:
    """What ± is over, column by column where it is not the same for all."""
    columns_by_source: dict[str, list[str]] = {}
    for measure in measures:
        if measure.better is None:
            continue
        known = dict.fromkeys(row.values[measure.name].error_over for row in group.rows if measure.name in row.values)
        for over in known:
            columns_by_source.setdefault(over or "", []).append(measure.label.strip())
    known_for_all = len(columns_by_source) == 1
    told = [
        over if known_for_all else f"{over} ({listed(labels)})" for over, labels in columns_by_source.items() if over
    ]
    return f"± is the standard error over {'; over '.join(told)}." if told else "Errors are not known."
