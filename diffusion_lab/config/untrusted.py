"""Limits on what a model's folder may request, because it may come from somebody else.

People download folders, or are given them, and then sample and score. Hydra calls whatever a `_target_` in config.yaml names, and
resolves ${oc.env:…}; a damaged or hostile file requests a network, a chain or a number of samples that no machine can provide.
Three checks prevent this:

- A file holds plain values, and references ${a.b} from `model` to other groups (`check_plain`).
- The class at each place has the type required there: in the groups of `PLACES`, and below them by the annotation of each
  parameter (`check_targets`). Nothing is imported from outside the packages of `_COMPUTE` and `_READ`.
- Memory and time are summed over the whole config (`check_sizes`), and no model becomes much larger than the file of its weights.

What the user types or writes in a conf/ is trusted and applied later. So are classes of the packages in DIFFUSION_LAB_TARGETS.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import MISSING

from diffusion_lab.config.kinds import parameter_annotations
from diffusion_lab.store.records import FACTS, RunError, printable, wrong_in

VARIABLE = "DIFFUSION_LAB_TARGETS"  # more packages, separated by commas
REFERENCE = re.compile(r"\$\{(?!model\b)\w+(\.\w+)*\}")  # from `model` to another group
# The parts of a config that commands build directly, with their types. All others are built as parts of these.
PLACES = {
    "sampler": "diffusion_lab.sampling.Sampler",
    "guidance": "diffusion_lab.sampling.Guidance",
    "variance": "diffusion_lab.diffusion.Variance",
    "measured_variance": "diffusion_lab.diffusion.Variance",
    "objective": "diffusion_lab.diffusion.Objective",
    "evaluation": "diffusion_lab.metrics.settings.Evaluation",
    "data": "diffusion_lab.data.module.DataModule",
    "condition": "diffusion_lab.conditions.Condition",
    "model": "diffusion_lab.models.trainable.TrainableModel",
    "features": "diffusion_lab.metrics.features.Features",
    "metrics": "diffusion_lab.metrics.metric.Metric",
}
_SEVERAL = ("condition", "features", "metrics")  # by name
_ONLY_TRAINED = ("trainer", "callbacks", "logger", "ema")  # not built from a file
# Building an object of _COMPUTE only computes. Objects of _READ may read a file, so only exactly matching types are allowed.
_COMPUTE = tuple(
    f"diffusion_lab.{part}" for part in ("diffusion", "sampling", "analysis", "networks", "models", "families")
)
_COMPUTE += ("torch.nn", "torch.optim")
_GUIDANCE = "diffusion_lab.config.guiding_models"  # functions that load another model and return a guidance
_READ = ("diffusion_lab.conditions", "diffusion_lab.data", "diffusion_lab.metrics", _GUIDANCE)
_KEY = re.compile(r"[A-Za-z]\w*|_target_|_partial_")
_DEEPEST = 32  # levels of nesting
_MOST_VALUES = 20_000  # after all references are expanded; a table of 8,000 β needs nearly as many
_MOST_EVALUATIONS = 7 * 24 * 3600 * 1000
_USUAL_IMAGES = 2048  # drawn if the file gives no number
_ROW, _PIXEL, _PROCESS = 2**10, 2**6, 2**28  # bytes per row of a table, per value of an image, per worker
_COUNTED = ("model", "evaluation", "metrics", "features", "data", "condition")
_FREE = re.compile(
    r".*seed|.*\.max_\w+|model\.optimization\..*|data\.(batch_size|normalize.*)"
)  # do not affect the cost
_left: list[float] = []  # remaining parameters allowed, for each nested model from the outer to the guiding one


def check_plain(config: dict[str, Any], file: Path) -> None:
    """RunError, naming the key, if the config in `file` holds more than plain values, targets, and references in `model`.

    Resolving such a config reads nothing else and stays small, and no key or value can become another option.
    """
    total = 0
    for path, value in leaves(config):
        key = printable(".".join(map(str, path)))[:200]
        if len(path) > _DEEPEST or not all(isinstance(name, int) or _KEY.fullmatch(str(name)) for name in path):
            raise RunError(f"{file}: {key} is not an option that a file may set")
        if not (isinstance(value, str | dict | list | None) or (isinstance(value, int | float) and abs(value) < 2**64)):
            raise RunError(f"{file}: {key} is not a string, a finite number of 64 bits, true, false or null")
        if isinstance(value, str) and "${" in value:
            if path[0] != "model" or path[-1] == "_target_" or not REFERENCE.fullmatch(value):
                named = f"{key}={printable(value)}"
                raise RunError(f"{file}: {named} is refused: only `model` may refer, to other groups, as ${{a.b}}")
            node: Any = config
            for name in value[2:-1].split("."):
                node = node.get(name) if isinstance(node, dict) else None
            total += sum(1 for _ in leaves(node))
            if total > _MOST_VALUES:
                raise RunError(f"{file} is not a config: its references expand to more than {_MOST_VALUES:,} values")


def leave_out(config: dict[str, Any]) -> None:
    """Unset what a file may not choose: downloads, files of published weights, and other models."""
    guidance, features = config.get("guidance") or {}, (config.get("features") or {}).values()
    unset: list[tuple[Any, str, bool | None]] = [(config.get("data"), "download", False)]
    unset += [(part, option, value) for part in features for option, value in (("download", False), ("path", None))]
    for node, option, value in [*unset, (guidance, "model", MISSING), (guidance.get("worse"), "model", MISSING)]:
        if isinstance(node, dict) and node.get(option) is not None:
            node[option] = value


def targets(node: Any) -> Iterator[str]:
    """Every target in plain containers."""
    return (value for path, value in leaves(node) if path and path[-1] == "_target_" and isinstance(value, str))


def check_targets(config: Mapping[str, Any], file: Path) -> None:
    """RunError, naming the key, unless each object in a file's resolved config is of the type that its place requires."""
    for group in sorted(config, key=lambda group: group not in PLACES):  # others are built only as parts of these
        node = config[group]
        kind = get_object(PLACES[group]) if group in PLACES else object
        kinds = {kind: group == "measured_variance" if group in PLACES else None}
        parts = {f"{group}.{name}": part for name, part in (node or {}).items()} if group in _SEVERAL else {group: node}
        for key, part in parts.items():
            if group in PLACES and part is not None and not (isinstance(part, dict) and "_target_" in part):
                raise RunError(f"{file}: {key} is not {_a(kinds)}: it names no class with _target_")
            if group not in _ONLY_TRAINED:
                _check(part, key, kinds, file)


