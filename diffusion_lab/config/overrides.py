"""Config values as plain containers and as text in Hydra's override grammar."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.main import get_args_parser
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.store.option_names import flat

_FLAGS = {name: action for action in get_args_parser()._actions for name in action.option_strings}  # of Hydra
TRAINED = "trained"  # sampler=trained: the choice that a model was trained with
ALL = "all"  # condition=3 is short for condition={all: 3}, the value of the only condition


def as_plain(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """A config, or a group of it, in plain containers. resolve: replace interpolations by their values."""
    found: Any = OmegaConf.to_container(cfg, resolve=resolve)
    return found


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path of names and indices, value) for each leaf of plain containers; an empty container is a leaf."""
    if isinstance(node, dict | list) and node:
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(child, (*path, name))
    else:
        yield path, node


def quoted(value: Any) -> str:
    """A value as a quoted literal in Hydra's override grammar."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return QuotedString(value, Quote.double).with_quotes()
        case list():
            return f"[{','.join(map(quoted, value))}]"
    return str(value)


def unquoted(text: str) -> str:
    """The text inside the user's quotes, unescaped; text without quotes is returned as it is."""
    if not text.startswith(("'", '"')):
        return text
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:  # Hydra reports this when it composes the config
        return text
    return value if isinstance(value, str) else text


def in_full(option: str) -> str:
    """condition=VALUE of `sample` as condition={all: VALUE}; a mapping, and any other option, stays as it is."""
    # Hydra reads condition=3 as a choice of the group `condition` of `train`, but accepts a mapping as a value.
    name, _, value = option.partition("=")
    return option if name != "condition" or value.startswith("{") else f"condition={{{ALL}: {value or repr('')}}}"


def flags_and_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(flags with their values, all other words: the command and its options)."""
    flags: list[str] = []
    words: list[str] = []
    before = None  # the flag before the argument
    for argument in arguments:
        is_value = before is not None and (
            before.nargs is None or (before.nargs == "?" and argument in (before.choices or ()))
        )
        (flags if is_value or argument.startswith("-") else words).append(argument)
        before = None if is_value else _FLAGS.get(argument)
    return flags, words


def unknown_flag(arguments: Sequence[str]) -> str | None:
    """The name of the first flag that Hydra does not have."""
    flags = (word.partition("=")[0] for word in flags_and_words(arguments)[0] if word.startswith("-"))
    return next((flag for flag in flags if flag not in _FLAGS), None)


def named(options: Sequence[str]) -> dict[str, str]:
    """Keys of a command line's options, without +, ~ and package, and the texts of their values; the last one wins."""
    pairs = (word.partition("=") for word in flags_and_words(options)[1])
    return {key.lstrip("+~").partition("@")[0]: value for key, _, value in pairs}


def options_of_this_job(**more: str) -> list[str]:
    """The options of this job and its search path, for another process. more: options added for that process."""
    hydra = HydraConfig.get()
    options = [*hydra.overrides.task, *(f"{key}={quoted(value)}" for key, value in more.items())]
    options += [f"hydra.searchpath={quoted(list(hydra.searchpath))}"] if hydra.searchpath else []
    return options + _config_dirs()


def command_as_typed(command: str) -> str:
    """This job as a line to type again, with references to passwords in the environment instead of their values."""
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    typed = [word for word in words if not word.endswith(f"={TRAINED}")]  # which the command adds itself
    return shlex.join(["diffusion-lab", command, *typed, *_config_dirs()])


def _config_dirs() -> list[str]:
    folders = [each.path for each in HydraConfig.get().runtime.config_sources if each.provider == "command-line"]
    return [word for folder in folders for word in ("--config-dir", folder)]


def as_options(given: Mapping[str, Any]) -> list[str]:
    """{"sampler": DDIMSampler(EvenSpacing(20)), "seed": 3} as options of the command line. None sets nothing.

    An object becomes its class and its fields instead of a choice. ValueError if a field is not a plain value.
    """
    options = []
    for name, value in given.items():
        plain = as_value(name, value)
        if isinstance(plain, dict):
            options += [f"~{name}", *(f"++{name}.{key}={quoted(part)}" for key, part in flat(plain).items())]
        elif plain is not None:
            options.append(f"{name}={quoted(plain)}")
    return options


def as_value(name: str, value: Any) -> Any:
    """A value as it is written in yaml: a path as text, an array as a list, a dataclass as `_target_` and fields."""
    value = value.tolist() if hasattr(value, "tolist") else value
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case list() | tuple():
            return [as_value(name, each) for each in value]
    kind = type(value)
    # Named by the outermost package that exports it, as in conf/: an object and a choice with equal values give one score.
    for module in accumulate(kind.__module__.split("."), "{}.{}".format):
        if is_dataclass(kind) and getattr(sys.modules.get(module), kind.__name__, None) is kind:
            parts = {field.name: as_value(name, getattr(value, field.name)) for field in fields(kind) if field.init}
            return {"_target_": f"{module}.{kind.__name__}", **parts}
    raise ValueError(f"{name}: no option can hold a {kind.__name__}; use one of the choices of {name}, by its name")
