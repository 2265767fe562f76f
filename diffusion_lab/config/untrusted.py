"""The config in a model's folder, and its limits, because the folder may be untrusted. Imports no torch.

People download folders, or are given them, and then sample and score. Hydra calls whatever a `_target_` names, and resolves
${oc.env:…}. So a file holds plain values, and references ${a.b} from `model` to other groups; a `_target_` is one that a yaml of
our conf/ names, or lies in a package that DIFFUSION_LAB_TARGETS allows; paths and downloads are left out. The network has no more
parameters than the file of its weights (`loading`). What the user types, or writes in a conf/, is trusted and applied later.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import mistake_in_job
from diffusion_lab.config.overrides import as_plain, leaves
from diffusion_lab.config.spelling import todays_spelling
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.option_names import SCORED_GROUPS
from diffusion_lab.store.records import FactsRecord, RunError, inside, printable, read_yaml, wrong_in

VARIABLE = "DIFFUSION_LAB_TARGETS"  # packages, separated by commas
REFERENCE = re.compile(r"\$\{(?!model\b)\w+(\.\w+)*\}")  # from `model` to another group
ONLY_TRAINED = ("trainer", "callbacks", "logger", "ema")  # not built from a file
_NO_PARTS = {*ONLY_TRAINED, "hydra", "debug", "hparams_search"}  # folders of conf/ that name no part of a trained model
_KEY = re.compile(r"[A-Za-z]\w*|_target_|_partial_")


def load_config(directory: ModelDirectory) -> DictConfig:
    """The config that a model was trained with; `model` keeps its references to the other groups.

    RunError if it is missing or holds what a file may not.
    """
    config = _read(directory, leave_out)
    check_targets(_resolved(config, directory), directory.config)
    return config


def whole_config(directory: ModelDirectory) -> dict[str, Any]:
    """The same with all its options, resolved, in plain containers. To be compared only: it may name any object."""
    return _resolved(_read(directory, lambda plain: None), directory)


def _read(directory: ModelDirectory, edit: Callable[[dict[str, Any]], None]) -> DictConfig:
    """The config in a model's folder, of plain values, after `edit`."""
    file = directory.config
    if not file.is_file():
        raise RunError(f"{directory.path} is not a model directory: it has no {file.name}")
    plain = todays_spelling(read_config(file))
    try:
        check_plain(plain, file)
        edit(plain)
        return OmegaConf.create(plain)
    except (OmegaConfBaseException, ValueError, RecursionError) as error:
        raise RunError(f"{file} is not a config: {' '.join(str(error).split())}") from None


def read_config(file: Path) -> dict[str, Any]:
    """The config of a model as it was written, in plain containers. RunError if it is not one."""
    plain = read_yaml(inside(file.parent, file))
    groups = ("facts", "model", "data", "condition", "callbacks", "objective", *SCORED_GROUPS)
    wrong = [group for group in groups if not isinstance(plain.get(group), dict | None)]
    if wrong or not {"model", "data", "facts"} <= plain.keys():
        what = f"{wrong[0]} is not a group of options" if wrong else "it lacks model, data or facts"
        raise RunError(f"{file} is not the config of a model: {what}")
    return plain


def _resolved(config: DictConfig, directory: ModelDirectory) -> dict[str, Any]:
    try:
        return as_plain(config, resolve=True)
    except OmegaConfBaseException as error:
        message = mistake_in_job(error) or " ".join(str(error).split())
        raise RunError(f"{directory.config} is not a config: {message}") from None


def settled(saved: DictConfig, directory: ModelDirectory) -> DictConfig:
    """`saved`, resolved and ready to build."""
    return OmegaConf.create(as_plain(saved, resolve=True))


def check_plain(config: dict[str, Any], file: Path) -> None:
    """RunError, naming the key, if the config in `file` holds more than plain values, targets, and references in `model`.

    Resolving such a config reads nothing else, and no key or value can become another option.
    """
    for path, value in leaves(config):
        key = printable(".".join(map(str, path)))[:200]
        if not all(isinstance(name, int) or _KEY.fullmatch(str(name)) for name in path):
            raise RunError(f"{file}: {key} is not an option that a file may set")
        if not (isinstance(value, str | dict | list | None) or (isinstance(value, int | float) and abs(value) < 2**64)):
            raise RunError(f"{file}: {key} is not a string, a finite number of 64 bits, true, false or null")
        is_reference = path[0] == "model" and path[-1] != "_target_" and REFERENCE.fullmatch(str(value))
        if isinstance(value, str) and "${" in value and not is_reference:
            named = f"{key}={printable(value)}"
            raise RunError(f"{file}: {named} is refused: only `model` may refer, to other groups, as ${{a.b}}")
    if wrong := wrong_in({"facts": config.get("facts") or {}}, FactsRecord):
        raise RunError(f"{file}: {wrong}")


def leave_out(node: Any) -> None:
    """Unset options that a file may not choose: downloads, files of published weights, and other models that guide or teach.

    The guidance of a teacher's velocity goes with it: of its own a model must be trained without conditions too.
    """
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        leave_out(child)
    if isinstance(node, dict) and "_target_" in node:
        of_features = str(node["_target_"]).startswith("diffusion_lab.metrics.features.")
        guides = str(node["_target_"]).startswith("diffusion_lab.config.guiding_models.")
        unset = (
            {"download": False}
            | ({"path": None} if of_features else {})
            | ({"model": MISSING, "teacher": None, "guidance": 1.0} if guides else {})
        )
        node |= {option: value for option, value in unset.items() if node.get(option) is not None}


def check_targets(config: Mapping[str, Any], file: Path) -> None:
    """RunError, naming the key, unless every object in a file's resolved config is ours or the user allows its package."""
    for path, target in leaves({group: node for group, node in config.items() if group not in ONLY_TRAINED}):
        if "_target_" in path and str(target) not in _ours() and not _is_allowed(target):
            package = str(target).partition(".")[0]
            is_own = package not in {*sys.stdlib_module_names, "hydra"}
            fix = f"; if it is a class of your own, {VARIABLE}={package} in the environment allows it" if is_own else ""
            named = f"{'.'.join(map(str, path))}={printable(str(target))}"
            raise RunError(f"{file}: {named} is not built, because the lab's choices do not name it{fix}")


@cache
def _ours() -> frozenset[str]:
    """The targets that our conf/ names for parts of models and scores."""
    files = (file for file in CONF.rglob("*.yaml") if file.relative_to(CONF).parts[0] not in _NO_PARTS)
    return frozenset(target for file in files for target in re.findall(r"_target_: ([\w.]+)", file.read_text()))


def _is_allowed(target: Any) -> bool:
    """Whether the object that a target names is defined in a package of the environment variable."""
    allowed = set(re.split(r"[\s,]+", os.environ.get(VARIABLE, "")))
    if not isinstance(target, str) or target.partition(".")[0] not in allowed:  # nothing else is imported
        return False
    try:
        return str(getattr(get_object(target), "__module__", "")).partition(".")[0] in allowed
    except Exception:  # any error of a module's import
        return False
