"""Type checks of options, made before anything is built. Ranges are checked where the values are used.

The type of an object's option is its class's annotation. The type of a command's option is that of its default, or the one at the
start of its comment in conf/, as in `model_dir: null # str: a folder`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError, replaced
from diffusion_lab.config.overrides import as_plain

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", dict: "a group of options"}
_WORDS |= {NoneType: "null"}
_NAMED = {kind.__name__: kind for kind in (int, float, bool, str, list, dict)}
_REMARK = re.compile(rf"^ *(\w+):.*? # ((?:{'|'.join(_NAMED)})(?: \| \w+)*)(?:[:;]|$)", re.MULTILINE)
_OF_OBJECTS = ("callbacks.", "logger.", "features.", "metrics.")  # groups of objects by name
_TOO_LARGE = 2**64  # a seed is smaller


def check_kinds(cfg: DictConfig, command: str = "train") -> None:
    """MistakeError for the first option that was replaced or has the wrong type. command: the name of its yaml in conf/."""
    for key in cfg:
        if said := replaced(str(key)):  # a yaml of the user may set anything
            raise MistakeError(said)
    _check(as_plain(cfg), "", *_declared(command))


@cache
def _declared(command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The defaults in a command's yaml, and the types in its comments by the last part of the option's name."""
    text = (CONF / f"{command}.yaml").read_text(encoding="utf-8")
    defaults: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    remarks: dict[str, Any] = {
        name: Union[*map(_NAMED.get, kinds.split(" | "))] for name, kinds in _REMARK.findall(text)
    }
    for part in defaults.pop("defaults", []):
        if isinstance(part, str) and (CONF / f"{part}.yaml").is_file():  # includes another command's options
            inherited, more = _declared(part)
            defaults, remarks = inherited | defaults, more | remarks
    return defaults, remarks


def _check(node: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any], remarks: Mapping[str, Any]) -> None:
    target = node.get("_target_")
    annotations = parameter_annotations(target) if isinstance(target, str) else {}
    for name, value in node.items():
        if _is_reference(value):
            continue
        key, default = f"{prefix}{name}", defaults.get(name)
        shown = f"{key}={'null' if value is None else value}"
        if name in defaults and name in remarks:
            kind = remarks[name] | type(default)
        elif prefix in _OF_OBJECTS:
            kind = dict | None  # callbacks.progress=null removes it
        elif not (default is None or _is_reference(default)):
            kind = type(default)
        elif value is None and not str(target).startswith("diffusion_lab."):
            kind = Any  # some of our defaults are null where Lightning's are not
        else:
            kind = annotations.get(name, Any)
        if type(value) in (int, float) and not abs(value) < _TOO_LARGE:
            raise MistakeError(f"{shown}: this option must be finite and at most 2**64 - 1")
        if not _takes(kind, value):
            such = f", such as {key}.{next(iter(default))}=…" if isinstance(default, dict) else ""
            raise MistakeError(f"{shown}: this option must be {_in_words(kind)}{such}")
        parts = {key: value} | {f"{key}.{i}": part for i, part in enumerate(value if isinstance(value, list) else ())}
        for place, part in parts.items():
            if isinstance(part, dict):
                _check(part, f"{place}.", default if isinstance(default, dict) else {}, remarks)


def _is_reference(value: Any) -> bool:
    """Whether the value is a reference, or is missing."""
    return isinstance(value, str) and ("${" in value or value == MISSING)


@cache
def parameter_annotations(target: str) -> dict[str, Any]:
    """Parameter name -> annotation of a target; empty if it cannot be imported or has no annotations."""
    try:
        found: Any = get_object(target)
        is_class = isinstance(found, type)
        return get_type_hints(found.__init__ if is_class else found)
    except Exception:  # any error of an import; building the object raises it again
        return {}


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _takes(annotation: Any, value: Any) -> bool:
    """Whether a config value fits an annotation, directly or as an object to be built."""
    if len(parts := _parts(annotation)) > 1:
        return any(_takes(part, value) for part in parts)
    if annotation in _WORDS:
        return type(value) is annotation or (annotation is float and type(value) is int)
    origin, elements = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and elements and Ellipsis not in elements
        return (
            isinstance(value, list)
            and (len(value) == len(elements) or not fixed)
            and all(isinstance(each, dict) or any(_takes(kind, each) for kind in elements or (Any,)) for each in value)
        )
    package = getattr(annotation, "__module__", "").partition(".")[0]
    return isinstance(value, dict) or package not in ("torch", "diffusion_lab")


def _in_words(annotation: Any) -> str:
    parts = _parts(annotation)
    words = [word for kind, word in _WORDS.items() if kind in parts and not (kind is int and float in parts)]
    if any((get_origin(part) or part) in (list, tuple, Sequence) for part in parts):
        words.append("a list, such as [1,2]")
    return " or ".join(words) or "a group of options with a _target_"
