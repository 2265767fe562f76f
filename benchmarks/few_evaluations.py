"""docs/few_evaluations.png from results/*.csv: distances of flow maps, diffusion and GANs by number of evaluations."""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import mean

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from tables import ROOT, scores

NAMES = {
    "diffusion": "diffusion (U-Net)",
    "eulerian": "Eulerian",
    "lagrangian": "Lagrangian",
    "progressive": "progressive",
    "consistency": "consistency",
    "distillation": "progressive, distilled",
    "gan": "GAN",
}
PANELS = (
    ("ten_minutes", "fd_fashion_ssl", "Fashion-MNIST, ten minutes"),
    ("sixty_minutes", "fd_fashion_ssl", "Fashion-MNIST, an hour"),
    ("emoji/ten_minutes", "fd_emoji_ssl", "Emoji, ten minutes"),
    ("ten_minutes", "fd_pixels", "Fashion-MNIST, ten minutes"),
    ("sixty_minutes", "fd_pixels", "Fashion-MNIST, an hour"),
    ("emoji/ten_minutes", "fd_pixels", "Emoji, ten minutes"),
)


def values(folder: str, measure: str) -> dict[str, dict[int, list[float]]]:
    """By recipe and number of evaluations, one value a seed."""
    found: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for (study, recipe), rows in scores().items():
        name = re.fullmatch(rf"{folder}/(\w+?)(?:_(\d+))?", recipe)
        if name and (study, recipe) == ("networks", f"{folder}/unet"):
            found["diffusion"][25] = [float(row[measure]) for row in rows]
        elif name and study == "few_evaluations":
            found[name[1]][int(name[2] or 1)] = [float(row[measure]) for row in rows]
    return found


def draw(axes: Axes, folder: str, measure: str, title: str) -> None:
    found = values(folder, measure)
    for index, name in enumerate(NAMES):
        if name not in found:
            continue
        steps = sorted(found[name])
        marker, size = ("*", 12) if name == "gan" else ("o", 4)
        means = [mean(found[name][n]) for n in steps]
        axes.plot(steps, means, color=f"C{index}", label=NAMES[name], marker=marker, markersize=size)
        for n in steps:
            axes.plot([n] * len(found[name][n]), found[name][n], ".", color=f"C{index}", markersize=3, alpha=0.5)
    axes.set(xscale="log", yscale="log", title=title, xlabel="evaluations", ylabel=measure, xticks=[1, 2, 4, 8, 25])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def main() -> None:
    figure, panels = plt.subplots(2, 3, figsize=(12, 7.5), layout="constrained")
    for axes, panel in zip(panels.flat, PANELS, strict=True):
        draw(axes, *panel)
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(NAMES), frameon=False
    )
    figure.savefig(ROOT / "docs" / "few_evaluations.png", dpi=110)


if __name__ == "__main__":
    main()
