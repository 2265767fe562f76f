"""Which models and scored cells something refers to: a sweep, the code of today, or the config of one that stays.

A sweep and a config refer to a folder by its name, anywhere in their text: a name that ends in a fingerprint is there for no other
reason. So the models that guide others count too, whatever option names them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from diffusion_lab.foreign import RunError, inside, read_bytes
from diffusion_lab.lock import is_held
from diffusion_lab.pruning.unused import Unused
from diffusion_lab.runs import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory
from diffusion_lab.runs.places import folders_of, models_in, runs_in, sweeps_in

Place = ModelDirectory | RunDirectory
# Whether the code of today, given the config in a folder, makes a training with this fingerprint (its first digits). RunError, in
# one sentence, where it is not known.
IsCurrent = Callable[[Place, str], bool]
_NAME = re.compile(rf"(.+)-([0-9a-f]{{{FINGERPRINT_LENGTH}}})")
_LARGEST = 2**26  # bytes


@dataclass(frozen=True)
class Found:
    """models, runs: those that stay. notes: a sentence on each that is kept because its code is not known."""

    outputs: Path
    models: list[ModelDirectory]
    runs: list[RunDirectory]
    unused_models: list[Unused]
    unused_runs: list[Unused]
    notes: list[str]

    def config(self, place: Place) -> str:
        """The text of its config; empty where there is none, which refers to nothing."""
        return _text_of(place, place.config)

    def score(self, run: RunDirectory) -> str:
        """The text of a cell's score; empty where there is none."""
        return _text_of(run, run.metrics)

    def scores(self, model: ModelDirectory) -> list[str]:
        """The texts of the scores of a model, of those that stay."""
        own = [self.score(run) for run in self.runs if model_of(run.path.name) == model.path.name]
        return [text for text in own if text]


def find(outputs: Path, is_current: IsCurrent) -> Found:
    """Look at every model and every cell. RunError if a sweep cannot be read, because then it is not known what it uses."""
    models = {model.path.name: model for model in models_in(outputs)}
    runs = {run.path.name: run for run in runs_in(outputs)}
    texts = _sweep_texts(outputs)
    notes = [
        f"{folder} is a link, which prune does not follow" for folder in folders_of(outputs) if folder.is_symlink()
    ]
    everything: list[Place] = [*models.values(), *runs.values()]
    busy = {name for place in everything if is_held(place.path) for name in _names(place)}

    def needed(place: Place) -> bool:
        return _is_none_of_ours(place) or place.path.name in busy or _is_named(place.path.name, texts)

    kept = {name for name, model in models.items() if needed(model) or _stays(model, is_current, notes)}
    kept_runs = {
        name
        for name, run in runs.items()
        if needed(run) or (model_of(name) not in models and _stays(run, is_current, notes))
    }
    while True:  # what stays may name more that stays
        kept_runs |= {name for name in runs if model_of(name) in kept}
        places: list[Place] = [*(models[name] for name in kept), *(runs[name] for name in kept_runs)]
        texts = [_text_of(place, place.config) for place in places]
        named = {name for name in models.keys() - kept if _is_named(name, texts)}
        if not named:
            break
        kept |= named
    still = partial(_is_unused_now, outputs=outputs)
    return Found(
        outputs=outputs,
        models=[model for name, model in models.items() if name in kept],
        runs=[run for name, run in runs.items() if name in kept_runs],
        unused_models=[_unused(model, _about(model), still) for name, model in models.items() if name not in kept],
        unused_runs=[
            _unused(run, "its model is listed too" if model_of(name) in models else "its model is gone", still)
            for name, run in runs.items()
            if name not in kept_runs
        ],
        notes=notes,
    )


def model_of(run: str) -> str:
    """Name of the model of the cell that is called so; of a folder that is no cell of ours its own."""
    named = _NAME.fullmatch(run)
    return named[1] if named else run


def fingerprint_of(model: ModelDirectory) -> str:
    """The first digits of its fingerprint, as its name says them; empty where it says none."""
    named = _NAME.fullmatch(model.path.name)
    return named[2] if named else ""


def _is_none_of_ours(place: Place) -> bool:
    """Whether a folder is called otherwise, is a link or lies behind one, or has nothing in it that we wrote."""
    linked = place.path.is_symlink() or place.path.parent.is_symlink()
    return _NAME.fullmatch(place.path.name) is None or linked or not place.files


def _stays(place: Place, is_current: IsCurrent, notes: list[str]) -> bool:
    """Whether a folder is kept that nothing refers to: it was made by today's code, or its code is not known."""
    try:
        if _is_of_given(place):
            return True
        recorded = _recorded(place)
        if recorded is None:
            return False
        renamed = isinstance(place, ModelDirectory) and recorded != fingerprint_of(place)
        return renamed or is_current(place, recorded)
    except RunError as error:
        notes.append(f"{place.path} is kept, because the code that trained it is not known: {error}")
        return True


def _is_of_given(place: Place) -> bool:
    """Whether a folder is the score of given images: it has no model, and our code cannot make them again."""
    if isinstance(place, ModelDirectory) or not place.metrics.is_file():
        return False
    protocol = place.read_metrics().get("protocol")
    samples = protocol.get("samples") if isinstance(protocol, dict) else None
    return isinstance(samples, dict) and "given" in samples


def _recorded(place: Place) -> str | None:
    """The first digits of the fingerprint of a model, or of a cell's model; None: nothing has come of it."""
    if isinstance(place, RunDirectory):
        if not place.metrics.is_file():
            return None
        protocol = place.read_metrics().get("protocol")
        fingerprint = protocol.get("fingerprint") if isinstance(protocol, dict) else None
        if not isinstance(fingerprint, str):
            raise RunError(f"{place.metrics} does not name its training")
        return fingerprint[:FINGERPRINT_LENGTH]
    if place.finished:
        return place.read_training().get("fingerprint", fingerprint_of(place))[:FINGERPRINT_LENGTH]
    return fingerprint_of(place) if place.begun else None


def _about(model: ModelDirectory) -> str:
    if model.finished:
        return "trained with other code"
    return "an unfinished training with other code" if model.begun else "no training has begun here"


def _unused(place: Place, why: str, still: Callable[[str], bool]) -> Unused:
    name = place.path.name
    return Unused(place.path, why, place.files, place.folders, home=place.path, still=partial(still, name))


def _is_unused_now(name: str, outputs: Path) -> bool:
    """Asked by who holds the folder itself."""
    everything: list[Place] = [*models_in(outputs), *runs_in(outputs)]
    others = [place for place in everything if place.path.name != name]
    busy = any(name in _names(place) and is_held(place.path) for place in others)
    return not busy and not _is_named(name, _sweep_texts(outputs))


def _sweep_texts(outputs: Path) -> list[str]:
    """What each sweep wrote down of itself."""
    return [_text(sweep.sweep, sweep.sweep.stat().st_mtime_ns) for sweep in sweeps_in(outputs)]


@cache
def _text(file: Path, changed: int) -> str:
    """Of a file that was changed at that time."""
    return read_bytes(file, _LARGEST).decode(errors="replace")


def _text_of(place: Place, file: Path) -> str:
    """Of a file in a folder; empty where there is none, or one that is none of ours."""
    try:
        return _text(inside(place.path, file), file.stat().st_mtime_ns)
    except (RunError, OSError):
        return ""


def _is_named(name: str, texts: Iterable[str]) -> bool:
    return any(name in text for text in texts)


def _names(place: Place) -> tuple[str, str]:
    """Its own and that of its model."""
    return place.path.name, model_of(place.path.name)
