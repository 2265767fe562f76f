"""Which models and scored cells something refers to: a sweep, the code of today, or the config of one that stays.

A sweep and a config refer to a folder by its name, anywhere in their text: a name that ends in a fingerprint is there for no other
reason. So the models that guide others count too, whatever option names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from diffusion_lab.foreign import RunError, inside, read_bytes, read_json
from diffusion_lab.pruning.unused import Unused
from diffusion_lab.runs import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory
from diffusion_lab.runs.places import (
    folders_of,
    models_in,
    named_model,
    names_of_runs,
    run_directory,
    runs_in,
    sweeps_in,
)
from diffusion_lab.store.lease import is_held
from diffusion_lab.written import names

Place = ModelDirectory | RunDirectory
# Whether the code of today, given the config in a folder, makes a training with this fingerprint (its first digits). RunError, in
# one sentence, where it is not known.
IsCurrent = Callable[[Place, str], bool]
_NAME = re.compile(rf"(.+)-([0-9a-f]{{{FINGERPRINT_LENGTH}}})")
_END = re.compile(rf"(?=-[0-9a-f]{{{FINGERPRINT_LENGTH}}})")  # of a name in a text
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

    def runs_of(self, model: ModelDirectory) -> list[RunDirectory]:
        """The cells of a model that are kept."""
        return self._runs_of.get(model.path.name, [])

    def scores(self, model: ModelDirectory) -> list[str]:
        """The texts of the scores of a model, of those that stay."""
        return [text for run in self.runs_of(model) if (text := self.score(run))]

    @cached_property
    def _runs_of(self) -> dict[str, list[RunDirectory]]:
        found: dict[str, list[RunDirectory]] = {}
        for run in self.runs:
            found.setdefault(model_of(run.path.name), []).append(run)
        return found


def find(outputs: Path, is_current: IsCurrent) -> Found:
    """Look at every model and every cell. RunError if a sweep cannot be read, because then it is not known what it uses."""
    models = {model.path.name: model for model in models_in(outputs)}
    runs = {run.path.name: run for run in runs_in(outputs)}
    known = Names([*models, *runs])
    named = known.within(_sweep_texts(outputs))
    notes = [
        f"{folder} is a link, which prune does not follow" for folder in folders_of(outputs) if folder.is_symlink()
    ]
    everything: list[Place] = [*models.values(), *runs.values()]
    named |= {name for place in everything if is_held(place.path) for name in _names(place)}
    runs_of: dict[str, list[str]] = {}
    for name in runs:
        runs_of.setdefault(model_of(name), []).append(name)

    def needed(place: Place) -> bool:
        return _is_none_of_ours(place) or place.path.name in named

    kept = {name for name, model in models.items() if needed(model) or _stays(model, is_current, notes)}
    kept_runs = {
        name
        for name, run in runs.items()
        if needed(run) or (model_of(name) not in models and _stays(run, is_current, notes))
    }
    more, own = set(kept), set(kept_runs)
    while more or own:  # what is kept may refer to more
        own |= {run for name in more for run in runs_of.get(name, ())} - kept_runs
        kept_runs |= own
        new: list[Place] = [*(models[name] for name in more), *(runs[name] for name in own)]
        more = (known.within(_text_of(place, place.config) for place in new) & models.keys()) - kept
        kept |= more
        own = set()
    return Found(
        outputs=outputs,
        models=[model for name, model in models.items() if name in kept],
        runs=[run for name, run in runs.items() if name in kept_runs],
        unused_models=[_unused(model, _about(model), outputs) for name, model in models.items() if name not in kept],
        unused_runs=[
            _unused(run, "its model is listed too" if model_of(name) in models else "its model is gone", outputs)
            for name, run in runs.items()
            if name not in kept_runs
        ],
        notes=notes,
    )


class Names:
    """Names of folders that end in a fingerprint, found in texts in one pass."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_end: dict[str, list[str]] = {}
        for name in names:
            self._by_end.setdefault(name[-FINGERPRINT_LENGTH - 1 :], []).append(name)

    def within(self, texts: Iterable[str]) -> set[str]:
        """Those that are in one of the texts."""
        return {name for text in texts for name in self._in(text)}

    def _in(self, text: str) -> Iterator[str]:
        for place in _END.finditer(text):
            end = place.start() + FINGERPRINT_LENGTH + 1
            for name in self._by_end.get(text[place.start() : end], ()):
                if text.endswith(name, 0, end):
                    yield name


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
    return _NAME.fullmatch(place.path.name) is None or linked or (any(place.path.iterdir()) and not names(place.path))


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


def _unused(place: Place, why: str, outputs: Path) -> Unused:
    name = place.path.name
    return Unused(place.path, why, place.files, home=place.path, still=partial(_is_unused_now, name, outputs))


def _is_unused_now(name: str, outputs: Path) -> bool:
    """Whether the folder is still unused; called by the process that holds it."""
    related = [run_directory(outputs, run) for run in names_of_runs(outputs) if run.startswith(f"{name}-")]
    model = named_model(outputs, model_of(name))
    others: list[Place] = [*related, *([model] if model.path.name != name else [])]
    return not any(is_held(place.path) for place in others) and not any(name in text for text in _sweep_texts(outputs))


def _sweep_texts(outputs: Path) -> list[str]:
    """What each sweep wrote down of itself. RunError for a damaged one."""
    return [_json(sweep.sweep, sweep.sweep.stat().st_mtime_ns) for sweep in sweeps_in(outputs)]


@cache
def _json(file: Path, changed: int) -> str:
    """As `_text`, of JSON, with names as they are."""
    return json.dumps(read_json(file), ensure_ascii=False)


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


def _names(place: Place) -> tuple[str, str]:
    """Its own and that of its model."""
    return place.path.name, model_of(place.path.name)
