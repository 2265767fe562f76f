"""Which weights of earlier moments no score, no guidance and no training has used."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial

from diffusion_lab.foreign import RunError
from diffusion_lab.lock import is_held
from diffusion_lab.pruning.models import Found, Place, fingerprint_of, model_of
from diffusion_lab.pruning.unused import Unused
from diffusion_lab.runs import ModelDirectory
from diffusion_lab.runs.contents import snapshot_name
from diffusion_lab.runs.directory import plain_files
from diffusion_lab.runs.places import run_directory, sweeps_in

_MOMENT = re.compile(r"\bmoment: ([\w.+-]+)$", re.MULTILINE)
_USUAL = "Autoguidance"  # in the name of a class that has a moment of its own where the config says none


def unused_snapshots(found: Found) -> list[Unused]:
    """Of models that are finished and stay. None of a model with a cell of a sweep that is not scored yet."""
    unused = []
    for model in found.models:
        ours = fingerprint_of(model) and not any(path.is_symlink() for path in (model.path, model.path.parent))
        if not (ours and model.finished) or model.retraining.path.exists() or not _may_go(model, found):
            continue
        used = _used(model, found)
        files = [] if used is None else [file for file in plain_files(model.snapshots) if file.stem not in used]
        still = partial(_may_go, model, found)
        unused += [
            Unused(file, "no score, guidance or training used it", [file], home=model.path, still=still)
            for file in sorted(files)
        ]
    return unused


def _used(model: ModelDirectory, found: Found) -> set[str] | None:
    """Names of the weights that scores of this model, guidances by it and trainings from it name; None: any of them may be."""
    configs = [found.config(run) for run in found.runs if model_of(run.path.name) == model.path.name]
    everything: list[Place] = [*found.models, *found.runs]
    configs += [text for text in map(found.config, everything) if model.path.name in text]
    moments = [(moment, text) for text in configs for moment in _MOMENT.findall(text)]
    if any(moment == "null" and _USUAL in text for moment, text in moments):
        return None
    texts = [*configs, *found.scores(model)]  # a weights: at_0.2 of a config, a "weights": "at_0.2" of a score
    named = {name for name in model.weight_names if any(re.search(rf': "?{re.escape(name)}\b', text) for text in texts)}
    return named | {name for moment, _ in moments for name in _weights_at(moment)}


def _weights_at(moment: str) -> list[str]:
    """Name of the weights of a moment as a config says it: 0.2, 2m; none for null and for what is no moment."""
    for read in (float, str):
        with suppress(ValueError):
            return [snapshot_name(read(moment))]
    return []


def _may_go(model: ModelDirectory, found: Found) -> bool:
    """Whether no process works on the model, and each of its cells in a sweep has its score."""
    cells = []
    for sweep in sweeps_in(found.outputs):
        try:
            cells += sweep.read_sweep()["cells"]
        except RunError:  # it is not known which cells it has
            return False
    runs = [run_directory(found.outputs, cell["run"]) for cell in cells if cell["model"] == model.path.name]
    own = [run for run in found.runs if model_of(run.path.name) == model.path.name]
    return all(run.metrics.is_file() for run in runs) and not any(is_held(run.path) for run in own)
