"""report.html: one file that needs no network. Jinja escapes what it fills in; the script's numbers are JSON."""

from __future__ import annotations

import gzip
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffusion_lab.report.conclusions import UNDECIDED, conclusions
from diffusion_lab.report.figures import figure, swatch
from diffusion_lab.report.numbers import alike, columns, distinguishing, has_floor, label, notes, seeds_of, title
from diffusion_lab.report.panels import DARK, LIGHT, Plot, legend
from diffusion_lab.report.sprites import Sprite, contenders, nearest_images, sprites
from diffusion_lab.report.table import SEED, Gathered, Group, Table
from diffusion_lab.store.option_names import flat, grouped, short_names
from diffusion_lab.terminal import MOST_LINES, and_more
from diffusion_lab.versions import __version__

# plotly-basic.min.js 4.1.1, the partial bundle in npm's plotly.js-basic-dist-min (MIT, plotly-LICENSE): 1.2 of 4.8 MB.
# Not uPlot, which would leave error bars and axis names to us. Not SVG drawn here, which has no zoom and tiny type on a phone.
_MOST_PREVIEWED = 4  # rows whose samples are shown until one is chosen
_FOLDER = Path(__file__).parent / "page"


def page(
    gathered: Gathered,
    table: Table,
    plots: Sequence[tuple[str, Sequence[Plot]]],
    command: str,
) -> str:
    """The page. plots: by heading. command: the command that makes the report again."""
    pictures = [(cell.run.samples_png, cell.shape) for cell in gathered.done]
    drawn = dict(zip((cell.run.path for cell in gathered.done), sprites(pictures), strict=True))
    families = contenders(table)
    ways = sprites([(one.cell.run.interpolation_png, one.cell.shape) for one in families])
    nearest = nearest_images(table)
    noise = {(cell.seed, cell.noise) for row in table.rows for cell in row.done if cell.given is None}
    known = [conclusions(table, group) for group in table.groups]
    shown = _shown_first(table, any(said.sure for one in known for said in one.findings))
    unfinished = [cell for cell in gathered.cells if not cell.done]
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        name=gathered.name,
        created=gathered.created[:16].replace("T", " "),
        title=title(table),
        facts=_facts(gathered, table),
        asked=f"diffusion-lab train -m {shlex.join(gathered.command)}" if gathered.command else "",
        axes={axis: values for axis, values in gathered.axes.items() if axis != SEED},
        axis_names=short_names(gathered.axes),
        table=table,
        names=table.names,
        label=label,
        seeds_of=seeds_of,
        many_seeds=len(table.seeds) > 1,
        conclusions=known,
        undecided=UNDECIDED,
        groups=[_group(table, group) for group in table.groups],
        other_noise=", except where evaluation.seed differs" if len(noise) > len({seed for seed, _ in noise}) else "",
        contrast=families,
        nearest=nearest,
        plots=[(title, grouped(some, lambda plot: plot.heading)) for title, some in plots if some],
        figure=partial(figure, rows={row.number: label(row) for row in table.rows}),
        legend=legend,
        swatch=swatch,
        palette=list(zip(LIGHT, DARK, strict=True)),
        unfinished=unfinished[:MOST_LINES],
        more_unfinished=and_more(len(unfinished)),
        skipped=gathered.skipped,
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        command=command,
        data=_script_json(
            {
                "rows": {number: data for group in table.groups for number, data in _rows_data(group, drawn)},
                "shown": shown,
                "preview": [] if shown else [row.number for row in table.rows[:_MOST_PREVIEWED]],
                "nearest": [one.sprite for one in nearest],
                "contrast": [
                    {"samples": drawn.get(one.cell.run.path), "interpolation": way}
                    for one, way in zip(families, ways, strict=True)
                ],
            }
        ),
        css=Markup((_FOLDER / "report.css").read_text()),
        js=Markup((_FOLDER / "report.js").read_text()),
        plotly=Markup(gzip.decompress((_FOLDER / "plotly-basic.min.js.gz").read_bytes()).decode()),
    )


def _facts(gathered: Gathered, table: Table) -> list[str]:
    cells, models = len(gathered.cells), len({cell.model.path for cell in gathered.cells if cell.given is None})
    facts = [f"{len(gathered.done)} of {cells} cells scored", f"{models} model{'s' if models != 1 else ''}"]
    if table.seeds:
        facts.append(f"seeds {', '.join(table.seeds)}")
    return facts


def _group(table: Table, group: Group) -> dict[str, Any]:
    first, *others = notes(group, group.measures)
    return {
        "places": distinguishing(group.rows),
        "notes": [first, *alike(table, group), *others],
        "has_floor": has_floor(group),
        "columns": columns(group),
        "rows": group.rows,
        "marked": group.marked,
        "protocol": [(name.replace("_", " "), value) for name, value in flat(group.protocol, " ").items()],
    }


def _rows_data(group: Group, drawn: Mapping[Path, Sprite | None]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Data of each row for the script: its name, its main value, and its samples by seed."""
    main = next((column for column in columns(group) if column.floor), None)
    for row in group.rows:
        pictures = {cell.seed: drawn.get(cell.run.path) for cell in row.done}
        shown = [{"seed": seed, **asdict(one)} for seed, one in pictures.items() if one is not None]
        value = ""
        if main is not None and main.measure.name in row.values:
            value = f"{main.measure.label} {main.entry(row, set()).text}"
        yield row.number, {"label": label(row), "value": value, "pictures": shown}


def _shown_first(table: Table, decided: bool) -> list[int]:
    """Rows that are chosen initially: a single row; the best, the median and the worst by the first distance if a comparison is
    decided; else none."""
    distance = table.groups[0].distance if table.groups else None
    if not decided or distance is None:
        return [row.number for row in table.rows if len(table.rows) == 1]
    name = distance.name
    rows = sorted((r for r in table.groups[0].rows if name in r.values), key=lambda r: r.values[name].mean)
    return [row.number for row in dict.fromkeys([rows[0], rows[len(rows) // 2], rows[-1]])]


def _script_json(content: Any) -> Markup:
    """JSON that cannot close the script element around it."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=asdict)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
