"""Which weights of earlier moments no score, no guidance and no training has used."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial

from diffusion_lab.foreign import RunError
from diffusion_lab.pruning.models import Found, Names, Place, fingerprint_of
from diffusion_lab.pruning.unused import Unused
from diffusion_lab.runs import ModelDirectory
from diffusion_lab.runs.contents import snapshot_name
from diffusion_lab.runs.places import run_directory, sweeps_in
from diffusion_lab.store.lease import is_held
from diffusion_lab.written import is_ours

_MOMENT = re.compile(r"\bmoment: ([\w.+-]+)$", re.MULTILINE)
_ANY = ""  # no folder is called so
_USUAL = "Autoguidance"  # in the name of a class that has a moment of its own where the config says none


def unused_snapshots(found: Found) -> list[Unused]:
    """Of models that are finished and stay. None of a model with a cell of a sweep that is not scored yet."""
    unused = []
    cells, naming = _cells(found), _naming(found)
    for model in found.models:
        ours = fingerprint_of(model) and not any(path.is_symlink() for path in (model.path, model.path.parent))
        if not (ours and model.finished) or model.retraining.path.exists() or not _may_go(model, found, cells):
            continue
        used = _used(model, found, naming.get(model.path.name, []))
        files = [] if used is None else [file for file in model.snapshots if file.stem not in used and is_ours(file)]
        still = partial(_may_go, model, found)
        unused += [
            Unused(file, "no score, guidance or training used it", [file], home=model.path, still=still)
            for file in sorted(files)
        ]
    return unused


def _naming(found: Found) -> dict[str, list[str]]:
    """Name of a model -> configs that name it."""
    names = Names(model.path.name for model in found.models)
    naming: dict[str, list[str]] = {}
    everything: list[Place] = [*found.models, *found.runs]
    for text in map(found.config, everything):
        for name in names.within([text]):
            naming.setdefault(name, []).append(text)
    return naming


def _used(model: ModelDirectory, found: Found, naming: list[str]) -> set[str] | None:
    """Names of the weights that scores of this model, guidances by it and trainings from it name; None: any of them may be."""
    configs = [*map(found.config, found.runs_of(model)), *naming]
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


def _may_go(model: ModelDirectory, found: Found, cells: dict[str, set[str]] | None = None) -> bool:
    """Whether no process works on the model, and each of its cells in a sweep has its score. cells: `_cells`, if known already."""
    cells = _cells(found) if cells is None else cells
    runs = [run_directory(found.outputs, run) for name in (model.path.name, _ANY) for run in cells.get(name, ())]
    return all(run.metrics.is_file() for run in runs) and not any(is_held(run.path) for run in found.runs_of(model))


def _cells(found: Found) -> dict[str, set[str]]:
    """Name of a model -> names of its cells in sweeps; if a sweep cannot be read, any model may have a cell without a score."""
    cells: dict[str, set[str]] = {}
    for sweep in sweeps_in(found.outputs):
        try:
            for cell in sweep.read_sweep()["cells"]:
                cells.setdefault(cell["model"], set()).add(cell["run"])
        except RunError:
            cells.setdefault(_ANY, set()).add(_ANY)
    return cells
