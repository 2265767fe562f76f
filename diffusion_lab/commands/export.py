"""diffusion-lab export: write a trained model as a diffusers pipeline, or as a program of torch.export, with a model card.

A new folder appears as a whole or not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from diffusion_lab.conditions.units import Units
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.config.naming import differences_of, other_models
from diffusion_lab.config.sample_options import chosen_module, with_measurements
from diffusion_lab.interop.card import card
from diffusion_lab.interop.program import to_program
from diffusion_lab.interop.to_diffusers import to_diffusers
from diffusion_lab.models.generator import Generator
from diffusion_lab.report.read import read_score
from diffusion_lab.store import RunError, runs_folder, scored_runs
from diffusion_lab.store.files import begin_folder, whole_folder
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.terminal import Terminal

Exported = tuple[dict[str, bytes], str, str]  # files; how to use them; the library that reads them


def run(cfg: DictConfig) -> None:
    """Write the folder `to`, and print its files."""
    if cfg.format not in _FORMATS:
        raise MistakeError(f"format={cfg.format}: unknown format; choose one of {', '.join(_FORMATS)}")
    with users_mistakes():
        check_at_least(1, cfg, "batch_size")
    to = Path(cfg.to)
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise MistakeError(f"to={to} already exists and is not overwritten; choose another folder")
    directory, saved, _, weights, generator = chosen_module(cfg)
    for line in differences_of([directory, *other_models(saved)]):
        Terminal().print(line)
    with torch.no_grad(), users_mistakes():
        generator = with_measurements(generator, cfg, saved, directory, weights)
        files, use, library = _FORMATS[cfg.format](generator, cfg.batch_size)
        training, choices = directory.read_training(), directory.read_choices()
        files["README.md"] = card(
            name=directory.path.name,
            data={"name": choices.get("data"), "shape": list(saved.facts.shape), "identity": saved.facts.identity},
            choices=choices,
            training=training,
            weights=weights,
            protocol=generator.protocol(),
            runs=[
                run
                for run in _scores(Path(cfg.outputs))
                if run["protocol"].get("fingerprint") == training["fingerprint"]
            ],
            use=use + _about_clusters(training.get("conditions", {})) + _about_units(saved.facts),
            library=library,
        ).encode()
    with whole_folder(to) as staged:
        for name, content in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
        begin_folder(staged, "export", files)
    Terminal().print(f"{directory.path} ({weights}) as {cfg.format}: {to}  ({', '.join(files)})")


def _scores(outputs: Path) -> Iterator[Mapping[str, Any]]:
    """The content of each metrics.json; invalid ones are reported and skipped."""
    for run in scored_runs(runs_folder(outputs)):
        try:
            yield read_score(run)
        except RunError as error:
            print(f"not in the card: {error}", file=sys.stderr)


def _about_clusters(conditions: Mapping[str, Any]) -> str:
    found = [record["shares"] for record in conditions.values() if "shares" in record]
    if not found:
        return ""
    (shares, *_) = found
    listed = ", ".join(f"{share:.4f}" for share in shares)
    return (
        f"\n\nThe model is conditioned on {len(shares)} clusters of its training images, not on classes of the data. Samples are "
        f"like the data if clusters 0 … {len(shares) - 1} are drawn in these shares: {listed}."
    )


def _about_units(facts: Mapping[str, Any]) -> str:
    if (units := Units.of(facts)) is None:
        return ""
    channels = "\n".join(
        f"- {name}: x = {shift:g} + {scale:g}·z"
        for name, shift, scale in zip(units.names or count(), units.shift, units.scale, strict=False)
    )
    return f"\n\nThe model draws normalised values z. In the units of the data a sample is, by channel,\n\n{channels}"


def _diffusers(generator: Generator, batch_size: int) -> Exported:
    labels = "" if generator.num_classes is None else "class_labels=0, guidance_scale=2.0, "
    use = f"""```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)  # runs pipeline.py of this folder
images = pipeline(batch_size=4, {labels}num_inference_steps=50).images
```

The pipeline samples with DDIM. The network alone is `pipeline.network`."""
    return to_diffusers(generator), use, "diffusers"


def _program(generator: Generator, batch_size: int) -> Exported:
    program = to_program(generator, batch_size)
    made = "\n".join(
        f"y = torch.zeros({', '.join(map(str, shape))}, dtype=torch.int64)"
        if name == "y"
        else f"{name} = torch.randn({', '.join(map(str, shape))})"
        for name, shape in program.inputs.items()
    )
    use = f"""```python
import torch

draw = torch.export.load("sampler.pt2").module()
{made}
images = draw({", ".join(program.inputs)})  # float32 in [−1, 1]
```"""
    return {"sampler.pt2": program.content}, use, "pytorch"


_FORMATS: dict[str, Callable[..., Exported]] = {"diffusers": _diffusers, "program": _program}
