"""Checks of the types and ranges of options, before anything is built. An error names the option.

For the options of an object they are the annotations in its class; for those of a command, the types of the values in conf/ and
the remarks beside them, as in `label: null # int from 0: the class to draw`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from hydra._internal.utils import _locate  # what Hydra itself finds a target with
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", NoneType: "null"}
_ELEMENTS = {int: " of whole numbers", float: " of numbers", str: " of strings"}
_LISTS = (list, tuple, Sequence)
_NAMED = {kind.__name__: kind for kind in (int, float, bool, str, list)} | {"null": NoneType}
_TAGS = _NAMED | {"seq": list}
_REMARK = re.compile(r"# (\w+(?: \| \w+)*)(?: (from|above) (\d+))?(?: to (\d+))?(?:[:;]|$)")
_REFERENCE = re.compile(r"\$\{[^}]+\}|\?\?\?")
_TOO_LARGE = 2**64  # a seed is smaller


class Taken(NamedTuple):
    """An annotation, and for numbers a range from `least`, which `above` excludes, to `most`. remarked: from a remark."""

    annotation: Any
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    remarked: bool = False

    def has(self, number: float) -> bool:
        """Whether a number is in range."""
        return self.least <= number <= self.most and not (self.above and number == self.least)

    def __str__(self) -> str:
        """ "above 0", "at least 0 and at most 65535"."""
        most = "" if self.most == math.inf else f" and at most {self.most:.0f}"
        return f"{'above' if self.above else 'at least'} {self.least:.0f}{most}"


def check_kinds(cfg: DictConfig, command: str = "train", typed: Collection[str] = ()) -> None:
    """MistakeError for the first value that its option does not take. command: the name of its yaml in conf/.

    typed: options of the command line. They are checked first, before the classes of all others, such as Lightning's, are imported.
    """
    _check(cfg, "", command, typed)


def _check(node: DictConfig | ListConfig, prefix: str, command: str, typed: Collection[str]) -> None:
    names = list(node) if isinstance(node, DictConfig) else range(len(node))
    for name in sorted(names, key=lambda name: not any(f"{key}.".startswith(f"{prefix}{name}.") for key in typed)):
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        key, child = f"{prefix}{name}", node[name]
        plain = OmegaConf.to_container(child, resolve=False) if OmegaConf.is_config(child) else child
        is_object = isinstance(plain, dict) and "_target_" in plain
        if not is_object:
            _check_value(key, plain, _taken(node, name, key, plain, command), command)
        if OmegaConf.is_config(child):
            _check(child, f"{key}.", command, typed)


def _check_value(key: str, value: Any, taken: Taken | None, command: str) -> None:
    shown = f"{key}={'null' if value is None else value}"
    if type(value) in (int, float) and not abs(value) < _TOO_LARGE:
        raise MistakeError(f"{shown}: this option must be finite and at most 2**64 - 1")
    if taken is None:
        below = next((option for option in _known(key, command) if option.startswith(f"{key}.")), None)
        may_be_null = below not in _declared(command)  # callbacks.progress=null leaves it out
        if below and not isinstance(value, dict) and not (value is None and may_be_null):
            raise MistakeError(f"{shown}: {key} is a group of options: set one of them, such as {below}=…")
    elif not _takes(taken.annotation, value):
        raise MistakeError(f"{shown}: this option must be {_in_words(taken.annotation)}")
    elif type(value) in (int, float) and not taken.has(value):
        raise MistakeError(f"{shown}: this option must be {taken}")


def _taken(node: DictConfig | ListConfig, name: Any, key: str, value: Any, command: str) -> Taken | None:
    """The values that an option takes; None if nothing restricts them."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    of_conf = _known(key, command).get(key)
    if of_conf is not None and of_conf.remarked:
        return of_conf  # its class need not be imported
    if not isinstance(target, str):
        return None if of_conf is None or of_conf.annotation is NoneType else of_conf
    annotation = parameter_annotations(target).get(name, Any)
    if value is None and of_conf is not None and _takes(of_conf.annotation, None):
        annotation = Any  # a default of ours may be null where Lightning's is not
    return Taken(annotation) if of_conf is None else of_conf._replace(annotation=annotation)


def _known(key: str, command: str) -> dict[str, Taken]:
    """Option -> what it takes, of the yaml of the command and of the choices of the group that the key is in."""
    return _of_group(key.partition(".")[0]) | _declared(command)


