"""In which options the configs of some runs differ: their axes, when no sweep wrote them down.

A class is called by the choice of a config group that builds it, as on the command line: Hydra knows the choices only while it
composes, and the config of a run holds the classes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.fingerprints import SCORING_GROUPS, TRAINING_EXCLUDED
from diffusion_lab.store.options import above_and_itself, flat
from diffusion_lab.store.records import RunError, inside, printable, read_yaml

# What is chosen for scoring is a choice here; `model` repeats the groups, `facts` are the data set's own.
_IGNORED = (TRAINING_EXCLUDED - {*SCORING_GROUPS, "data.validation"}) | {"model", "facts", "evaluation.batch_size"}
TARGET = "._target_"
_LONGEST = 80  # characters of a list
FAMILY = "model"  # the axis of the families of models
SAMPLES = "samples"  # the axis of what the samples are of, where some were given: a family of models, or a file
_OF_GIVEN = frozenset(
    (SAMPLES, "reference", "data", "features")
)  # all that is chosen where samples were given: no model drew them
# What is chosen whatever the family; in all else a family may have values of its own.
_OF_ALL_FAMILIES = _OF_GIVEN | {
    "seed", "conditional", "labels", "train_images", "evaluation", "trainer.max_steps", "trainer.max_time"
}  # fmt: skip


def read_choices(configs: Sequence[Path]) -> tuple[dict[str, list[str]], list[dict[str, str | None]], list[str]]:
    """(axes, the choices of each config, one sentence for each config that cannot be read).

    An option is an axis when it differs between two configs. Left out are options that say the same again: those that follow
    from the family of the models (the learning rate, where each family has one), those that follow from the class that their
    group builds (schedule.beta_end from schedule), and copies under another group (data.seed of seed). A group is called by
    its name and its choice as on the command line, or by the class it builds where that does not tell the choice.
    """
    unread: list[str] = []
    options = [_options(path, unread) for path in configs]
    named = choices_of(options)
    texts = list(map(_texts, options, named))
    group_of = {key: group for some in named for group, choice in some.items() for key in choice.distinguishing}
    keys = list(dict.fromkeys(key for config in texts for key in config))
    drawn = [config for config in texts if config.keys() - _OF_GIVEN]  # by a model
    families = {
        config.get(SAMPLES): [other for other in drawn if other.get(SAMPLES) == config.get(SAMPLES)] for config in drawn
    }

    def varies(key: str) -> bool:
        of_all = _OF_ALL_FAMILIES & {*above_and_itself(key)}
        among = [texts] if key in _OF_GIVEN else [drawn] if of_all else families.values()
        not_measured = {None} if key.startswith("metrics.") else set()  # what only some runs measured sets none apart
        return any(len({config.get(key) for config in some} - not_measured) > 1 for some in among)

    varying = {key: [config.get(key) for config in texts] for key in keys if varies(key)}
    kept: dict[str, list[str | None]] = {}
    for key in sorted(varying, key=lambda key: key.count(".")):  # the shorter name of two copies
        copies = (k for k in kept if k.rpartition(".")[2] == key.rpartition(".")[2])
        if not _follows(key, varying, options, group_of) and not any(kept[k] == varying[key] for k in copies):
            kept[key] = varying[key]
    groups = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    order = sorted(kept, key=lambda key: (groups.index(key.partition(".")[0]), key.count(".")))
    names = {key: FAMILY if key == SAMPLES and len(drawn) == len(texts) else key for key in order}
    axes = {names[key]: sorted({value for value in kept[key] if value is not None}, key=natural) for key in order}
    return axes, [{names[key]: config.get(key) for key in order} for config in texts], unread


def natural(text: str) -> tuple[int, float, str]:
    """Sorts numbers by value, before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _follows(
    key: str,
    varying: Mapping[str, Sequence[str | None]],
    options: Sequence[Mapping[str, Any]],
    group_of: Mapping[str, str],
) -> bool:
    """Whether the option follows from the name of a choice, which tells it, or from a class: then it has one value wherever there
    is such an option, and the class of a group above it says where that is."""

    def function_of(values: Sequence[str | None]) -> bool:
        return len(set(zip(values, varying[key], strict=True))) == len(set(values))

    groups = list(above_and_itself(key))[:-1]
    classes = ([str(config.get(group + TARGET)) for config in options] for group in groups)
    return (group_of.get(key) in varying and function_of(varying[group_of[key]])) or (
        len(set(varying[key]) - {None}) == 1 and any(map(function_of, classes))
    )


def _options(path: Path, unread: list[str]) -> dict[str, Any]:
    """Dotted option -> value; none, and a sentence in `unread`, where the config cannot be read."""
    try:
        config = read_yaml(inside(path.parent, path))
        options = flat(as_scored(config))
        if isinstance(config.get("features"), Mapping):
            options["features"] = ", ".join(map(str, config["features"]))
        str(options)  # fails where a number has too many digits to be shown
        return options
    except (OSError, RunError, RecursionError, ValueError) as error:
        unread.append(f"{path} cannot be read, so the run's choices are unknown: {' '.join(str(error).split())}")
        return {}


def _texts(options: Mapping[str, Any], choices: Mapping[str, Choice]) -> dict[str, str]:
    """Dotted option -> value as text; the choice, or the class, under the group's name."""
    given = isinstance(options.get(SAMPLES), str)
    family = options.get(FAMILY + TARGET)
    texts = {} if given or family is None else {SAMPLES: _choice_name(FAMILY, family, choices)}
    for name, value in options.items():
        if value is None or name.endswith("._partial_") or _IGNORED & {*above_and_itself(name)}:
            continue
        key = printable(name.removesuffix(TARGET))
        if key in _OF_GIVEN or not given:
            texts[key] = _choice_name(key, value, choices) if name.endswith(TARGET) else _text(value)
    return texts


def _text(value: object) -> str:
    """Of a long list, as of every β of a schedule, its beginning and a digest."""
    text = printable(str(value))
    if not isinstance(value, list) or len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 11]}… {hashlib.sha256(text.encode()).hexdigest()[:9]}"


def _choice_name(group: str, target: object, choices: Mapping[str, Choice]) -> str:
    """By the choice, unless machines tell it from others; a class that has the name of a choice by its whole path."""
    choice, own = choices.get(group), str(target).rpartition(".")[2]
    if choice is not None and not any(_IGNORED & {*above_and_itself(key)} for key in choice.distinguishing):
        return choice.name
    return printable(str(target) if is_choice(group, own) else own)


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
        options = _own_options(file, group)
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


def _own_options(file: Path, group: str) -> dict[str, Any]:
    content = _content(file)
    own = as_scored(content).get(group, content) or {}  # the first where the choice sets other groups too
    options: dict[str, Any] = {}
    for base in content.get("defaults", []):  # names of choices beside this one; others set other groups
        if isinstance(base, str) and base == Path(base).name and (beside := file.parent / f"{base}.yaml").is_file():
            options |= _own_options(beside, group)
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
