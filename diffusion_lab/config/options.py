"""Checks that each option exists and has a value of its type, before anything is built.

The options of an object are the parameters of the class or function that its `_target_` names, with their annotations. Those of a
command are in its yaml in conf/, and have the types of their defaults; `_UNSET` has the types of those whose default is null.
Ranges and choices are checked by the classes themselves.

pydantic compares values and annotations: unlike beartype and typeguard it distinguishes true from 1, accepts a list for a tuple,
and describes the expected type in words.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache, reduce
from inspect import Parameter
from operator import getitem, or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.conf import HydraConf
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain, leaves
from diffusion_lab.config.own_code import why_not_found
from diffusion_lab.config.unknown_names import paths_of, unknown_option
from diffusion_lab.store.option_names import flat

BY_NAME = ("callbacks", "logger", "features", "metrics", "condition")  # groups of objects by name
OF_EVERY_CLASS = ("data.validation", "data.on_device", "trainer.peak_flops")  # but not a parameter of the classes
# What options of commands take beside the type of their default, or if it is null.
_TEXTS = (
    "model_dir samples reference root to mask flags code entity init_from continue_from checkpoint project init measure"
)
_UNSET: dict[str, Any] = {
    **dict.fromkeys(_TEXTS.split(), str),
    **dict.fromkeys(("batch_size", "default_steps", "t", "rank"), int | None),
    **dict.fromkeys(("compile", "on_device"), bool | str),
    **dict.fromkeys(("download", "null_class"), bool),
    **dict.fromkeys(("train_images", "days", "smallest", "alpha"), int | float),
    **dict.fromkeys(("sweep", "image"), int | str),
    **dict.fromkeys(("runs", "what", "models", "objective_metric"), str | list),
    **dict.fromkeys(("devices", "image_size"), int | str | list),
    **dict.fromkeys(("images", "target_modules"), list),
    "condition": dict,
}
_PLAIN = (int, float, bool, str, NoneType, list, tuple, dict, Path, timedelta, Any)
_CONTAINERS = (list, tuple, dict, Sequence, Mapping)
_WORDS = {
    "an object": "a group of options",
    "Field required": "a longer list",
    "a valid array": "a list, such as [1,2]",
}
_OF_HYDRA = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_LARGEST = 2**63  # torch and numpy take no larger numbers


def check_options(cfg: DictConfig, command: str = "train", hydra: HydraConf | DictConfig | None = None) -> None:
    """MistakeError for the first option that no object and no command receives, or whose value has the wrong type.

    hydra: that of the composed config, for a message with the choice that sets an option.
    """
    plain = as_plain(cfg)
    plain.pop("hydra", None)
    declared, groups = _declared(command)
    groups |= _of_model(str((plain.get("model") or {}).get("_target_"))) | {"measured_variance"}
    referenced = {name for _, value in leaves(plain) for name in re.findall(r"\$\{\.*([\w.]+)", str(value))}

    def is_read(key: str) -> bool:
        """Whether another option refers to this one, to a part of it or to a group around it, or a choice of a group sets it."""
        group, _, name = key.partition(".")
        is_referred_to = any(f"{one}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one}.") for one in referenced)
        return is_referred_to or name in _of_choices(group)

    def check(node: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any], is_free: bool = False) -> None:
        target = node.get("_target_")
        if isinstance(target, str) and not _is_reference(target) and (why := why_not_found(target)):
            raise MistakeError(f"{prefix}_target_={target}: {why}")
        parameters = parameters_of(target) if isinstance(target, str) else {}
        for name, value in node.items():
            key = f"{prefix}{name}"
            if name in _OF_HYDRA or key.startswith("facts."):
                continue
            if name in defaults:
                kind = _type_of(name, defaults[name])
            elif key in OF_EVERY_CLASS or (command != "train" and key.partition(".")[0] in _of_training()):
                kind = Any
            elif prefix[:-1] in BY_NAME and prefix[:-1] in groups:
                kind = dict | None  # callbacks.progress=null removes it
            elif "_target_" in node:
                if parameters is not None and name not in parameters:
                    known = [*paths_of(plain), *(f"{prefix}{name}" for name in parameters)]
                    raise MistakeError(unknown_option(_first_leaf(key, value), known, command, hydra))
                kind = _type_of_parameter(node["_target_"], name, value)
            elif not (is_free or key in groups or (prefix == "data." and "model_dir" in plain) or is_read(key)):
                raise MistakeError(unknown_option(_first_leaf(key, value), paths_of(plain), command, hydra))
            else:
                kind = Any
            check_type(key, value, kind)
            inside = enumerate(value) if isinstance(value, list) else ()
            for place, part in ((key, value), *((f"{key}.{index}", part) for index, part in inside)):
                if isinstance(part, dict):
                    default = defaults.get(name, {})
                    is_value = "_target_" in node or default is None  # a dict that an object or a command takes
                    check(part, f"{place}.", default if isinstance(default, dict) else {}, is_free or is_value)

    check(plain, "", declared)
    check_kinds(plain)


def check_kinds(config: Mapping[str, Any]) -> None:
    """MistakeError for a part whose class is not one that the annotation of what receives it names.

    config: unresolved, so that parts are found where they are chosen: `model` refers to them, as ${schedule}.
    """
    receivers = [(path[:-1], target) for path, target in leaves(config) if path[-1] == "_target_"]
    for place, receiver in receivers:
        for name, annotation in _annotations(str(receiver)).items():
            value = reduce(getitem, place, config).get(name)
            is_reference = re.fullmatch(r"\$\{(\w+)\}", str(value))
            option, part = (
                (is_reference[1], config.get(is_reference[1]))
                if is_reference
                else (".".join(map(str, (*place, name))), value)
            )
            if isinstance(part, dict) and not part.get("_partial_") and (wanted := _classes(annotation)):
                check_kind(option, part.get("_target_"), *wanted)


def check_kind(option: str, target: Any, *wanted: type) -> None:
    """MistakeError if the class, or the annotated result of the function, of a `_target_` is none of `wanted`."""
    if not isinstance(target, str) or _is_reference(target) or why_not_found(target):
        return
    found: Any = get_object(target)
    made = found if isinstance(found, type) else _annotations(target).get("return")
    if isinstance(made, type) and not issubclass(made, wanted):
        kinds = " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in wanted)
        raise MistakeError(f"{option}._target_={target}: this makes a {made.__name__}, but {option} must be a {kinds}")


def _classes(annotation: Any) -> tuple[type, ...]:
    """The classes of an annotation; none if it also takes what has no class to compare, such as any callable."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return parts if all(isinstance(part, type) and get_origin(part) is None for part in parts) else ()


