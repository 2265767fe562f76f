"""The card of a model, Markdown that a hub shows: what it is, what it was trained on and how, what it scored, how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.store.measures import read_measures

_LICENCES = {  # of a data set, by name: what its authors say
    "digits": "CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI)",
    "mnist": "CC BY-SA 3.0 (Y. LeCun, C. Cortes)",
    "fashion_mnist": "MIT (Zalando)",
    "cifar10": "the authors name none",
    "cifar100": "the authors name none",
    "celeba": "for non-commercial research only; the images belong to their owners",
    "imagenet64": "for non-commercial research and education only",
}
_UNKNOWN = "not known to diffusion_lab: add it here before you publish the model"
_MOST_RUNS = 3


@dataclass(frozen=True)
class About:
    """What a card says of a model.

    name: of its folder. data: name, shape, identity. choices: of each group. training: what training.json holds. weights: their
    name. protocol: of the model. runs: metrics.json of its scores. use: how the exported files are used, Markdown.
    """

    name: str
    data: Mapping[str, Any]
    choices: Mapping[str, str | None]
    training: Mapping[str, Any]
    weights: str
    protocol: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    use: str
    version: str
    library: str


def card(about: About) -> str:
    """README.md of an exported model."""
    shape = "×".join(map(str, about.data["shape"]))
    data, identity = about.data["name"], about.data["identity"]
    training = about.training
    lines = [
        "---",
        f"library_name: {about.library}",
        "pipeline_tag: unconditional-image-generation",
        "tags:",
        "- diffusion_lab",
        f"- {about.protocol['family']}",
        "license: unknown",
        "---",
        "",
        f"# {about.name}",
        "",
        f"A {about.protocol['family']} model of {f'`{data}`' if data else 'unnamed data'} ({shape}),",
        f"{_made(training)} diffusion_lab {about.version}.",
        f"These are the weights `{about.weights}`.",
        "",
        "## Use",
        "",
        about.use,
        "",
        "## Data",
        "",
        f"{f'`{data}`' if data else 'Not named'}, samples of {shape}. Licence of the data: {_LICENCES.get(data, _UNKNOWN)}.",
        *([f"SHA-256 of its content: `{identity}`."] if identity else []),
        "",
        "## Recipe",
        "",
        _training(training),
        f"Fingerprint of the training: `{training['fingerprint']}`.",
        "",
        *_table(("choice", "is"), [(f"`{key}`", f"`{value}`") for key, value in about.choices.items() if value]),
        "",
        *_table(("part", "as it is exported"), [(key, f"`{value}`") for key, value in about.protocol.items()]),
        "",
        "## Scores",
        "",
        *(_scores(about.runs[:_MOST_RUNS]) or ["It has not been scored yet: run `diffusion-lab evaluate`."]),
    ]
    left = len(about.runs) - _MOST_RUNS
    return "\n".join([*lines, *([f"{left} more scores are not shown."] if left > 0 else []), ""])


def _made(training: Mapping[str, Any]) -> str:
    return "imported by" if training.get("imported") else "trained with"


def _training(training: Mapping[str, Any]) -> str:
    """What it took, or, of an imported model, where it is from."""
    origin = training.get("imported")
    if origin is None:
        return f"{training['steps']} steps, {training['images']} images, {training['seconds']:.0f} seconds."
    return f"Imported from `{origin['file']}` ({origin['code']}), SHA-256 `{origin['sha256']}`; its training was not recorded."


def _scores(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for run in runs:
        protocol = run["protocol"]
        samples, reference = protocol["samples"], protocol["reference"]
        lines += [
            f"Weights `{protocol['weights']}`, sampler `{protocol['model'].get('sampler', 'its own')}`,",
            f"guidance `{protocol['model'].get('guidance', 'none')}`; {samples['num_images']} samples of seed {samples['seed']}",
            f"against `{json.dumps(reference)}`:",
            "",
            *_table(("measure", "value", "meaning"), _values(run)),
            "",
        ]
    return lines


def _values(run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    known = [measure for measure in read_measures(run) if measure.name in run["values"]]
    return [
        (
            f"`{measure.name}`",
            f"{run['values'][measure.name]:.{measure.decimals}f} {measure.unit}".strip(),
            measure.detail or measure.meaning,
        )
        for measure in known
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    written = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, ["---"] * len(head), *rows)
    ]
    return [f"| {' | '.join(row)} |" for row in written]
