"""Tables as files, as csv in full precision, Markdown, and LaTeX with booktabs, and as text in the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from rich.table import Table as TerminalTable
from rich.text import Text

from diffusion_lab.report.choices import reads_as_number
from diffusion_lab.report.conclusions import UNDECIDED, conclusions
from diffusion_lab.report.numbers import Entry, alike, columns, distinguishing, footnotes, has_floor, notes, seeds_of
from diffusion_lab.report.table import NONE, Gathered, Group, Table
from diffusion_lab.store.measures import Measure
from diffusion_lab.terminal import MOST_LINES, Terminal, and_more

_HEAD = 17  # characters of a line in the head of a table of sentences
_TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "β": r"$\beta$",
    "×": r"$\times$",
    "³": "$^3$",
}


def cell_csv(gathered: Gathered) -> str:
    """One line per cell, in full precision: every axis, the state, every value, how it was measured, the folder."""
    lines = [
        {
            **cell.choices,
            "state": cell.state,
            "reason": cell.reason,
            **cell.values,
            "bits_per_dim_kind": cell.bound_kind,
            "num_samples": cell.part("samples").get("num_images"),
            "data": cell.part("data").get("name"),
            "reference": cell.part("reference").get("split"),
            "weights": cell.protocol.get("weights"),
            "run": cell.run.path.name,
        }
        for cell in gathered.cells
    ]
    return _csv(lines)


def row_csv(table: Table) -> str:
    """One line per row, averaged over seeds, in full precision: means, standard errors and their sources, marks of the best."""
    lines = []
    for number, group in enumerate(table.groups, start=1):
        for row in group.rows:
            line: dict[str, Any] = dict(zip(table.axes, row.names, strict=True))
            line |= {"protocol": number, "seeds": len(row.seeds)}
            for measure in group.measures:
                if (measured := row.values.get(measure.name)) is None:
                    continue
                line[measure.name] = measured.mean
                if measure.better is not None:
                    line[f"{measure.name}_error"] = measured.error
                    line[f"{measure.name}_error_over"] = measured.error_over
                    line[f"{measure.name}_best"] = (row.number, measure.name) in group.marked
            lines.append(line)
    return _csv(lines)


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """The text; if a spreadsheet would read it as a formula, preceded by an apostrophe."""

    def safe(value: Any) -> Any:
        formula = isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@") and not reads_as_number(value)
        return f"'{value}" if formula else value

    text = io.StringIO()
    columns = dict.fromkeys(safe(name) for line in lines for name in line)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({safe(name): safe(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def markdown(table: Table) -> str:
    """One table per way of measuring, followed by its notes."""

    def written(entry: Entry) -> str:
        text = _md(entry.text)
        return (f"**{text}**" if entry.best else text) + (f" [{entry.letter}]" if entry.letter else "")

    parts = []
    for group in table.groups:
        head, *body = _lines(table, group, written, _md, brief(group))
        names = len(distinguishing(group.rows))
        align = [":--" if i < names else "--:" for i in range(len(head))]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (head, align, *body)))
        parts.append("\n".join(f"- {_md(note)}" for note in (*alike(table, group), *notes(group, brief(group)))))
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    """LaTeX tables with booktabs rules; they need no other package."""

    def written(entry: Entry) -> str:
        text = escape_tex(entry.value) + (f" $\\pm$ {escape_tex(entry.error)}" if entry.error else "")
        return (f"\\textbf{{{text}}}" if entry.best else text) + (f"$^{{{entry.letter}}}$" if entry.letter else "")

    parts = ["% needs \\usepackage{booktabs}"]
    for group in table.groups:
        measures, names = brief(group), len(distinguishing(group.rows))
        head, *body = _lines(table, group, written, escape_tex, measures)
        floors = 1 if has_floor(group) else 0
        head_line, *rows = (_after_a_break(" & ".join(line)) + r" \\" for line in (head, *body))
        parts += [
            rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(head) - names)}}}",
            r"\toprule",
            head_line,
            r"\midrule",
            *rows[: len(rows) - floors],
            *([r"\midrule", *rows[-floors:]] if floors else []),
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {note}" for note in (*alike(table, group), *notes(group, measures))),
            "",
        ]
    return "\n".join(parts)


def print_tables(gathered: Gathered, table: Table) -> None:
    """Print the answers, the tables, and what is missing."""
    console = Terminal()
    for group in table.groups:
        shown, measures = terminal(table, group, console.width)
        _print_unbroken(shown)
        said = [
            *alike(table, group),
            *notes(group, [])[:1],
            *(note for c in columns(group) if c.measure in measures for note in footnotes(c)),
        ]
        console.print(Text("\n".join(said), style="dim"))
        said_of = conclusions(table, group)
        for found in said_of.findings:
            sign, style = ("●", "green") if found.sure else ("○", "")
            console.print(Text(f"{sign} {found.what}: {found.text}", style=style))
        if said_of.undecided:
            _print_unbroken(_plain_table(UNDECIDED, said_of.undecided))
        if said_of.findings:
            console.print(Text(said_of.key, style="dim"))
        if said_of.note:
            console.print(Text(f"{said_of.note}.", style="dim"))
        if said_of.next:
            console.print(Text(f"Next: {said_of.next}.", style="bold"))
    missing = [
        f"{cell.state}: {' · '.join(filter(None, cell.choices.values()))}: {cell.reason}"
        for cell in gathered.cells
        if not cell.done
    ]
    for lines in (missing, [f"left out: {sentence}" for sentence in gathered.skipped]):
        for line in [*lines[:MOST_LINES], *and_more(len(lines))]:
            console.print(Text(line, style="yellow"))


def terminal(table: Table, group: Group, width: int) -> tuple[TerminalTable, list[Measure]]:
    """The table with its columns. If `width` is too small: the headlines, or where there are none the first columns that fit,
    and network evaluations if rows differ in them."""
    some, headlines = brief(group), [measure for measure in group.measures if measure.headline]
    if headlines and len({row.values["nfe"].mean for row in group.rows if "nfe" in row.values}) > 1:
        headlines += [measure for measure in group.measures if measure.name == "nfe"]
    shown = _terminal_table(table, group, some)
    while Terminal(width=1000).measure(shown).maximum > width and len(some) > max(1, len(headlines)):
        some = headlines or some[:-1]
        shown = _terminal_table(table, group, some)
    return shown, some


def brief(group: Group) -> list[Measure]:
    """The essential columns, for narrow tables."""
    return [measure for measure in group.measures if measure.brief]


def _terminal_table(table: Table, group: Group, measures: Sequence[Measure]) -> TerminalTable:
    def written(entry: Entry) -> Text:
        text = Text(entry.value, style="bold green" if entry.best else "")
        text.append(f" ± {entry.error}" if entry.error else "", style="" if entry.best else "dim")
        text.append(f" {entry.letter}" if entry.letter else "", style="dim")
        return text

    head, *body = _lines(table, group, written, Text, measures)
    names = len(distinguishing(group.rows))
    shown = TerminalTable(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(head):
        shown.add_column(name, justify="left" if i < names else "right", no_wrap=True)
    for line in body:
        shown.add_row(*line)
    return shown


def _plain_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> TerminalTable:
    """A table in which only the head is broken into lines."""
    shown = TerminalTable(*(fill(name, _HEAD) for name in head), box=None, pad_edge=False, header_style="dim")
    for line in lines:
        shown.add_row(*map(Text, line))
    return shown


def _print_unbroken(shown: TerminalTable) -> None:
    """Print a table at its full width, also where a terminal is narrower."""
    console = Terminal()
    Terminal(width=max(console.width, Terminal(width=1000).measure(shown).maximum)).print(shown, soft_wrap=False)


def _after_a_break(line: str) -> str:
    """`line`, protected so that a preceding line break or rule does not take [ or * as its option."""
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def escape_tex(text: str) -> str:
    """`text` escaped for LaTeX; characters unknown to plain LaTeX become commands."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def _md(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\|*_`[]<>" else sign for sign in text)


def _lines(
    table: Table,
    group: Group,
    written: Callable[[Entry], Any],
    escaped: Callable[[str], Any],
    measures: Sequence[Measure],
) -> Iterator[list]:
    """(head, rows, floor) as lists of texts."""
    shown = [column for column in columns(group) if column.measure in measures]
    many_seeds = len(table.seeds) > 1
    places, names = distinguishing(group.rows), list(table.names.values())
    unnamed = not places and not many_seeds  # a single row, which must be distinguished from the floor
    first = [
        *(escaped(names[i]) for i in places),
        *(["seeds"] if many_seeds else []),
        *([""] if unnamed else []),
    ]
    yield [*first, *(escaped(f"{column.measure.label} {column.measure.arrow}".strip()) for column in shown)]
    for row in group.rows:
        choices = [NONE if (name := row.names[i]) is None else escaped(name) for i in places]
        entries = [written(column.entry(row, group.marked)) for column in shown]
        yield [*choices, *([seeds_of(row)] if many_seeds else []), *(["samples"] if unnamed else []), *entries]
    if has_floor(group):
        floors = [written(Entry(column.floor)) if column.floor else "" for column in shown]
        yield ["real images", *[""] * (len(first) - 1), *floors]