def _check(node: Any, key: str, kinds: Mapping[type, bool | None], file: Path) -> None:
    """kinds: allowed type -> whether it must have `_partial_` (None: either)."""
    for index, child in enumerate(node if isinstance(node, list) else ()):
        _check(child, f"{key}.{index}", kinds, file)
    if not isinstance(node, dict):
        return
    annotations: Mapping[str, Any] = {}
    unsaid: dict[type, bool | None] = {}
    if "_target_" in node:
        target, later = node["_target_"], bool(node.get("_partial_"))
        own = tuple(filter(None, re.split(r"[\s,]+", os.environ.get(VARIABLE, ""))))
        found = _found(target, (*_COMPUTE, *_READ, *own))
        if callable(found) and _within(getattr(found, "__module__", None), own):
            unsaid = {object: None}  # a class of the user without annotations
        elif not any(_belongs(found, kind) and when in (None, later) for kind, when in kinds.items()):
            package = str(target).partition(".")[0]
            known = package in ("diffusion_lab", "torch", *sys.stdlib_module_names) or not package.isidentifier()
            fix = "" if known else f"; if it is a class of your own, {VARIABLE}={package} in the environment allows it"
            named = f"{key}._target_={printable(str(target))}{' with _partial_' if later else ''}"
            raise RunError(f"{file}: {named} is not built, because {_a(kinds)} belongs here{fix}")
        annotations = parameter_annotations(target)
    for name, child in node.items():
        if annotations.get(name) == Path | None and child not in (None, MISSING):  # such as a guiding model's folder
            raise RunError(f"{file}: {key}.{name}={printable(str(child))} is a path, which a file may not choose")
        _check(child, f"{key}.{name}", dict(_mentioned(annotations[name])) if name in annotations else unsaid, file)


def _found(target: Any, packages: tuple[str, ...]) -> Any:
    """The object that a target names; None if it lies outside these packages or its import fails."""
    try:
        return get_object(target) if _within(target, packages) else None
    except Exception:  # any error of a module's import
        return None


def _belongs(found: Any, kind: type) -> bool:
    packages = (*_COMPUTE, *_READ) if _within(kind.__module__, ("diffusion_lab",)) else _COMPUTE
    made = found
    if isinstance(found, FunctionType) and found.__module__ == _GUIDANCE and _within(kind.__module__, _COMPUTE[:2]):
        made = get_type_hints(found).get("return")
    return isinstance(made, type) and issubclass(made, kind) and _within(found.__module__, packages)


def _mentioned(annotation: Any, later: bool = False) -> Iterator[tuple[type, bool]]:
    """The classes in an annotation such as Callable[..., nn.Module] | None, without builtins; whether a Callable returns them."""
    origin = get_origin(annotation)
    if _within(getattr(origin, "__module__", None), _COMPUTE):  # Objective[GaussianDiffusion]
        yield origin, later
    elif origin is not None:
        for part in get_args(annotation)[-1:] if origin is Callable else get_args(annotation):
            yield from _mentioned(part, later or origin is Callable)
    elif isinstance(annotation, type) and annotation.__module__ not in ("builtins", "pathlib"):
        yield annotation, later


