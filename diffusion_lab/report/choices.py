"""The axes of runs without a sweep: the options in which their configs differ.

A class is named by the recorded choice that built it, as on the command line. If a run records no choice, for example one scored
from Python, the class is shown by its own name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.store.option_names import NOT_IN_THE_NAME, SCORING_GROUPS, above_and_itself, flat
from diffusion_lab.store.records import RunError, inside, printable, read_yaml

# Options of scoring are choices here; `model` repeats the groups, and `facts` follow from the data set.
_IGNORED = (NOT_IN_THE_NAME - {*SCORING_GROUPS, "data.validation"}) | {"model", "facts", "evaluation.batch_size"}
TARGET = "._target_"
_LONGEST, _LONGEST_LIST = 200, 80  # characters of a name or a value
FAMILY = "model"  # the axis of model families
SAMPLES = "samples"  # the axis of given samples: the family of their model, or a file
_OF_GIVEN = frozenset((SAMPLES, "reference", "data", "features"))  # all options of scoring given samples
# Options that are independent of the family; all others may have default values that depend on it.
_OF_ALL_FAMILIES = _OF_GIVEN | {
    "seed", "condition", "train_images", "evaluation", "trainer.max_steps", "trainer.max_time"
}  # fmt: skip

_BARE = ("true", "false", "none")  # words that say nothing without the name of their axis

Options = Mapping[str, Any]  # by dotted name
Recorded = Mapping[str, str | None]  # group (sampler/spacing) -> its choice


def read_choices(
    runs: Sequence[tuple[Path, Recorded]],
) -> tuple[dict[str, list[str]], list[dict[str, str | None]], list[str]]:
    """(axes, the choices of each run, a sentence for each unreadable config). runs: config, recorded choices.

    An option is an axis if its value differs between two configs. Redundant options are omitted: those implied by
    the model family (the learning rate, if each family has one), those implied by the choice of their group
    (schedule.beta_end by schedule), and copies under another group (data.seed of seed).
    """
    unread: list[str] = []
    options = [_options(path, unread) for path, _ in runs]
    names = _names(options, [recorded for _, recorded in runs])
    texts = [_texts(config, names) for config in options]
    keys = list(dict.fromkeys(key for config in texts for key in config))
    drawn = [config for config in texts if config.keys() - _OF_GIVEN]  # samples of a model
    families = {
        config.get(SAMPLES): [other for other in drawn if other.get(SAMPLES) == config.get(SAMPLES)] for config in drawn
    }

    def varies(key: str) -> bool:
        of_all = _OF_ALL_FAMILIES & {*above_and_itself(key)}
        among = [texts] if key in _OF_GIVEN else [drawn] if of_all else families.values()
        not_measured = {None} if key.startswith("metrics.") else set()  # not choices, if only some runs have them
        return any(len({config.get(key) for config in some} - not_measured) > 1 for some in among)

    varying = {key: [config.get(key) for config in texts] for key in keys if varies(key)}
    kept: dict[str, list[str | None]] = {}
    for key in sorted(varying, key=lambda key: key.count(".")):  # of two copies, the shorter name is kept
        copies = (k for k in kept if k.rpartition(".")[2] == key.rpartition(".")[2])
        if not _follows(key, varying, options) and not any(kept[k] == varying[key] for k in copies):
            kept[key] = varying[key]
    groups = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    order = sorted(kept, key=lambda key: (groups.index(key.partition(".")[0]), key.count(".")))
    axes = {key: FAMILY if key == SAMPLES and len(drawn) == len(texts) else key for key in order}
    values = {axes[key]: sorted({value for value in kept[key] if value is not None}, key=natural) for key in order}
    return values, [{axes[key]: config.get(key) for key in order} for config in texts], unread


def natural(text: str) -> tuple[bool, float, str]:
    """A sort key: numbers by value, before words."""
    number = reads_as_number(text)
    return not number, float(text) if number else 0.0, text


def reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _follows(key: str, varying: Mapping[str, Sequence[str | None]], options: Sequence[Options]) -> bool:
    """Whether a group above the option implies its value: by its class, if all runs with this option have one value, or by its
    choice, if several choices build one class with different values."""

    def function_of(values: Sequence[str | None]) -> bool:
        return len(set(zip(values, varying[key], strict=True))) == len(set(values))

    for group in list(above_and_itself(key))[:-1]:
        by_class = function_of([str(config.get(group + TARGET)) for config in options])
        if by_class and len(set(varying[key]) - {None}) == 1:
            return True
        if not by_class and group in varying and function_of(varying[group]):
            return True
    return False


def _options(path: Path, unread: list[str]) -> dict[str, Any]:
    """Dotted option -> value; empty, with a sentence in `unread`, if the config cannot be read."""
    try:
        config = read_yaml(inside(path.parent, path))
        # The variance used in scoring: the measured one, if any, with that of training below it.
        if isinstance(measured := config.pop("measured_variance", None), Mapping):
            config["variance"] = {**measured, "trained": config.get("variance")}
        options = flat(config)
        for group in ("features", "condition"):
            if isinstance(config.get(group), Mapping):
                options[group] = ", ".join(map(str, config[group])) or "none"
        if "evaluation.seed" in options and options["evaluation.seed"] == options.get("seed"):
            options["evaluation.seed"] = "seed"  # the default: one value, whatever the seeds are
        str(options)  # fails for numbers with too many digits
        return options
    except (OSError, RunError, RecursionError, ValueError) as error:
        unread.append(f"{path} cannot be read, so the run's choices are unknown: {' '.join(str(error).split())}")
        return {}


def _names(options: Sequence[Options], recorded: Sequence[Recorded]) -> dict[str, dict[str, str]]:
    """Group -> object built -> name: the choice if every run records one and no choice builds two classes, else the class."""
    names: dict[str, dict[str, str]] = {}
    groups = dict.fromkeys(key.removesuffix(TARGET) for config in options for key in config if key.endswith(TARGET))
    for group in groups:
        built = [
            (str(config[group + TARGET]), _built(group, config), choices.get(group.replace(".", "/")))
            for config, choices in zip(options, recorded, strict=True)
            if group + TARGET in config
        ]
        targets = {target for target, _, _ in built}
        of_choice = {(choice, target) for target, _, choice in built}
        if all(choice for choice, _ in of_choice) and len({choice for choice, _ in of_choice}) == len(of_choice):
            names[group] = {what: str(choice) for _, what, choice in reversed(built)}  # the first of two aliases
            continue
        short = [target.rpartition(".")[2] for target in targets]
        names[group] = {
            what: name if short.count(name := target.rpartition(".")[2]) == 1 else target for target, what, _ in built
        }
    return names


def with_axis(axis: str, value: str) -> str:
    """The value of an axis where no heading names the axis: "ddim", but "scale 2" and "guidance none"."""
    return value if value[0].isalpha() and value.lower() not in _BARE else f"{axis} {value}"


def _built(group: str, options: Options) -> str:
    return str([(key, value) for key, value in options.items() if key.startswith(f"{group}.")])


def _texts(options: Options, names: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Dotted option -> value as text; under a group's name its choice or class."""

    def name_of(group: str) -> str:
        return _text(names[group][_built(group, options)])

    given = isinstance(options.get(SAMPLES), str)
    texts = {} if given or FAMILY + TARGET not in options else {SAMPLES: name_of(FAMILY)}
    for name, value in options.items():
        if value is None or name.endswith("._partial_") or _IGNORED & {*above_and_itself(name)}:
            continue
        key = _text(name.removesuffix(TARGET))
        if key in _OF_GIVEN or not given:
            texts[key] = name_of(name.removesuffix(TARGET)) if name.endswith(TARGET) else _text(value)
    return texts


def _text(value: object) -> str:
    """The text; long text, or a long list such as every β of a schedule, is cut and given a digest."""
    text, most = printable(str(value)), _LONGEST_LIST if isinstance(value, list) else _LONGEST
    return text if len(text) <= most else f"{text[: most - 11]}… {hashlib.sha256(text.encode()).hexdigest()[:9]}"
