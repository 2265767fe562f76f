"""report.html: one file that needs no network. What Jinja fills in it escapes; the numbers for the script are JSON."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from diffusion_lab import __version__
from diffusion_lab.report.cells import Gathered
from diffusion_lab.report.contrast import Contender
from diffusion_lab.report.layout import NONE, Column, columns, finding, label, question, seeds_of, short_names
from diffusion_lab.report.notes import has_floor, notes
from diffusion_lab.report.panels import Plot
from diffusion_lab.report.sprites import Sprite
from diffusion_lab.report.table import SEED, Group, Row, Table, seed_of

_FOLDER = Path(__file__).parent / "page"
_DIGITS = 6  # significant ones of a number that is only drawn


def page(
    gathered: Gathered,
    table: Table,
    plots: Sequence[tuple[str, Sequence[Plot]]],
    sprites: Mapping[Path, Sprite | None],
    command: str,
    contrast: Sequence[tuple[Contender, Sprite | None]] = (),
) -> str:
    """The page. plots: under which heading which. sprites: of samples, by run folder. command: what makes the report again.
    contrast: the families and the sprites of their interpolations."""
    names = short_names(table.axes)
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    waiting = [cell for cell in gathered.cells if not cell.done]
    return environment.get_template("report.html").render(
        name=gathered.name,
        created=gathered.created[:16].replace("T", " "),
        question=question(table),
        facts=_facts(gathered, table),
        asked=f"diffusion-lab train -m {shlex.join(gathered.command)}" if gathered.command else "",
        axes=_axes(gathered, table),
        names=[{"name": names[axis], "option": axis} for axis in table.axes],
        many_seeds=len(table.seeds) > 1,
        findings=_findings(table),
        groups=[_group(table, group) for group in table.groups],
        other_noise="" if len(_noise(table)) < 2 else ", but these rows were drawn with several evaluation seeds",
        contrast=[one for one, _ in contrast],
        unfinished=[
            {"label": " · ".join(filter(None, cell.choices.values())), "state": cell.state, "reason": cell.reason}
            for cell in waiting
        ],
        skipped=gathered.skipped,
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        command=command,
        data=_script_json(
            {
                "rows": {row.number: data for group in table.groups for row, data in _rows_data(group, sprites)},
                "shown": _shown_first(table),
                "contrast": [_pictures(sprites.get(one.cell.run.path), way) for one, way in contrast],
                "plots": [{"title": title, "plots": [_plot(plot) for plot in some]} for title, some in plots if some],
            }
        ),
        css=Markup((_FOLDER / "report.css").read_text()),
        js=Markup((_FOLDER / "report.js").read_text()),
        plotly=Markup(get_plotlyjs()),
    )


def _facts(gathered: Gathered, table: Table) -> list[str]:
    cells, models = len(gathered.cells), len({cell.model.path for cell in gathered.cells})
    facts = [f"{len(gathered.done)} of {cells} cells scored", f"{models} model{'s' if models != 1 else ''}"]
    if table.seeds:
        facts.append(f"seeds {', '.join(table.seeds)}")
    steps = {cell.values.get("training_steps") for cell in gathered.done} - {None}
    if steps:
        facts.append("trained for " + " or ".join(f"{s:.0f}" for s in sorted(steps)[:3]) + " steps")
    weights = {cell.protocol.get("weights") for cell in gathered.done} - {None}
    if weights:
        facts.append(f"weights {', '.join(sorted(map(str, weights)))}")
    return facts


def _axes(gathered: Gathered, table: Table) -> list[dict[str, Any]]:
    """Every axis with its values; those of the table filter its rows."""
    names = short_names(gathered.axes)
    return [
        {
            "name": names[axis],
            "option": axis,
            "choices": values,
            "filters": axis in table.axes,
            "place": table.axes.index(axis) if axis in table.axes else None,
        }
        for axis, values in gathered.axes.items()
        if axis != SEED
    ]


def _findings(table: Table) -> list[dict[str, Any]]:
    """Who leads, by group."""
    found = []
    for number, group in enumerate(table.groups, start=1):
        by_name = {column.measure.name: column for column in columns(group)}
        for standing in group.standings:
            if standing.measure.headline:
                said = finding(standing, by_name[standing.measure.name])
                found.append({"group": number if len(table.groups) > 1 else None, "said": said})
    return found


def _group(table: Table, group: Group) -> dict[str, Any]:
    shown = columns(group)
    place = {axis: {value: i for i, value in enumerate(table.values[axis])} for axis in table.axes}
    said = notes(group) or ["Nothing has been scored yet."]
    return {
        "notes": said,
        "summary": said[0],
        "floor": "" if not has_floor(group) else "the distance of real images to the same reference",
        "columns": [_heading(column) for column in shown],
        "rows": [_row(table, group, row, shown, place) for row in [*group.rows, *group.unfinished]],
        "protocol": list(_flat(group.protocol)),
    }


def _heading(column: Column) -> dict[str, str]:
    measure = column.measure
    return {
        "label": measure.label,
        "arrow": measure.arrow,
        "better": measure.better or "",
        "meaning": measure.meaning,
        "floor": column.floor,
    }


def _row(
    table: Table, group: Group, row: Row, shown: Sequence[Column], place: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    first = row.cells[0]
    return {
        "number": row.number,
        "label": label(row),
        "choice_json": json.dumps(row.choice),
        "choices": [
            {"text": NONE if value is None else value, "place": place[axis].get(value, -1)}
            for axis, value in zip(table.axes, row.choice, strict=True)
        ],
        "seeds": seeds_of(row),
        "finished": len(row.done),
        "state": first.state,
        "reason": first.reason,
        "entries": [column.entry(row, group.marked) for column in shown] if row.done else [],
    }


def _rows_data(group: Group, sprites: Mapping[Path, Sprite | None]) -> Iterator[tuple[Row, dict[str, Any]]]:
    """What the script knows of each row: its name, its main value, and its samples by seed."""
    main = next((column for column in columns(group) if column.floor), None)
    for row in group.rows:
        drawn = [(cell, sprites.get(cell.run.path)) for cell in row.done]
        known = main is not None and main.measure.name in row.values
        yield (
            row,
            {
                "label": label(row),
                "html": html.escape(label(row)),
                "value": f"{main.measure.label} {main.entry(row, set()).text}" if known else "",
                "pictures": [{"seed": seed_of(cell), **asdict(sprite)} for cell, sprite in drawn if sprite is not None],
            },
        )


def _pictures(samples: Sprite | None, interpolation: Sprite | None) -> dict[str, Any]:
    return {
        "samples": None if samples is None else asdict(samples),
        "interpolation": None if interpolation is None else asdict(interpolation),
    }


def _shown_first(table: Table) -> list[int]:
    """The rows whose samples are there before anything is clicked: the best and the worst by the first distance."""
    group = table.groups[0] if table.groups else None
    measure = next((m for m in group.measures if m.floor_of), None) if group else None
    if measure is None:
        return [row.number for row in table.rows[:2]]
    rows = sorted((r for r in group.rows if measure.name in r.values), key=lambda r: r.values[measure.name].mean)
    return [row.number for row in dict.fromkeys([rows[0], rows[len(rows) // 2], rows[-1]])]


def _noise(table: Table) -> set[Any]:
    return {row.done[0].protocol.get("samples", {}).get("seed") for row in table.rows}


def _plot(plot: Plot) -> dict[str, Any]:
    """As plain data; texts that plotly would read as HTML are escaped beside what is shown as text."""
    content = asdict(plot)
    content["x_label"], content["y_label"] = html.escape(plot.x_label), html.escape(plot.y_label)
    for panel in content["panels"]:
        panel["html"] = html.escape(panel["title"])
        panel["categories"] = [html.escape(text) for text in panel["categories"]]
        for series in panel["series"]:
            series["html"] = html.escape(series["name"])
            series["labels"] = [html.escape(text) for text in series["labels"]]
            for part in ("x", "y", "error"):
                series[part] = [None if v is None else float(f"{v:.{_DIGITS}g}") for v in series[part]]
    return content


def _script_json(content: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _flat(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in node.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key} ")
        else:
            lines.append((f"{prefix}{key}".replace("_", " "), str(value)))
    return lines
