"""Results -> a table with spreads over seeds, and a figure of distance against minutes or steps of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from contenders.contender import END
from contenders.job import COPIES, OWN, SHARED


@dataclass(frozen=True)
class Row:
    """The results of one contender at one budget: one a seed."""

    name: str
    results: Sequence[dict]

    @property
    def budget(self) -> float:
        """Minutes of training, or steps where these were given."""
        asked = self.results[0]["asked"]
        return asked.get("training_steps") or asked["minutes"]

    def values(self, sampler: str, key: str, moment: float = END) -> list[float]:
        return [
            score[key]
            for result in self.results
            for score in result["scores"]
            if (score["moment"], score["sampler"]) == (moment, sampler)
        ]

    @property
    def moments(self) -> list[float]:
        return [*sorted(self.results[0]["asked"]["moments"]), END]


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a contender and budget, the best by the first measure first."""
    measures = list(rows[0].results[0]["floors"])
    samplers = [(sampler, name) for name in (*measures, COPIES) for sampler in (SHARED, OWN)]
    heads = ["contender", _unit(rows), "seeds", "parameters", "steps × images"]
    heads += [f"`{name}`, {sampler}" for sampler, name in samplers]
    heads += ["evaluations, own", "s per 1000, shared", "own"]
    lines = []
    for row in sorted(
        rows, key=lambda row: (row.results[0]["asked"]["minutes"], mean(row.values(SHARED, measures[0])))
    ):
        first = row.results[0]
        steps = spread([result["steps"][f"{END:g}"] for result in row.results], "{:.0f}")
        cells = [row.name, f"{row.budget:g}", f"{len(row.results)}", f"{first['parameters']:,}"]
        cells += [f"{steps} × {first['batch_size']}"]
        cells += [spread(row.values(sampler, name), "{:.2f}") for sampler, name in samplers]
        cells += [f"{row.values(OWN, 'evaluations')[0]:g}"]
        cells += [spread(row.values(sampler, "seconds_per_1000"), "{:.0f}") for sampler in (SHARED, OWN)]
        lines.append(cells)
    asked, floors = rows[0].results[0]["asked"], rows[0].results[0]["floors"]
    said = ", ".join(f"`{name}` {value:.2f}" for name, value in floors.items())
    ruled = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines)]
    time = "CPU time of one process over its threads" if asked["device"] == "cpu" else "time on one GPU"
    about = (
        f"n = {asked['samples']}, {asked['num_steps']} steps (shared: DDIM), floors {said}; {asked['threads']} thread(s), {time}; "
        "mean over seeds (min to max)."
    )
    return "\n".join([*ruled, "", about])


def _unit(rows: Sequence[Row]) -> str:
    return "steps" if rows[0].results[0]["asked"].get("training_steps") else "minutes"


def spread(values: Sequence[float], form: str) -> str:
    """mean (min to max), or the one value."""
    said = form.format(mean(values))
    return said if len(values) == 1 else f"{said} ({form.format(min(values))} to {form.format(max(values))})"


def figure(rows: Sequence[Row], file: Path) -> None:
    """A panel a measure. Filled marks and lines: the shared sampler, along the moments of one training; hollow: its own sampler.

    A moment before the end has not seen its learning rate fall: what a training of that length would reach lies below.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    first = rows[0].results[0]
    names = list(first["floors"])
    order = list(dict.fromkeys(row.name for row in rows))
    look = _looks(order)
    drawing, panels = pyplot.subplots(1, len(names), figsize=(5 * len(names) + 2, 5), sharex=True, layout="constrained")
    for panel, name in zip(panels, names, strict=True):
        for row in rows:
            minutes = [row.budget * moment for moment in row.moments]
            found = [row.values(SHARED, name, moment) for moment in row.moments]
            style = look(row.name)
            panel.errorbar(minutes, *_bars(found), capsize=2, markersize=5, linewidth=1.3, **style)
            own = style | {"linestyle": "none", "markerfacecolor": "white"}
            panel.errorbar([row.budget * 1.03], *_bars([row.values(OWN, name)]), capsize=2, markersize=7, **own)
        floor = first["floors"][name]
        panel.axhline(floor, color="grey", linestyle=":", linewidth=1)
        panel.text(0.01, floor, " floor", color="grey", va="bottom", fontsize=8, transform=panel.get_yaxis_transform())
        panel.set(yscale="log", xlabel=f"{_unit(rows)} of training", ylabel=name)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    seeds = max(len(row.results) for row in rows)
    asked = first["asked"]
    drawing.suptitle(
        f"{asked['data']}, n = {asked['samples']}, {asked['num_steps']} steps, {seeds} seed(s)", fontsize=10
    )
    handles = [pyplot.Line2D([], [], markersize=5, **look(name)) for name in order]
    handles.append(pyplot.Line2D([], [], color="black", marker="o", linestyle="none", markerfacecolor="white"))
    drawing.legend(handles, [*order, "its own sampler"], loc="outside right center", fontsize=8, frameon=False)
    drawing.savefig(file, dpi=130)
    pyplot.close(drawing)


def _bars(found: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Means, and how far the seeds reach below and above them."""
    means = [mean(values) for values in found]
    below = [middle - min(values) for middle, values in zip(means, found, strict=True)]
    above = [max(values) - middle for middle, values in zip(means, found, strict=True)]
    return means, [below, above]


def _looks(order: Sequence[str]) -> Callable[[str], dict]:
    """A colour a library, a mark a width, a dash a setting."""
    colours = ("#0072b2", "#d55e00", "#009e73", "#b85c99")
    libraries = list(dict.fromkeys(name.rsplit("-", 2)[0] for name in order))

    def look(name: str) -> dict:
        return {
            "color": colours[libraries.index(name.rsplit("-", 2)[0]) % len(colours)],
            "marker": "s" if "-32-" in name else "o",
            "linestyle": "--" if name.endswith("-shipped") else "-",
        }

    return look
