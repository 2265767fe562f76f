"""Unused models, scores, cached files and copies of code in outputs/. Does not import torch.

Sweeps, configs and scores refer to a folder by its name, anywhere in their text. The name of a model ends in 12 digits of a
fingerprint, that of a score, <model>-<digits>, in twice 12; such digits occur only in references, so they are searched for.
A file that cannot be read is kept, with everything that it may refer to.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.store import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory, cache_directory
from diffusion_lab.store.cache import read_key
from diffusion_lab.store.lease import is_held
from diffusion_lab.store.places import folders_of, models_in, run_directory, runs_in, sweeps_in
from diffusion_lab.store.records import RunError, inside, read_bytes, read_json
from diffusion_lab.store.written import names
from diffusion_lab.sweeps.frozen import unused_copies

Place = ModelDirectory | RunDirectory
# Whether the current code, given the config in a folder, gives a training this fingerprint (its first digits). RunError, in
# one sentence, if that is unknown.
IsCurrent = Callable[[Place, str], bool]
_DIGITS = f"[0-9a-f]{{{FINGERPRINT_LENGTH}}}"
_KEY = re.compile(rf".-({_DIGITS}(?:-{_DIGITS})?)\Z")
_KEYS = re.compile(rf"(?=-({_DIGITS})(-{_DIGITS})?)")  # also overlapping ones
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_LARGEST = 2**26  # bytes


@dataclass(frozen=True)
class Unused:
    """path: a file or a folder, held by processes that work there. why: half a sentence. files: for the size.

    jobs: for a copy of code, the folder of queued jobs that may run from it.
    """

    path: Path
    why: str
    files: Sequence[Path]
    jobs: Path | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.lstat().st_size for file in self.files if os.path.lexists(file))


class Outputs:
    """The content of outputs/. models, runs: those to keep. notes: a sentence on each one kept because its code is unknown.

    RunError if a sweep cannot be read, because its models and runs are then unknown.
    """

    def __init__(self, outputs: Path, is_current: IsCurrent) -> None:
        self._outputs = outputs
        links = [folder for folder in folders_of(outputs) if folder.is_symlink()]
        self.notes = [f"{folder} is a link, which prune does not follow" for folder in links]
        self._everything: list[Place] = [*models_in(outputs), *runs_in(outputs)]
        self._runs_of: dict[str, list[RunDirectory]] = defaultdict(list)  # by the name of the model
        by_key: dict[str, list[Place]] = defaultdict(list)
        for place in self._everything:
            by_key[_key(place)].append(place)
            if isinstance(place, RunDirectory):
                self._runs_of[_model_of(place)].append(place)
        self._there = {place.path.name for place in self._everything if isinstance(place, ModelDirectory)}
        named = _keys_of_sweeps(outputs)
        named |= {key for place in self._everything if is_held(place.path) for key in _keys_in(place.path.name)}
        waiting = [
            place
            for place in self._everything
            if _is_none_of_ours(place) or _key(place) in named or self._stays(place, is_current)
        ]
        self._kept: dict[Path, Place] = {}
        while waiting:  # kept places may refer to others
            place = waiting.pop()
            if place.path not in self._kept:
                self._kept[place.path] = place
                waiting += self._runs_of[place.path.name]
                waiting += [other for key in _keys_in(_config(place)) for other in by_key[key]]
        kept = [place for place in self._everything if place.path in self._kept]
        self.models = [place for place in kept if isinstance(place, ModelDirectory)]
        self.runs = [place for place in kept if isinstance(place, RunDirectory)]

    def _stays(self, place: Place, is_current: IsCurrent) -> bool:
        """Whether an unreferenced folder is kept, because the current code made it, or its code is unknown."""
        if isinstance(place, RunDirectory) and _model_of(place) in self._there:
            return False  # removed with its model
        try:
            if isinstance(place, RunDirectory) and _is_of_given(place):
                return True
            recorded = _recorded(place)
            renamed = isinstance(place, ModelDirectory) and recorded != _last(place)
            return recorded is not None and (renamed or is_current(place, recorded))
        except RunError as error:
            self.notes.append(f"{place.path} is kept, because the code that trained it is not known: {error}")
            return True

    def unused_models(self) -> Iterator[Unused]:
        for place in self._everything:
            if isinstance(place, ModelDirectory) and place.path not in self._kept:
                begun = "an unfinished training with other code" if place.begun else "no training has begun here"
                yield Unused(place.path, "trained with other code" if place.finished else begun, place.files)

    def unused_runs(self) -> Iterator[Unused]:
        for place in self._everything:
            if isinstance(place, RunDirectory) and place.path not in self._kept:
                there = _model_of(place) in self._there
                yield Unused(place.path, "its model is listed too" if there else "its model is gone", place.files)

    def unused_cache(self) -> Iterator[Unused]:
        """Unused files in the cache. Their keys contain hashes that also occur in the configs or scores that use them."""
        cache = cache_directory(self._outputs)
        scores = [_text_of(run, run.metrics) for run in self.runs]
        texts = [*scores, *map(_config, self.models)]
        for file in cache.references:
            data = str((read_key(file) or {}).get("data"))
            if not any(data in text for text in texts):
                yield Unused(file, "no model and no score has these data", [file])
        stay = {_last(model) for model in self.models}
        measured = {text for score in scores for text in _FINGERPRINT.findall(score)}
        for folder, files in cache.streams.items():
            fingerprint = str((read_key(files[0]) or {}).get("model")).partition(" ")[0]
            if fingerprint[:FINGERPRINT_LENGTH] not in stay and fingerprint not in measured and not is_held(folder):
                yield Unused(folder, "of a model that is listed or gone", files)

    def unused_code(self, jobs: Path) -> Iterator[Unused]:
        """Copies of sweeps whose cells all have scores. jobs: the folder of queued jobs, which may outlive their command."""
        for sweep in sweeps_in(self._outputs):
            linked = any(path.is_symlink() for path in (sweep.code, sweep.path, sweep.path.parent))
            runs = [run_directory(self._outputs, cell["run"]) for cell in sweep.read_sweep()["cells"]]
            if linked or not all(run.metrics.is_file() for run in runs):
                continue
            for copy in unused_copies(sweep.code, jobs):
                files = [path for path in copy.rglob("*") if path.is_file() and not path.is_symlink()]
                yield Unused(copy, "every cell of its sweep has its score", files, jobs=jobs)


def _keys_in(text: str) -> set[str]:
    """The digits in a text that refer to folders."""
    return {key for one, more in _KEYS.findall(text) for key in (one, one + more)}


def _key(place: Place) -> str:
    """The digits at the end of a folder's name, used in references; empty if there are none."""
    found = _KEY.search(place.path.name)
    return found[1] if found else ""


