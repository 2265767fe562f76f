"""The model card of an exported model, in Markdown: use, data, recipe and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_LICENCES = {  # of a data set, by name, as its authors state
    "digits": "CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI)",
    "mnist": "CC BY-SA 3.0 (Y. LeCun, C. Cortes)",
    "fashion_mnist": "MIT (Zalando)",
    "cifar10": "the authors name none",
    "cifar100": "the authors name none",
    "celeba": "for non-commercial research only; the images belong to their owners",
    "emoji": "Apache-2.0 (Google, Noto Emoji) and CC BY 4.0 (Twitter and contributors, Twemoji)",
    "imagenet64": "for non-commercial research and education only",
}
_UNKNOWN = "not known to diffusion_lab: add it here before you publish the model"
_MOST_RUNS = 3


def card(
    name: str,
    data: Mapping[str, Any],
    choices: Mapping[str, str | None],
    training: Mapping[str, Any],
    weights: str,
    protocol: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    use: str,
    library: str,
) -> str:
    """README.md of an exported model.

    name: of its folder. data: name, shape, identity. choices: of each group. training: the content of training.json. weights: their
    name. protocol: of the model. runs: its scores, as from `read_score`. use: instructions in Markdown. library: the library that
    reads the export.
    """
    shape, source = "×".join(map(str, data["shape"])), data["name"]
    origin, left = training.get("imported"), len(runs) - _MOST_RUNS
    version = training.get("versions", {}).get("diffusion_lab", "of an unknown version")
    if origin is None:
        made = f"{training['steps']} steps, {training['images']} images, {training['seconds']:.0f} seconds."
    else:
        file, code, digest = origin["file"], origin["code"], origin["sha256"]
        made = f"Imported from `{file}` ({code}), SHA-256 `{digest}`; its training was not recorded."
    identity = f"\nSHA-256 of its content: `{data['identity']}`." if data["identity"] else ""
    scores = "\n".join(map(_score, runs[:_MOST_RUNS])) or "It has not been scored yet: run `diffusion-lab evaluate`."
    return f"""---
library_name: {library}
pipeline_tag: unconditional-image-generation
tags:
- diffusion_lab
- {protocol["family"]}
license: unknown
---

# {name}

A {protocol["family"]} model of {f"`{source}`" if source else "unnamed data"} ({shape}),
{"imported by" if origin else "trained with"} diffusion_lab {version}.
These are the weights `{weights}`.

## Use

{use}

## Data

{f"`{source}`" if source else "Not named"}, samples of {shape}. Licence of the data: {_LICENCES.get(source, _UNKNOWN)}.{identity}

## Recipe

{made}
Fingerprint of the training: `{training["fingerprint"]}`.

{_table(("choice", "is"), [(f"`{key}`", f"`{value}`") for key, value in choices.items() if value])}

{_table(("part", "as it is exported"), [(key, f"`{value}`") for key, value in protocol.items()])}

## Scores

{scores}
{f"{left} more scores are not shown." if left > 0 else ""}
"""


def _score(run: Mapping[str, Any]) -> str:
    protocol = run["protocol"]
    model, samples = protocol.get("model", {}), protocol.get("samples", {})
    rows = [
        (
            f"`{measure.name}`",
            f"{run['values'][measure.name]:.{measure.decimals}f} {measure.unit}".strip(),
            measure.detail or measure.meaning,
        )
        for measure in run["measures"]
        if measure.name in run["values"]
    ]
    return f"""Weights `{protocol.get("weights")}`, sampler `{model.get("sampler", "its own")}`,
guidance `{model.get("guidance", "none")}`; {samples.get("num_images")} samples of seed {samples.get("seed")}
against `{json.dumps(protocol.get("reference"))}`:

{_table(("measure", "value", "meaning"), rows)}
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    written = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, ["---"] * len(head), *rows)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in written)