def _first_leaf(key: str, value: Any) -> str:
    """The option that was typed: `+a.b.c=1` makes the groups a and a.b."""
    return key if isinstance(value, dict) and "_target_" in value else next(iter(flat({key: value})), key)


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and ("${" in value or value == MISSING)


@cache
def _declared(command: str) -> tuple[dict[str, Any], frozenset[str]]:
    """The options in a command's yaml with their defaults, and the groups in its list of defaults."""
    declared: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{command}.yaml"), resolve=False)
    groups: set[str] = set()
    for entry in declared.pop("defaults", []):
        if isinstance(entry, dict):
            groups |= {group.removeprefix("optional ") for group in entry}
        elif (CONF / f"{entry}.yaml").is_file():  # includes another command's options
            inherited, more = _declared(entry)
            declared, groups = inherited | declared, groups | more
    return declared, frozenset(groups)


@cache
def _of_model(target: str) -> frozenset[str]:
    """The groups that our model of this class has; an objective may leave one of them unread."""
    texts = [file.read_text() for file in (CONF / "model").glob("*.yaml")]
    mine = [text for text in texts if f"_target_: {target}\n" in text]
    return frozenset(re.findall(r"^  - /(\w+):", "".join(mine), re.MULTILINE))


@cache
def _of_choices(group: str) -> frozenset[str]:
    """The options that a group's choices set without a class, as temperature of sampling."""
    found = (OmegaConf.load(file) for file in (CONF / group).glob("*.yaml"))
    return frozenset(str(name) for cfg in found if "_target_" not in cfg and "defaults" not in cfg for name in cfg)


@cache
def _of_training() -> frozenset[str]:
    """Options that data sets and models set for train, whatever the command: the number of steps, averages, precision, ..."""
    files = [file for group in ("data", "model") for file in (CONF / group).glob("*.yaml")]
    wide = (OmegaConf.load(file) for file in files if "@package _global_" in file.read_text())
    return frozenset(str(name) for cfg in wide for name in cfg) - {"defaults", "data", "model"}


@cache
def parameters_of(target: str) -> Mapping[str, Parameter] | None:
    """The parameters of a target by name; None if it takes any, or if they cannot be read."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except Exception:  # any error of an import; building the object raises it again
        return None
    return None if any(one.kind is one.VAR_KEYWORD for one in parameters.values()) else parameters


@cache
def _annotations(target: str) -> dict[str, Any]:
    try:
        found: Any = get_object(target)
        return get_type_hints(found.__init__ if isinstance(found, type) else found)  # type: ignore[misc]
    except Exception:  # of an import, as above, or a name that only type checkers import
        return {}


def _type_of(name: str, default: Any) -> Any:
    """The type of a command's option."""
    if isinstance(default, dict):
        return dict
    given = str if _is_reference(default) else type(default)
    return given | _UNSET[name] if name in _UNSET else Any if default is None else given


def _type_of_parameter(target: str, name: str, value: Any) -> Any:
    parameter = (parameters_of(target) or {}).get(name)
    is_ours = target.startswith("diffusion_lab.")
    if (parameter and parameter.default == value) or (value is None and not is_ours):
        return Any  # our default may be null where Lightning has another
    return _in_yaml(_annotations(target).get(name, Any), is_ours)


def _in_yaml(annotation: Any, is_ours: bool) -> Any:
    """The annotation of the value in yaml: an object to be built is a dict there."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Literal, dict, Mapping) and not is_ours:
        return Any  # Lightning's precisions are not all of ours, and its max_time takes fractions of a second, too
    if origin in (Union, UnionType):
        return reduce(or_, (_in_yaml(part, is_ours) for part in parts))
    if origin in _CONTAINERS:
        return origin[tuple(part if part is Ellipsis else _in_yaml(part, is_ours) for part in parts)]
    if origin is Literal or annotation in _PLAIN or annotation in _CONTAINERS:
        return annotation
    package = getattr(annotation, "__module__", "").partition(".")[0]
    is_object = package in ("torch", "lightning", "diffusion_lab") and annotation.__name__ not in ("device", "dtype")
    return dict if is_object or origin is Callable else Any


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def check_type(key: str, value: Any, kind: Any) -> None:
    """MistakeError unless a value of yaml has this type. What refers to another option is checked there."""
    if _is_reference(value):
        return
    shown = f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"
    if type(value) in (int, float) and not abs(value) < _LARGEST:
        raise MistakeError(f"{shown} must be a finite number below 2**63")
    try:
        _adapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        # Sorted, because Python may give int | float as the equal float | int that it has seen before.
        texts = sorted({one["msg"].removeprefix("Input should be ") for one in error.errors()})
        raise MistakeError(f"{shown}: this must be {' or '.join(_WORDS.get(text, text) for text in texts)}") from None
