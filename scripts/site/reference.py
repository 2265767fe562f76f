"""The reference of commands and of the values of metrics.json, out of what the package says of itself."""

from collections.abc import Iterable
from pathlib import Path

import yaml
from hydra.utils import get_class

from diffusion_lab.commands.main import COMMANDS
from diffusion_lab.conf_dir import CONF
from diffusion_lab.metrics.features.self_supervised import SelfSupervisedFeatures
from diffusion_lab.metrics.metric import Metric, Naming

from .configs import options

FEATURES = (Naming("digits_ssl", "fd_digits_ssl", kind=SelfSupervisedFeatures.kind),)


def commands(conf: Path) -> str:
    """Every command: what it does, an example, its own options."""
    parts = [
        "# Commands",
        "",
        "`diffusion-lab <command> --help` prints choices and main options, `--help sampler` those of a group. Options are written",
        "`option=value`. `--cfg job` prints the whole config. This page lists the options that belong to the command itself.",
        "",
    ]
    for name in COMMANDS:
        for file in sorted(conf.glob(f"{name}*.yaml")):
            parts += _command(file)
    return "\n".join(parts)


def _command(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    said = yaml.safe_load(text)["hydra"]["help"]
    title, _, what = said["header"].partition(": ")
    example, _, more = said["footer"].partition("   ")
    return [f"## {title}", "", _sentence(what), "", f"    {example}", "", _sentence(more), "", options(text), ""]


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]


def measures() -> str:
    """Every value that a metric of the package may write into metrics.json, as the metric describes it."""
    parts = [
        "# Values of metrics.json",
        "",
        "`metrics.json` has `values` (name: number), `protocol` (how they were measured), `measures` (what each means, as below)",
        "and `curves`. A value that could not be measured is left out, and `protocol.absent` gives the reason. The names below are",
        "those of the first features, here `digits_ssl`. Values of further features end in their name (`precision_digits_cnn`). A",
        "Fréchet distance is called `fd_<features>`, or `fid` with the original Inception-v3. Two values may be ranked only if the",
        "parts of the protocol in the last column are equal.",
        "",
    ]
    for metric in _metrics():
        rows = list(metric.measures(FEATURES))
        first = " ".join((type(metric).__doc__ or "").split("\n\n")[0].split())
        table = ["| value | better | unit | meaning | must agree |", "|---|---|---|---|---|"]
        better = {"lower": "lower", "higher": "higher", None: ""}
        table += [
            f"| `{row.name}` | {better[row.better]} | {row.unit} | {_cell(row.meaning)} | {', '.join(row.agrees)} |"
            for row in rows
        ]
        parts += [f"## {type(metric).__name__}", "", _cell(first), "", *table, ""]
    return "\n".join(parts)


def _metrics() -> Iterable[Metric]:
    for file in sorted((CONF / "metrics").glob("*.yaml")):
        for node in yaml.safe_load(file.read_text(encoding="utf-8")).values():
            if "_target_" in node:
                yield get_class(node["_target_"])()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
