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
from diffusion_lab.store.options import flat

TARGET = "._target_"


@dataclass(frozen=True, eq=False)
class Choice:
    """A choice of a group.

    options         those that it sets in its group, without those of the groups inside it
    distinguishing  which of these tell it from other choices that build the same class
    """

    name: str
    options: Mapping[str, Any]
    distinguishing: Set[str] = frozenset()


def as_scored(config: Mapping[str, Any]) -> dict[str, Any]:
    """`variance` is the one that scores: the measured one where there is one, with the one of training as `variance.trained`."""
    if not isinstance(measured := config.get("measured_variance"), Mapping):
        return dict(config)
    rest = {key: value for key, value in config.items() if key != "measured_variance"}
    return rest | {"variance": {**measured, "trained": config.get("variance")}}


def choices_of(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Choice]]:
    """For each config, as dotted options: group (sampler.spacing) -> the choice that builds its class (log_snr).

    Absent where no choice of the group builds the class, as it is with a user's own, and where several do and the options of
    one of the configs do not tell which.
    """
    classes = [
        {key.removesuffix(TARGET): str(config[key]) for key in config if key.endswith(TARGET)} for config in configs
    ]
    found = [
        {group: (target, _choice(group, target, config)) for group, target in some.items()}
        for config, some in zip(configs, classes, strict=True)
    ]
    ambiguous = {(group, target) for some in found for group, (target, choice) in some.items() if choice is None}
    return [
        {group: choice for group, (target, choice) in some.items() if choice and (group, target) not in ambiguous}
        for some in found
    ]


def _choice(group: str, target: str, config: Mapping[str, Any]) -> Choice | None:
    """The one choice that builds the class and whose distinguishing options the config has."""
    choices = choices_by_class(group).get(target, [])
    agree = [
        choice for choice in choices if all(config.get(key) == choice.options[key] for key in choice.distinguishing)
    ]
    return agree[0] if len(agree) == 1 else None


def is_choice(group: str, name: str) -> bool:
    return any(choice.name == name for some in choices_by_class(group).values() for choice in some)


@cache
def choices_by_class(group: str) -> Mapping[str, list[Choice]]:
    """Class (a.b.LogSNRSpacing) -> the choices of the group that build it, without aliases such as variance=fixed."""
    choices = defaultdict(list)
    folder = _folders().get(group)
    for file in sorted(folder.glob("*.yaml")) if folder else ():
        options = _options(file, group)
        if not _is_alias(file) and group + TARGET in options:
            choices[options[group + TARGET]].append(Choice(file.stem, options))
    return {target: _distinguished(some) for target, some in choices.items()}


@cache
def _folders() -> Mapping[str, Path]:
    """Group -> its folder. A stranger's config names no other."""
    folders = {file.parent for file in CONF.glob("*/**/*.yaml")}
    return {".".join(folder.relative_to(CONF).parts): folder for folder in folders}


def _distinguished(choices: Sequence[Choice]) -> list[Choice]:
    def distinguishing(choice: Choice) -> Set[str]:
        return {key for key, value in choice.options.items() if any(one.options.get(key) != value for one in choices)}

    return [replace(choice, distinguishing=distinguishing(choice)) for choice in choices]


def _options(file: Path, group: str) -> dict[str, Any]:
    content = _content(file)
    own = as_scored(content).get(group, content) or {}  # the first where the choice sets other groups too
    options: dict[str, Any] = {}
    for base in content.get("defaults", []):  # names of choices beside this one; others set other groups
        if isinstance(base, str) and base == Path(base).name and (beside := file.parent / f"{base}.yaml").is_file():
            options |= _options(beside, group)
    inside = [f"{group}.{folder.name}." for folder in file.parent.iterdir() if folder.is_dir()]
    return options | {
        key: value
        for key, value in flat(own, prefix=f"{group}.").items()
        if not any(map(key.startswith, inside)) and "${" not in str(value) and key != f"{group}.defaults"
    }


def _is_alias(file: Path) -> bool:
    content = _content(file)
    return content.keys() == {"defaults"} and all(isinstance(base, str) for base in content["defaults"])


def _content(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text()) or {}  # a file of comments only changes nothing