@cache
def _of_group(group: str) -> dict[str, Taken]:
    found: dict[str, Taken] = {}
    for file in (CONF / group).glob("*.yaml"):
        for name, taken in _declared(f"{group}/{file.stem}").items():
            other = found.get(f"{group}.{name}", taken)
            either = Union[taken.annotation, other.annotation]  # noqa: UP007
            found[f"{group}.{name}"] = min(taken, other, key=lambda one: one.least)._replace(annotation=either)
    return found


@cache
def _declared(config: str) -> dict[str, Taken]:
    """Option -> what it takes, of a file in conf/ and of the command whose options it has; nothing for a reference."""
    text = (CONF / f"{config}.yaml").read_text(encoding="utf-8")
    found: dict[str, Taken] = {}
    for key, node in _leaves(yaml.compose(text, yaml.SafeLoader), ""):
        if key == "defaults":
            for part in node.value:
                if isinstance(part.value, str) and (CONF / f"{part.value}.yaml").is_file():
                    found |= _declared(part.value)
            continue
        remark = _REMARK.search(text.splitlines()[node.start_mark.line])
        named = remark[1].split(" | ") if remark else []
        if not set(named) <= _NAMED.keys() or named == ["null"]:  # a remark for readers only
            remark, named = None, []
        kinds = [_NAMED[name] for name in named]
        if isinstance(node, yaml.SequenceNode) or not _REFERENCE.fullmatch(node.value):
            kind = _TAGS[node.tag.rpartition(":")[2]]
            kinds += [kind] if not remark or kind is not str else []  # YAML takes 1e-3 for a string
        if kinds:
            how, least, most = remark.groups()[1:] if remark else (None, None, None)
            limits = float(least or "-inf"), float(most or "inf")
            found[key] = Taken(Union[tuple(kinds)], *limits, how == "above", remark is not None)  # noqa: UP007
    return found


def _leaves(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    for key, child in node.value:
        if isinstance(child, yaml.MappingNode):
            yield from _leaves(child, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", child


@cache
def parameter_annotations(target: str) -> dict[str, Any]:
    """Parameter name -> annotation of a target; empty if it cannot be imported or has no annotations."""
    try:
        found = _locate(target)
        return get_type_hints(found.__init__ if isinstance(found, type) else found)
    except Exception:  # whatever an import raises: building the object raises it again
        return {}


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _elements(annotation: Any) -> tuple[Any, ...]:
    """What the elements of a list may be."""
    found = [part for argument in get_args(annotation) if argument is not Ellipsis for part in _parts(argument)]
    return tuple(dict.fromkeys(found)) or (Any,)


def _length(annotation: Any) -> int | None:
    """The number of elements of a tuple; None if it is not fixed."""
    arguments = get_args(annotation)
    return None if get_origin(annotation) is not tuple or Ellipsis in arguments else len(arguments)


def _takes(annotation: Any, value: Any) -> bool:
    """Whether a value of a config fits an annotation, as it is or as an object that may be built from it."""
    if len(parts := _parts(annotation)) > 1:
        return any(_takes(part, value) for part in parts)
    if annotation in _WORDS:
        return type(value) is annotation or (annotation is float and type(value) is int)
    if annotation in _LISTS or get_origin(annotation) in _LISTS:
        return (
            isinstance(value, list)
            and len(value) == (_length(annotation) or len(value))
            and all(isinstance(each, dict) or any(_takes(one, each) for one in _elements(annotation)) for each in value)
        )
    package = getattr(annotation, "__module__", "").partition(".")[0]
    return isinstance(value, dict) or package not in ("torch", "diffusion_lab")  # only a dict becomes such an object


def _in_words(annotation: Any) -> str:
    parts = _parts(annotation)
    words = [word for kind, word in _WORDS.items() if kind in parts and not (kind is int and float in parts)]
    for part in parts:
        if part in _LISTS or get_origin(part) in _LISTS:
            elements = _elements(part)
            number, of = _length(part), _ELEMENTS.get(elements[0], "") if len(elements) == 1 else ""
            words.append(
                f"a list of {number}{of.removeprefix(' of')} values" if number else f"a list{of}, such as [1,2]"
            )
    return " or ".join(words) or "a group of options with a _target_"
