"""What a class is called in a report: by the choice of a config group that builds it, as on the command line.

Hydra knows the choices only while it composes; the config of a run holds the classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.options import flat

TARGET = "._target_"
_GLOBAL = "# @package _global_"


@dataclass(frozen=True, eq=False)
class Choice:
    """A choice of a group.

    options  those that it sets, without those of the groups inside its own
    bases    the choices that it starts from
    telling  which of its options tell it from others that build the same class
    """

    name: str
    options: Mapping[str, Any]
    bases: tuple[str, ...]
    telling: Set[str] = frozenset()


def choices_of(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Choice]]:
    """For each config, as dotted options: group (sampler.spacing) -> the choice that builds its class (log_snr).

    Absent where no choice of the group builds the class, as it is with a user's own, and where several do and the options of
    one of the configs do not tell which.
    """
    found = [{key: _choice(key, config) for key in map(_group, config) if key} for config in configs]
    untold = {
        (group, str(config[group + TARGET]))
        for config, choices in zip(configs, found, strict=True)
        for group, choice in choices.items()
        if choice is None
    }
    return [
        {
            group: choice
            for group, choice in choices.items()
            if choice is not None and (group, str(config[group + TARGET])) not in untold
        }
        for config, choices in zip(configs, found, strict=True)
    ]


def _group(option: str) -> str:
    return option.removesuffix(TARGET) if option.endswith(TARGET) else ""


def _choice(group: str, config: Mapping[str, Any]) -> Choice | None:
    """The choice whose options the config has; of several, the one that says most, and of those the one that others start from."""
    choices = choices_by_class(group).get(str(config[group + TARGET]), [])
    agree = [choice for choice in choices if all(config.get(key) == choice.options[key] for key in choice.telling)]
    most = [choice for choice in agree if len(choice.telling) == max(len(one.telling) for one in agree)]
    first = [choice for choice in most if not any(other.name in choice.bases for other in most)]
    return first[0] if len(first) == 1 else None


@cache
def choices_by_class(group: str) -> Mapping[str, list[Choice]]:
    """Class (a.b.LogSNRSpacing) -> the choices of the group that build it."""
    choices = defaultdict(list)
    parts = group.split(".")
    if all(part.isidentifier() for part in parts):  # a stranger's config names no folder of ours in another way
        for file in sorted(CONF.joinpath(*parts).glob("*.yaml")):
            choice = _read(file, group)
            choices[choice.options.get(group + TARGET)].append(choice)
    return {target: _told_apart(some) for target, some in choices.items() if target is not None}


def _told_apart(choices: Sequence[Choice]) -> list[Choice]:
    def telling(choice: Choice) -> Set[str]:
        return {key for key, value in choice.options.items() if any(one.options.get(key) != value for one in choices)}

    return [replace(choice, telling=telling(choice)) for choice in choices]


def _read(file: Path, group: str) -> Choice:
    text = file.read_text()
    content = yaml.safe_load(text) or {}  # a file of comments only changes nothing
    beside = file.parent.joinpath
    names = [base for base in content.pop("defaults", []) if isinstance(base, str) and beside(f"{base}.yaml").is_file()]
    bases = [_read(beside(f"{name}.yaml"), group) for name in names]
    inside = [f"{group}.{folder.name}." for folder in file.parent.iterdir() if folder.is_dir()]
    own = {
        key: value
        for key, value in flat(content, prefix="" if text.startswith(_GLOBAL) else f"{group}.").items()
        if not any(map(key.startswith, inside)) and "${" not in str(value) and not key.endswith("._partial_")
    }
    options = {key: value for base in bases for key, value in base.options.items()} | own
    return Choice(file.stem, options, (*names, *(name for base in bases for name in base.bases)))
