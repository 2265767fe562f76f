"""What a config out of a folder may build: at each place the type that is needed there, and nothing else.

A model directory may be somebody else's. Hydra builds whatever a `_target_` names, and the options of a command line are the
user's own; a file's are not. So a file holds plain values and plain references ${a.b} to them, and `checked` goes through what
comes out of it once everything is merged and resolved: `data` is a DataModule, `model` a TrainableModel, and below them each
parameter of a class gets the type of its annotation. The resolved config that `checked` returns is what is built.

Only the environment allows more, never the file: DIFFUSION_LAB_TARGETS names the user's own packages.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra._internal.utils import _locate  # what Hydra itself finds a target with
from omegaconf import MISSING, DictConfig, OmegaConf

from diffusion_lab.foreign import RunError, printable
from diffusion_lab.from_config.limits import REFERENCE, check_expansion, check_sizes

VARIABLE = "DIFFUSION_LAB_TARGETS"  # more packages, separated by commas
# Every part of a config that a command builds by itself, and what it has to be. The other parts are built as parts of these.
BUILT = {
    "sampler": "diffusion_lab.diffusion.Sampler",
    "guidance": "diffusion_lab.diffusion.Guidance",
    "variance": "diffusion_lab.diffusion.Variance",
    "objective": "diffusion_lab.diffusion.Objective",
    "evaluation": "diffusion_lab.evaluation.settings.Evaluation",
    "data": "diffusion_lab.data.base.DataModule",
    "labels": "diffusion_lab.data.clusters.Clusters",
    "model": "diffusion_lab.models.trainable.TrainableModel",
}
# The same, of which what is measured later is still missing.
BUILT_LATER = {"measured_variance": "diffusion_lab.diffusion.Variance"}
# Groups that hold several of them by name.
BUILT_EACH = {
    "features": "diffusion_lab.evaluation.features.Features",
    "metrics": "diffusion_lab.evaluation.metrics.Metric",
}
# Where classes of ours are looked for, and, for a place that asks for a module or an optimizer of any kind, the packages whose
# classes do nothing when they are made.
_OURS = tuple(
    f"diffusion_lab.{part}"
    for part in (
        "diffusion",
        "baselines",
        "networks",
        "data",
        "models",
        "evaluation",
        "from_config.classifier",
        "from_config.worse",
    )
)
_HARMLESS = (
    "torch.nn",
    "torch.optim",
    *(f"diffusion_lab.{part}" for part in ("diffusion", "baselines", "networks", "models.optimization", "models.muon")),
)
_PATHS = (Path, Path | None)  # annotations of what a file may not choose
_LARGEST = 2**64  # a seed is smaller
_KEY = re.compile(r"[A-Za-z]\w*|_target_|_partial_")


@dataclass(frozen=True)
class Wanted:
    """What is asked for at a place. deferred: a class that is still to be given arguments, instead of an object of it;
    None: either."""

    kinds: tuple[type, ...]
    deferred: bool | None = False

    def __str__(self) -> str:
        names = " or ".join(kind.__name__ for kind in self.kinds)
        return f"{names} with _partial_" if self.deferred else names


def check_values(config: DictConfig, file: Path) -> None:
    """RunError, naming the key, if a config as it stands in `file` holds more than plain values, references and targets.

    So resolving it reads nothing but itself and stays small, and none of its keys or values can become another option.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    _check_values(plain, "", file)
    check_expansion(plain, file)


def _check_values(node: Any, prefix: str, file: Path) -> None:
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        key = f"{prefix}{name}"
        if isinstance(node, dict) and not (isinstance(name, str) and _KEY.fullmatch(name)):
            raise RunError(f"{file}: {printable(key)} is not an option that a file may set")
        if isinstance(child, dict | list):
            _check_values(child, f"{key}.", file)
        elif not isinstance(child, str | int | float | None):
            raise RunError(f"{file}: {key} is not a string, a number, true, false or null")
        elif isinstance(child, float) and not math.isfinite(child):
            raise RunError(f"{file}: {key}={child} is not a finite number")
        elif isinstance(child, int) and abs(child) >= _LARGEST:
            raise RunError(f"{file}: {key} is too large a number for any option")
        elif isinstance(child, str) and "${" in child and (name == "_target_" or not REFERENCE.fullmatch(child)):
            raise RunError(
                f"{file}: {key}={printable(child)} is not built, because a file may refer only to its own values, as ${{a.b}}"
            )


def checked(
    config: DictConfig,
    file: Path,
    trusted: frozenset[str] = frozenset(),
    paths_are_the_users: bool = False,
    of_file: dict[str, Any] | None = None,
) -> DictConfig:
    """`config` with every reference resolved, after a check that each object in it is of the type that its place requires.

    file: where it came from, if only in part. trusted: targets that the user named on the command line. paths_are_the_users: the
    file's own were refused before. of_file: the resolved config of the file, where the user changed options of it. RunError,
    naming the key and the fix, for anything else. What is returned holds no interpolation, so it is what `instantiate` sees.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except RecursionError:
        raise RunError(f"{file} is not a config: its references are circular") from None
    check_sizes(plain, file, plain if of_file is None else of_file)
    own = tuple(filter(None, (name.strip() for name in os.environ.get(VARIABLE, "").split(","))))
    check = _Check(file, own, trusted, paths_are_the_users)
    for group, kind in (BUILT | BUILT_LATER).items():
        if plain.get(group) is not None:
            check(plain[group], group, Wanted((_locate(kind),), deferred=group in BUILT_LATER), required=True)
    for group, kind in BUILT_EACH.items():
        for name, node in (plain.get(group) or {}).items():
            if node is not None:
                check(node, f"{group}.{name}", Wanted((_locate(kind),)), required=True)
    return OmegaConf.create(plain)


def targets(node: Any) -> Iterator[str]:
    """Every target in plain containers."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    for child in node if isinstance(node, list) else ():
        yield from targets(child)


