"""Values of a config as plain containers, and as text in Hydra's override grammar."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.store.options import flat

# Hydra's flags that a value follows, and one that a value may follow, with its values.
_WITH_VALUE = {"--config-dir", "-cd", "--cfg", "-c", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p"}
_WITH_VALUE |= {"--experimental-rerun"}
ALL = "all"  # condition=3 is condition={all: 3}: the value of the only condition
_INFO, _INFO_VALUES = {"--info", "-i"}, {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}


def as_plain(cfg: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """A config, or a group of it, in plain containers. resolve: with the values of its interpolations in place of their texts."""
    found: Any = OmegaConf.to_container(cfg, resolve=resolve)
    return found


def quoted(value: Any) -> str:
    """A value in Hydra's override grammar, where nothing in it is read as anything else."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return QuotedString(value, Quote.double).with_quotes()
        case list():
            return f"[{','.join(map(quoted, value))}]"
    return str(value)


def unquoted(text: str) -> str:
    """The text that a user put in quotes, without them and their escapes; anything else, as it is."""
    if not text.startswith(("'", '"')):
        return text
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:  # Hydra says so when it composes the config
        return text
    return value if isinstance(value, str) else text


def in_full(option: str) -> str:
    """condition=VALUE of `sample` as condition={all: VALUE}; a mapping and any other option as they are."""
    # Hydra takes condition=3 for the choice of a group, because `train` has one of this name, but a mapping for a value.
    name, _, value = option.partition("=")
    return option if name != "condition" or value.startswith("{") else f"condition={{{ALL}: {value or repr('')}}}"


def flags_and_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and all other words: the command and its options."""
    flags: list[str] = []
    words: list[str] = []
    before = ""
    for argument in arguments:
        is_value = before in _WITH_VALUE or (before in _INFO and argument in _INFO_VALUES)
        (flags if is_value or argument.startswith("-") else words).append(argument)
        before = "" if is_value else argument
    return flags, words


def named(options: Sequence[str]) -> dict[str, str]:
    """Key, without + and ~ and its package, -> the text of its value, of the options of a command line; the last one counts."""
    pairs = (word.partition("=") for word in flags_and_words(options)[1])
    return {key.lstrip("+~").partition("@")[0]: value for key, _, value in pairs}


def options_of_this_job(**more: str) -> list[str]:
    """The options of this job, and where Hydra finds its choices, for another process. more: options that only this one knows."""
    hydra = HydraConfig.get()
    options = [*hydra.overrides.task, *(f"{key}={quoted(value)}" for key, value in more.items())]
    options += [f"hydra.searchpath={quoted(list(hydra.searchpath))}"] if hydra.searchpath else []
    for source in hydra.runtime.config_sources:
        options += ["--config-dir", source.path] if source.provider == "command-line" else []
    return options


def as_options(given: Mapping[str, Any]) -> list[str]:
    """{"sampler": DDIMSampler(EvenSpacing(20)), "seed": 3} as options of the command line. None sets nothing.

    An object becomes its class and its fields, in place of a choice. ValueError where one of them is no plain value.
    """
    options = []
    for name, value in given.items():
        plain = _plain(name, value)
        if isinstance(plain, dict):
            options += [f"~{name}", *(f"++{name}.{key}={quoted(part)}" for key, part in flat(plain).items())]
        elif plain is not None:
            options.append(f"{name}={quoted(plain)}")
    return options


def _plain(name: str, value: Any) -> Any:
    """A value as yaml has it: a path as text, an array as a list, a dataclass as `_target_` and its fields."""
    value = value.tolist() if hasattr(value, "tolist") else value
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case list() | tuple():
            return [_plain(name, each) for each in value]
    kind = type(value)
    # By the outermost package that exports it, as in conf/, so that an object and a choice of the same values are one score.
    for module in accumulate(kind.__module__.split("."), "{}.{}".format):
        if is_dataclass(kind) and getattr(sys.modules.get(module), kind.__name__, None) is kind:
            parts = {field.name: _plain(name, getattr(value, field.name)) for field in fields(kind) if field.init}
            return {"_target_": f"{module}.{kind.__name__}", **parts}
    raise ValueError(f"{name}: no option can hold a {kind.__name__}; use one of the choices of {name}, by its name")