def _within(name: Any, packages: tuple[str, ...]) -> bool:
    return isinstance(name, str) and any(f"{name}.".startswith(f"{package}.") for package in packages)


def _a(kinds: Mapping[type, bool | None]) -> str:
    names = (
        " or ".join(f"{kind.__name__}{' with _partial_' if later else ''}" for kind, later in kinds.items()) or "value"
    )
    return "a part of a model" if object in kinds else f"{'an' if names[0] in 'AEIOU' else 'a'} {names}"


def check_sizes(config: Mapping[str, Any], file: Path, of_file: Mapping[str, Any] | None = None) -> None:
    """RunError, naming the option, for impossible facts and for numbers that need too much memory or time.

    of_file: the resolved config of the file; options that the user changed in it are not limited.
    """
    facts = config.get("facts") or {}
    if wrong := wrong_in({"facts": facts}, FACTS):
        raise RunError(f"{file}: {wrong}")
    numbers = dict(_numbers(config).items() & _numbers(config if of_file is None else of_file).items())

    def most(names: str) -> float:
        return max((number for key, number in numbers.items() if re.fullmatch(names, key)), default=0)

    image, row = math.prod(facts.get("shape") or [1]), max(_ROW, 16 * most(r"data\.dim"))
    shown = most(r"data\.image_size.*") ** 2 * (most(r"data\.channels") or 1)

    def bytes_of(key: str, number: float) -> float:
        if key.startswith(("data.image_size", "data.channels")):
            return _PIXEL * shown
        if key.endswith("batch_size"):
            return number * _PIXEL * image
        return number * (_PROCESS if key == "data.num_workers" else row)

    def refuse(cost: Mapping[str, float], what: str) -> None:
        key = max(cost, key=lambda name: (cost[name], numbers[name]))
        how = f"; add +{key}=… with a smaller number" if key.startswith("data.") else ""
        raise RunError(f"{file}: {key}={numbers[key]:.15g} is too large, because it needs {what}{how}")

    memory = {key: bytes_of(key, number) for key, number in numbers.items()}
    if sum(memory.values()) > _memory_here():
        refuse(memory, f"more memory than this machine has, {_memory_here() / 2**30:.0f} GiB")
    chain = {key: number for key, number in numbers.items() if re.fullmatch(r"model\..*num_(steps|timesteps)", key)}
    chain = {key: number for key, number in chain.items() if key.endswith("num_steps")} or chain
    drawn = {key: number for key, number in numbers.items() if key.startswith(("evaluation.", "metrics."))}
    drawn |= {
        key: drawn[key] * drawn.get(f"{key[:-5]}images", 1) for key in drawn if key.endswith("num_draws")
    }  # of each image
    if max(chain.values(), default=1) * (_USUAL_IMAGES + sum(drawn.values())) > _MOST_EVALUATIONS:
        refuse(drawn | chain, "more than a week at 1,000 network evaluations a second")


def _numbers(config: Mapping[str, Any]) -> dict[str, float]:
    """Key -> number, for every option that affects the cost of using a trained model."""
    found = {".".join(map(str, path)): value for path, value in leaves({part: config.get(part) for part in _COUNTED})}
    return {key: abs(value) for key, value in found.items() if type(value) in (int, float) and not _FREE.fullmatch(key)}


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path of names and indices, value) for each leaf of plain containers; an empty container is a leaf."""
    if isinstance(node, dict | list) and node:
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            named = isinstance(node, list) or isinstance(name, str)
            yield from leaves(child, (*path, name if named else f"<{name}>"))  # keys 1 or true are not valid options
    else:
        yield path, node


def _memory_here() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def no_larger_than(weights: Path) -> Iterator[None]:
    """Around building a model: ValueError once it has many more parameters than its file of weights.

    Parameters are registered before they are filled, so the reserved memory is not yet used.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook
    from torch.nn.parameter import is_lazy

    _left.append(weights.stat().st_size + 2**20)  # allows parameters that a layer registers twice
    depth = len(_left)

    def spend(module: object, name: str, parameter: Any) -> None:
        if parameter is not None and not is_lazy(parameter) and len(_left) == depth:
            if parameter.numel() == 0:
                raise ValueError("the model has a layer without any channels")
            _left[-1] -= max(parameter.numel(), 64)  # single numbers take memory too
            if _left[-1] < 0:
                raise ValueError(f"the model has many more parameters than {weights}")

    handle = register_module_parameter_registration_hook(spend)
    try:
        yield
    finally:
        handle.remove()
        _left.pop()