@dataclass(frozen=True)
class _Check:
    file: Path
    own: tuple[str, ...]
    trusted: frozenset[str]
    paths_are_the_users: bool

    def __call__(self, node: Any, key: str, place: Wanted | None, required: bool = False) -> None:
        if isinstance(node, list):
            for index, child in enumerate(node):
                self(child, f"{key}.{index}", place)
        elif isinstance(node, str) and "${" in node:
            raise RunError(
                f"{self.file}: {key}={printable(node)} is not built, because it would be resolved a second time"
            )
        elif isinstance(node, dict) and "_target_" in node:
            self._object(node, key, place)
        elif required:
            raise RunError(f"{self.file}: {key} is not {_a(place)}: it names no class with _target_")
        elif isinstance(node, dict):
            for name, child in node.items():
                self(child, f"{key}.{name}", None)

    def _object(self, node: Mapping[str, Any], key: str, place: Wanted | None) -> None:
        target = node["_target_"]
        found = self._resolve_target(target, key, place)
        free = target in self.trusted
        for name in node:
            if name.startswith("_") and name not in ("_target_", "_partial_") and not free:
                raise RunError(f"{self.file}: {key}.{name} is not an option that a file may set")
        if place and place.deferred is not None and bool(node.get("_partial_")) is not place.deferred and not free:
            raise RunError(
                f"{self.file}: {key}._partial_={node.get('_partial_')} is not built: {_a(place)} belongs here"
            )
        parameters = _parameters(found)
        # Where the user's own class has no annotations.
        unsaid = Wanted((object,), deferred=None) if free or self._is_own(found) else None
        for name, child in node.items():
            if (
                parameters.get(name) in _PATHS
                and child not in (None, MISSING)
                and not (free or self.paths_are_the_users)
            ):
                raise RunError(
                    f"{self.file}: {key}.{name}={printable(str(child))} is a path, which a file may not choose"
                )
            self(child, f"{key}.{name}", _place(parameters[name]) if name in parameters else unsaid)

    def _resolve_target(self, target: Any, key: str, place: Wanted | None) -> Callable[..., Any]:
        """What a target names. RunError unless it belongs there; nothing outside the known packages is imported to find out."""
        if isinstance(target, str) and target in self.trusted:
            try:
                return _locate(target)
            except Exception:  # whatever the import of a module raises
                raise RunError(
                    f"{key}._target_={target}: Python cannot import this; check its spelling and its installation"
                ) from None
        found = None
        if isinstance(target, str) and _within(target, (*_OURS, *_HARMLESS, *self.own)):
            try:
                found = _locate(target)
            except Exception:  # whatever the import of a module raises: it is nothing that could be built
                found = None
        if found is not None and (self._is_own(found) or _belongs(found, place)):
            return found
        message = f"{self.file}: {key}._target_={printable(str(target))} is not built, because "
        message += f"{_a(place)} belongs here" if place else "nothing may be built here"
        package = str(target).partition(".")[0]
        if package.isidentifier() and package not in ("diffusion_lab", "torch", "builtins") and package not in self.own:
            message += f"; if it is a class of your own, {VARIABLE}={package} in the environment allows it"
        raise RunError(message)

    def _is_own(self, found: Any) -> bool:
        return callable(found) and _within(getattr(found, "__module__", None) or "", self.own)


def _belongs(found: Any, place: Wanted | None) -> bool:
    if place is None or not isinstance(found, type) or not issubclass(found, place.kinds):
        return False
    of_ours = any(issubclass(found, kind) for kind in place.kinds if _within(kind.__module__, ("diffusion_lab",)))
    return _within(found.__module__, _OURS if of_ours else _HARMLESS)


def _parameters(found: Callable[..., Any]) -> dict[str, Any]:
    """Parameter name -> annotation."""
    try:
        return get_type_hints(found.__init__ if isinstance(found, type) else found)
    except (NameError, TypeError, AttributeError):
        return {}


def _place(annotation: Any) -> Wanted | None:
    """What an annotation asks for: Schedule; Callable[..., nn.Module]; Sequence[Weighting] | None. None: only values."""
    made = list(_mentioned(annotation))
    kinds = tuple(kind for kind, _ in made)
    return Wanted(kinds, deferred=any(deferred for _, deferred in made)) if kinds else None


def _mentioned(annotation: Any, deferred: bool = False) -> Iterator[tuple[type, bool]]:
    """The classes in an annotation that are none of Python's own, and whether they are the result of a Callable."""
    origin = get_origin(annotation)
    if origin is Callable:
        yield from _mentioned(get_args(annotation)[-1], deferred=True)
    elif origin in (Union, UnionType) or origin is not None:
        for part in get_args(annotation):
            yield from _mentioned(part, deferred)
    elif isinstance(annotation, type) and annotation.__module__ not in ("builtins", "pathlib"):
        yield annotation, deferred


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _a(place: Wanted | None) -> str:
    if place is None:
        return "a value"
    return f"{'an' if str(place)[0] in 'AEIOU' else 'a'} {place}"
