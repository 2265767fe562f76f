"""Numbers as text (digits, errors, footnotes) and the notes on them, for the page and the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from diffusion_lab.report.choices import natural
from diffusion_lab.report.comparison import listed
from diffusion_lab.report.table import NONE, Group, Row, Table
from diffusion_lab.store.measures import ENTROPY, Measure
from diffusion_lab.store.option_names import flat
from diffusion_lab.store.provenance import SCORING, TRAINING, changed_code, some_of

MOST_NAMED = 6  # options in a title or a name


@dataclass(frozen=True)
class Entry:
    """A value as written. number: for sorting. letter: of the footnote on how it was measured."""

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
    """A measure over a group. letters: one for each way of measuring, empty for a single way. notes: letter -> the way in words.
    floor: of real images."""

    measure: Measure
    decimals: int
    letters: Mapping[str, str]
    notes: Mapping[str, str]
    floor: str

    def entry(self, row: Row, marked: set[tuple[int, str]]) -> Entry:
        letter = self.letters.get(row.protocol_key(self.measure), "") if row.cells_with(self.measure.name) else ""
        if several := row.differing.get(self.measure.name):
            ends = " to ".join(f"{end:.{self.decimals}f}" for end in (min(several), max(several)))
            return Entry(ends, letter=letter, why=f"differs between {label(row)}")
        if self.measure.name not in row.values:
            reasons = (cell.part("absent").get(self.measure.name) for cell in row.done)
            return Entry(NONE, why=next(filter(None, reasons), "not measured"))
        measured = row.values[self.measure.name]
        error = measured.error if self.measure.better is not None else None
        n = f"mean of {measured.n} seeds" if measured.n > 1 else "one seed"
        over = "" if error is None else f" ± standard error over {measured.error_over}"
        return Entry(
            value=f"{measured.mean:.{self.decimals}f}",
            error="" if error is None else f"{error:.{self.decimals}f}",
            letter=letter,
            best=(row.number, self.measure.name) in marked,
            number=measured.mean,
            why=n + over,
        )


def columns(group: Group) -> list[Column]:
    """One column for each measure of the group."""
    return [_column(group, measure) for measure in group.measures]


def label(row: Row, among: Sequence[Row] = ()) -> str:
    """The choices of a row in one line. among: the rows beside it; choices that all of them share are left out."""
    places = (among and distinguishing(among)) or range(len(row.names))
    names = [row.words[i] for i in places]
    return " · ".join(name for name in names if name is not None) or (NONE if row.names else "the only choice")


def distinguishing(rows: Sequence[Row]) -> list[int]:
    """The places of the axes in which rows differ."""
    return [i for i in range(len(rows[0].names)) if len({row.names[i] for row in rows}) > 1]


def alike(table: Table, group: Group) -> list[str]:
    """A sentence on the axes of the table in which the rows of the group have one value, and one on rows of different code."""
    apart, names = distinguishing(group.rows), list(table.names.values())
    chosen = [f"{names[i]} {name}" for i, name in enumerate(group.rows[0].names) if name is not None and i not in apart]
    said = [f"{'In all rows' if len(group.rows) > 1 else 'The row'}: {', '.join(chosen)}."] if chosen else []
    return [*said, *_of_different_code(group)]


def _of_different_code(group: Group) -> list[str]:
    """A sentence on cells that different code of the package made, and one on different versions of the user's own files.

    Of these only files that several records hold are compared: rows may be of different classes of the user's.
    """
    cells = [cell for row in group.rows for cell in row.done]
    files = set[str]()
    for by, places in (("trained_by", TRAINING), ("scored_by", SCORING)):
        recorded = [cell.code[by] for cell in cells if cell.code.get(by)]
        files.update(file for one, other in pairwise(recorded) for file in changed_code(one, other, places))
    versions = {(file, str(digest)) for cell in cells for made in cell.own.values() for file, digest in made.items()}
    count = Counter(file for file, _ in versions)
    own = [file for file, number in sorted(count.items()) if number > 1]
    said = {"Made by different code": sorted(files), "Made with different versions of the user's files": own}
    return [f"{how}, which may be why rows differ: {some_of(some)}." for how, some in said.items() if some]


def seeds_of(row: Row) -> str:
    """How many of the requested seeds are finished."""
    asked = {cell.seed for cell in row.cells}
    return str(len(asked)) if len(row.seeds) == len(asked) else f"{len(row.seeds)} of {len(asked)}"


def title(table: Table) -> str:
    """What the report compares, on which data."""
    data = sorted({group.protocol["data"]["name"] for group in table.groups if "data" in group.protocol})
    on = f" on {listed(data)}" if data else ""
    if not table.axes:
        return f"Samples and likelihood{on}"
    names = listed(list(table.names.values())) if len(table.axes) <= MOST_NAMED else f"{len(table.axes)} options"
    return f"Samples and likelihood{on} by {names}"


def _column(group: Group, measure: Measure) -> Column:
    rows = [row for row in group.rows if row.cells_with(measure.name)]
    first = {row.protocol_key(measure): row for row in reversed(rows)}
    keys = list(dict.fromkeys(row.protocol_key(measure) for row in rows))
    ways = {way: how for row in rows for way, how in row.ways(measure).items()}
    differences = dict(zip(ways, _differences(list(ways.values())), strict=True))
    texts = ["; for other seeds ".join(differences[way] for way in first[key].ways(measure)) for key in keys]
    letters = {key: "abcdefghijklmnopqrstuvwxyz"[i % 26] for i, key in enumerate(keys)} if len(ways) > 1 else {}
    floor = group.fact(measure.floor_of)
    decimals = group.decimals(measure)
    return Column(
        measure,
        decimals,
        letters,
        dict(zip(letters.values(), texts, strict=True)) if letters else {},
        "" if floor is None else f"{floor:.{decimals}f}",
    )


def _differences(hows: list[dict[str, Any]]) -> list[str]:
    """For several ways of measuring, what distinguishes each from the others."""
    ways = [flat(how, " ") for how in hows]
    differing = [key for key in dict.fromkeys(k for f in ways for k in f) if len({str(f.get(key)) for f in ways}) > 1]
    return [
        ", ".join(str(f[key]) if isinstance(f[key], str) else f"{key} {f[key]}" for key in differing if key in f)
        for f in ways
    ]


def has_floor(group: Group) -> bool:
    return any(group.fact(measure.floor_of) is not None for measure in group.measures)


def footnotes(column: Column) -> list[str]:
    """Footnotes on how the values of a column were measured."""
    return [f"{column.measure.label} [{letter}]: {text}." for letter, text in column.notes.items()]


def notes(group: Group, measures: Sequence[Measure]) -> list[str]:
    """Notes on the numbers of a group: how they were measured, the meaning of ± and marks, footnotes."""
    cells = [cell for row in group.rows for cell in row.done]
    samples, reference, data, features = (cells[0].part(name) for name in ("samples", "reference", "data", "features"))
    noise = sorted({cell.noise for cell in cells if cell.given is None}, key=natural)
    seeded = f" of seed{'s' if len(noise) > 1 else ''} {listed(noise)}" if noise else ""
    drawn = f"{samples.get('num_images')} samples{seeded}"
    real = f"{reference.get('num_images')} {_of_split(reference)} images"
    real = f"{reference.get('form')} of {reference['given']}" if "given" in reference else real
    said = [
        f"{data.get('name')}: {drawn} against {real}, features {features.get('name')} unless a column names others."
    ]
    for cell in cells:
        if (given := cell.given) is not None:
            facts = [f"given images, SHA-256 of their pixels {str(given.get('digest'))[:12]}…"]
            said.append(f"{given.get('name')}: {'; '.join([*facts, *cell.protocol.get('remarks', [])])}.")
    if any(row.others for row in group.rows):
        said.append(
            "Choices joined by = give the same samples, because the sampler does not read what differs: one row."
        )
    seeds = max(len(row.seeds) for row in group.rows)
    said.append(
        _errors(group, measures)
        + ("" if seeds > 1 else " The spread between trainings with different seeds is not known.")
    )
    if group.marked:
        said.append(
            "Bold is best, decided by the rule of the sentences above: different from every other row measured the same way "
            "after correction for the number of comparisons. Differences are paired over shared seeds, noise and images."
            + (" Its part over two seeds is ±12.7 standard errors, over three ±4.3." if seeds == 2 else "")
        )
    if not group.ranked:
        said.append(
            "Nothing is marked as best: seeds were added until the differences in one measure were decided; other "
            "measures took no part in that and are shown without a verdict."
        )
    floor = next((cell.protocol["floor"] for cell in cells if cell.protocol.get("floor")), None)
    if floor is not None and has_floor(group):
        alike = floor.get("num_images") == samples.get("num_images")
        other = "" if alike else ", a different number, so not comparable"
        said.append(f"Real images: {floor.get('num_images')} {_of_split(floor)} images against the same{other}.")
    for column in (column for column in columns(group) if column.measure in measures):
        said += footnotes(column)
        if not column.letters and column.measure.name == "bits_per_dim":
            bound = next(cell.part("bound") for cell in cells if "bits_per_dim" in cell.values)
            said.append(f"bits/dim: {bound.get('kind')}, of {bound.get('num_images')} {_of_split(bound)} images.")
    said += [f"{measure.label}: {measure.meaning}." for measure in measures if measure.floor_of]
    entropy = group.fact(ENTROPY)
    if entropy is not None:
        said.append(
            f"The entropy of the data is {entropy:.3f} bits/dim: an unconditional model needs at least as many."
        )
    return said


def _of_split(part: Mapping[str, Any]) -> str:
    return "training" if part.get("split") == "train" else str(part.get("split"))


def _errors(group: Group, measures: Sequence[Measure]) -> str:
    """The meaning of ±, by column if it differs between columns."""
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
