"""Adds scores to results/*.csv: runs of `diffusion-lab`, or what `quality.py` left in its folder.

    python benchmarks/record.py one_commit with_labels/gan outputs/runs/… --command 'diffusion-lab train …' --machine 'AMD EPYC'
    python benchmarks/record.py peers test_images quality/10-minutes/*/* --command 'python benchmarks/quality.py …' --machine …

A score that is there already, with the same study, recipe, seed and draw, is replaced.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from tables import RESULTS, ROOT, Row, key, rows

# Column: where a score's protocol states it.
PROTOCOL = {
    "family": "model.family",
    "labels": "samples.labels",
    "clusters": "classes",
    "schedule": "model.schedule",
    "prediction": "model.prediction",
    "variance": "model.variance",
    "decoder": "model.decoder",
    "guidance": "model.guidance",
    "sampler": "model.sampler",
    "start": "model.start",
    "rounding": "model.rounding",
    "regularizer": "model.regularizer",
    "adversarial_loss": "model.adversarial_loss",
    "weights": "weights",
    "precision_of_samples": "samples.precision",
    "samples": "samples.num_images",
    "samples_seed": "samples.seed",
    "reference": "reference.split",
    "reference_images": "reference.num_images",
    "data_identity": "data.identity",
    "bound": "bound.kind",
    "bound_images": "bound.num_images",
    "bound_terms": "bound.num_terms",
    "bound_seed": "bound.seed",
    "threads": "cost.threads",
    "model": "model_directory",
}
# What no page quotes: intervals of shares, shares by pixels, the kernel distance, the coverage of classes, what others imply.
_LEFT_OUT = re.compile(
    r"(precision|recall|accuracy).*_(low|high|pixels)$|^(kd_|class|peak_memory|flops|training_images|bits_(?!per_dim))"
)
_BY_STEPS = re.compile(r"bits_(?P<spacing>even|quadratic|log_snr|optimal)_(?P<steps>\d+)")


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def of_run(folder: Path) -> Iterator[tuple[str, Row, dict[str, dict[str, list[float]]]]]:
    """(the rest of the recipe's name, the row, its blocks) of a run of `diffusion-lab`."""
    score = json.loads((folder / "metrics.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    protocol = dict(flat(score["protocol"]))
    row = {column: _text(protocol.get(name)) for column, name in PROTOCOL.items()}
    row["data_identity"] = row["data_identity"][:12]
    row |= {name: _text(value) for name, value in score["values"].items()}
    row |= {
        "seed": str(config["seed"]),
        "data": protocol["data.name"],
        "versions": f"torch {protocol['versions.torch']}",
    }
    row.setdefault("training_steps", _text(config["trainer"]["max_steps"]))
    yield "", row, score.get("sources", {})


def of_quality(folder: Path) -> Iterator[tuple[str, Row, dict[str, dict[str, list[float]]]]]:
    """The same of a contender: a row a sampler, at the end of its training."""
    result = json.loads((folder / "result.json").read_text())
    asked, versions = result["asked"], result["versions"]
    for score in (score for score in result["scores"] if score["moment"] == 1):
        known = {"moment", "sampler", "evaluations", "seconds_per_1000"}
        row = {name: _text(value) for name, value in score.items() if name not in known}
        row |= {f"{name}_floor": _text(value) for name, value in result["floors"].items()}
        row |= {"nfe": _text(score["evaluations"]), "seconds_per_1000_samples": _text(score.get("seconds_per_1000"))}
        row |= {"parameters": _text(result["parameters"]), "training_steps": _text(result["steps"]["1"])}
        row |= {"seed": str(asked["seed"]), "samples": str(asked["samples"])}
        row["samples_seed"] = str(asked.get("samples_seed", 0))
        row["reference"] = asked.get("reference", "test")
        row |= {
            "threads": str(asked["threads"]),
            "model": asked["ours"],
            "family": "diffusion",
            "sampler": score["sampler"],
        }
        peers = [
            f"{name} {version}" for name, version in versions.items() if "diffus" in name and name != "diffusion_lab"
        ]
        row |= {"data": asked["data"], "versions": ", ".join([f"torch {versions['torch']}", *peers])}
        yield f"/{asked['name']}/{score['sampler']}", row, {}


def about(command: str, machine: str) -> Row:
    """How a score was made, and in which commit it is recorded."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {"command": command, "commit": commit.stdout.strip(), "date": f"{date.today()}", "machine": machine}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def add(table: str, new: list[Row]) -> None:
    """The rows behind the others, in place of those of the same score; a column that is new stands before `versions`."""
    same = {(*key(row), *_what(row)) for row in new}
    kept = [row for row in rows(table) if (*key(row), *_what(row)) not in same]
    header = list((kept or new)[0])
    at = header.index("versions") if "versions" in header else len(header)
    header[at:at] = [name for name in dict.fromkeys(name for row in new for name in row) if name not in header]
    with (RESULTS / f"{table}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *new])


def _what(row: Row) -> tuple[str, ...]:
    """What else tells rows of one score apart: the measure and source of blocks, the spacing of bits by steps."""
    return tuple(row.get(column, "") for column in ("measure", "source", "spacing"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("recipe")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--command", required=True)
    parser.add_argument("--machine", required=True)
    options = parser.parse_args()
    for folder in options.folders:
        of = of_quality if (folder / "result.json").is_file() else of_run
        for name, found, sources in of(folder):
            row = {"study": options.study, "recipe": options.recipe + name, **found}
            row |= about(options.command, options.machine)
            score = dict(zip(("study", "recipe", "seed", "samples_seed"), key(row), strict=True))
            add(row.pop("data"), [{name: value for name, value in row.items() if value and not _LEFT_OUT.search(name)}])
            add(
                "blocks",
                [
                    score
                    | {"measure": measure, "source": source, "blocks": " ".join(f"{value:.4g}" for value in values)}
                    for measure, by_source in sources.items()
                    if measure.startswith(("fd_", "bits_")) and not measure.endswith("_infinity")
                    for source, values in by_source.items()
                ],
            )
            spacings: dict[str, Row] = {}
            for match, value in ((_BY_STEPS.fullmatch(name), value) for name, value in found.items()):
                if match:
                    spacings.setdefault(match["spacing"], score | {"spacing": match["spacing"]})[match["steps"]] = value
            add("bits_by_steps", list(spacings.values()))
    print(f"{len(options.folders)} folders are in {RESULTS}")


if __name__ == "__main__":
    main()
