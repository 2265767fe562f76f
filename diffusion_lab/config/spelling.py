"""Configs in the spelling of names, and in today's (conf/spellings.yaml).

The name of a training is a digest of its config in one spelling, without options at the value that changes nothing, so renaming an
option or a class, or adding an option, changes no name. Configs of earlier versions are read in today's spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.option_names import canonical_json

TABLE: dict[str, Any] = yaml.safe_load((CONF / "spellings.yaml").read_text(encoding="utf-8"))
_NAMED, _TODAY = 0, -1  # places in a list of spellings


def spelling_of_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, in plain containers, as it is named: without options at the value that changes nothing."""
    return _without_later(_spelt(config, _NAMED))


def todays_spelling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of any version, in plain containers, with today's names of options and classes."""
    return TABLE["filled"] | _spelt(config, _TODAY)


def meanings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A recorded config in today's spelling, and the other configs that 0.1 would have recorded so."""
    read = [todays_spelling(config)]
    if TABLE["filled"].keys() <= config.keys():
        return read
    for option, words in TABLE["resolved"].items():
        *above, key = option.split(".")
        for word, values in words.items():
            for each in [each for each in read if _group(each, above).get(key) in values]:
                other = deepcopy(each)
                _group(other, above)[key] = word
                read.append(other)
    return read


@cache
def _spellings(kind: str, place: int) -> dict[str, str]:
    """Spelling -> that of names, or today's."""
    return {spelling: spellings[place] for spellings in TABLE[kind] for spelling in spellings}


def _spelt(config: Mapping[str, Any], place: int) -> dict[str, Any]:
    options = _spellings("options", place)
    spelt: dict[str, Any] = _classes_spelt(deepcopy(config), place)
    for option, wanted in options.items():
        *above, key = option.split(".")
        if option != wanted and key in (group := _group(spelt, above)):
            *above, new = wanted.split(".")
            _group(spelt, above, make=True)[new] = group.pop(key)
    return spelt


def _group(config: dict[str, Any], path: list[str], make: bool = False) -> dict[str, Any]:
    """The group at a path. An empty one, which `make` adds to the config, if there is none."""
    for key in path:
        child = config.setdefault(key, {}) if make else config.get(key)
        config = child if isinstance(child, dict) else {}
    return config


def _classes_spelt(node: Any, place: int) -> Any:
    """A part of a config with the spellings of its classes, and of their parameters."""
    if isinstance(node, list | tuple):
        return [_classes_spelt(child, place) for child in node]
    if not isinstance(node, Mapping):
        return node
    target, parameters = str(node.get("_target_")), _spellings("options", place)
    named = _spellings("targets", _NAMED).get(target, target)

    def spelt(key: str) -> str:
        wanted = parameters.get(f"{named}.{key}")
        return key if wanted is None else wanted.rpartition(".")[2]

    spelt_node = {spelt(key): _classes_spelt(child, place) for key, child in node.items()}
    return spelt_node | ({"_target_": _spellings("targets", place).get(target, target)} if "_target_" in node else {})


def _without_later(node: Any, prefix: str = "") -> Any:
    """A part of a config, in the spelling of names, without options at the value that changes nothing. prefix: its path."""
    if isinstance(node, list):
        return [_without_later(child) for child in node]
    if not isinstance(node, dict):
        return node
    later, kept = TABLE["later"], {}
    for key, value in node.items():
        child = _without_later(value, f"{prefix}{key}.")
        idle = [later[name] for name in (f"{prefix}{key}", f"{node.get('_target_')}.{key}") if name in later]
        if canonical_json(child) not in map(canonical_json, idle):
            kept[key] = child
    return kept
