"""Options and choices that do not exist, in one sentence each, with the names that may be meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.comments import is_global, options_of
from diffusion_lab.config.overrides import TRAINED, as_plain, named
from diffusion_lab.store.option_names import SCORING_GROUPS, above_and_itself, flat

_RESUMING = ("ckpt_path", "resume", "resume_from_checkpoint")  # habits from other programs
_RESUME = "the same command resumes by itself, and init_from=FOLDER starts from another model"
_USUAL_NAMES = {
    "fid": "frechet_distance",
    "kid": "kernel_distance",
    "is": "inception_score",
    "num_images": "evaluation.num_samples",
}


def missing_choice(error: MissingConfigException, options: Sequence[str]) -> str:
    """One sentence for a choice that a group does not have; Hydra does not list those in folders, such as network=diffusion/…."""
    file = error.missing_cfg_file or ""
    group, _, option = file.rpartition("/")
    written = next((word for word in options if word.replace("=", "/", 1) == file), f"{group}={option}")
    if (group, option) == ("hydra/sweeper", "optuna"):
        return "hydra/sweeper=optuna is not installed: pip install 'diffusion-lab[optuna]'"
    files = (file.relative_to(CONF / group).with_suffix("") for file in (CONF / group).rglob("*.yaml"))
    choices = sorted({*(error.options or ())} - {TRAINED} or map(str, files))
    if not group or not choices:
        is_flag = "primary config" in str(error)
        said = " ".join(str(error).split("Config search path")[0].split())
        return f"{said}{' Remove --config-name: each command has its own.' if is_flag else ''}"
    of_family = [name for name in choices if name.startswith(f"{named(options).get('model', 'diffusion')}/")]
    choices = of_family or choices  # of networks, those of the model
    likely = [name for name in choices if name == _USUAL_NAMES.get(option) or name.endswith(f"/{option}")]
    likely = likely or difflib.get_close_matches(option, choices, n=1)
    meant = "".join(f"; did you mean {close}?" for close in likely)
    return f"{written}: there is no such choice; choose one of {', '.join(choices)}{meant}"


def unknown_option(
    key: str, known: Iterable[str], command: str = "", hydra: HydraConf | DictConfig | None = None
) -> str:
    """One sentence for an option that does not exist, with those of `known` that may be meant.

    hydra: that of the composed config, for an option that one of its choices may have set.
    """
    if key.rpartition(".")[2] in _RESUMING:
        return f"there is no option {key!r}: {_RESUME}"
    trains, is_group = command in ("train", "schedule"), (CONF / key).is_dir()
    models = sorted(file.stem for file in (CONF / "model").glob("*.yaml") if f"  - /{key}: " in file.read_text())
    if trains and is_group and models:
        fix = f"remove {key}=…, or choose model={' or '.join(models)}"
        return f"{key} is not a part of the model that you chose: {fix}"
    if command and not trains and is_group and key not in SCORING_GROUPS:
        other = "; model_dir=… names a trained model" if key == "model" else ""
        return f"{key} is chosen in training (diffusion-lab train {key}=…), not in {command}{other}"
    others = _choices_with(key)
    typed = named(hydra.overrides.task) if hydra is not None else {}
    if hydra is not None and not (others and key in typed) and (said := _set_by_a_choice(key, hydra.runtime.choices)):
        return said
    if others:
        return f"there is no option {key!r} with your choices: it is one of {', '.join(others)}"
    fix = f"; see diffusion-lab {command} --help" if command else ""
    if meant := closest(key, known):
        fix = f"; did you mean {' or '.join(meant)}?"
    return f"there is no option {key!r}{fix}"


def _set_by_a_choice(key: str, choices: Mapping[str, str]) -> str | None:
    """One sentence for an option that one of the choices sets in another group, and that the choice there lacks."""
    lacking = key.partition(".")[0]
    for group, choice in choices.items() if lacking in choices else ():
        file = CONF / f"{group}/{choice}.yaml"
        text = file.read_text() if file.is_file() else ""
        if is_global(text) and key in [name for name, _, _ in options_of(text)]:
            return f"{group}={choice} sets {key}, which {lacking}={choices[lacking]} does not have: choose another"
    return None


def _choices_with(key: str) -> list[str]:
    """The choices of the innermost group whose files have this option or nested group, as group=choice."""
    parts = key.replace("/", ".").split(".")
    for depth in range(len(parts) - 1, 0, -1):
        group, option = "/".join(parts[:depth]), ".".join(parts[depth:])
        files = sorted((CONF / group).glob("*.yaml"))
        if found := [f"{group}={file.stem}" for file in files if _has(file.read_text(), key, option)]:
            return found
    return []


def _has(text: str, key: str, option: str) -> bool:
    """Whether a choice's file has the option of its group, called `key` in a file with whole names, or that nested group."""
    names = [name for name, _, _ in options_of(text)]
    return (key if is_global(text) else option) in names or bool(
        re.search(rf"^  - {re.escape(option)}[:@]", text, re.M)
    )


def closest(key: str, known: Iterable[str]) -> list[str]:
    """At most three options that may be meant: nearly the same name, or the same last word, else the nearest."""
    known = [*known]
    if (usual := _USUAL_NAMES.get(key)) in known:
        return [usual]
    related = {*above_and_itself(key)}  # as + has added them
    paths = [path for path in dict.fromkeys(known) if path not in related and not path.startswith(f"{key}.")]
    paths = [path for path in paths if not path.rpartition(".")[2].startswith("_")]  # _target_ and _partial_
    same = [path for path in paths if path.rpartition(".")[2] == key.rpartition(".")[2]]
    likely = dict.fromkeys([*difflib.get_close_matches(key, paths, n=1, cutoff=0.8), *same])
    return sorted(likely, key=lambda path: not path.startswith("data."))[:3] or difflib.get_close_matches(
        key, paths, n=1
    )


def paths_of(config: Mapping[str, Any]) -> list[str]:
    """The names of all options and groups of options."""
    return list(dict.fromkeys([*config, *(above for leaf in flat(config) for above in above_and_itself(leaf))]))


def all_options(command: str, of_hydra: bool = False, chosen: Sequence[str] = ()) -> list[str]:
    """The names of all options and groups of a command with these choices. of_hydra: and of Hydra's own."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = compose(command, overrides=list(chosen), return_hydra_config=of_hydra)
        except HydraException:  # several values, or the user's own choice
            cfg = compose(command, return_hydra_config=of_hydra)
        return paths_of(as_plain(cfg))