def _last(model: ModelDirectory) -> str:
    """The first digits of a folder's fingerprint, from its name."""
    return _key(model)[-FINGERPRINT_LENGTH:]


def _model_of(run: RunDirectory) -> str:
    """The name of a score's model; for a folder that is not our score, its own name."""
    return re.sub(rf"-{_DIGITS}\Z", "", run.path.name)


def _is_none_of_ours(place: Place) -> bool:
    """Whether a folder has a foreign name, is a link or lies behind one, or contains none of our files."""
    linked = place.path.is_symlink() or place.path.parent.is_symlink()
    return not _key(place) or linked or (any(place.path.iterdir()) and not names(place.path))


def _is_of_given(run: RunDirectory) -> bool:
    """Whether it is a score of given images, which has no model and cannot be reproduced by our code."""
    samples = _protocol(run).get("samples")
    return isinstance(samples, dict) and "given" in samples


def _protocol(run: RunDirectory) -> dict[str, Any]:
    """The protocol of the score; empty without a score."""
    protocol = run.read_metrics().get("protocol") if run.metrics.is_file() else None
    return protocol if isinstance(protocol, dict) else {}


def _recorded(place: Place) -> str | None:
    """The first digits of the fingerprint of a model, or of a score's model; None if the folder has no result."""
    if isinstance(place, ModelDirectory):
        if place.finished:
            return place.read_training().get("fingerprint", _last(place))[:FINGERPRINT_LENGTH]
        return _last(place) if place.begun else None
    if not place.metrics.is_file():
        return None
    recorded = _protocol(place).get("fingerprint")
    if not isinstance(recorded, str):
        raise RunError(f"{place.metrics} does not name its training")
    return recorded[:FINGERPRINT_LENGTH]


def _keys_of_sweeps(outputs: Path) -> set[str]:
    """Digits of the folders that sweeps refer to. JSON may encode letters as numbers. RunError for a damaged file."""
    texts = [json.dumps(read_json(sweep.sweep), ensure_ascii=False) for sweep in sweeps_in(outputs)]
    return {key for text in texts for key in _keys_in(text)}


def _config(place: Place) -> str:
    return _text_of(place, place.config)


def _text_of(place: Place, file: Path) -> str:
    """The text of a file in a folder; empty if it is missing, or a link that leads out."""
    try:
        return read_bytes(inside(place.path, file), _LARGEST).decode(errors="replace")
    except (RunError, OSError):
        return ""
