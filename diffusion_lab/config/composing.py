"""Options that a command adds before Hydra composes its config, from a trained model, a checkpoint or the name of a sweep; options
that are dropped when an experiment's choices are replaced. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.config.options import OF_EVERY_CLASS, parameters_of
from diffusion_lab.config.overrides import TRAINED, as_plain, in_full, leaves, named, quoted, unquoted
from diffusion_lab.config.spelling import todays_spelling
from diffusion_lab.config.untrusted import load_config, read_config
from diffusion_lab.store import ModelDirectory, newest_model
from diffusion_lab.store.option_names import NOT_IN_THE_NAME, SCORED_GROUPS, SCORING_GROUPS, flat

DRAWING_GROUPS = (
    "sampler",
    "guidance",
    "sampling",
    "rounding",
    "start",
)  # the choices of training that `sample` starts from
_ASKS = {"-h", "--help", "--hydra-help", "-sc", "--shell-completion"}  # flags that need neither model nor checkpoint
# Groups of a diffusion model that training starts from: what its weights mean, and how they were trained.
_MEANING = ("network", "prediction", "schedule", "variance")
_TRAINED_BY = ("objective", "weighting", "timesteps", "sampler")
SOURCE = "source"  # the place in conf/train.yaml of the choices of init_from and continue_from
_BUDGET = {"trainer.max_steps", "trainer.max_time"}
_CHOSEN_WITH = {"measured_variance": "variance"}  # a group without its own folder -> the group that sets it
_OF_A_MODEL = {"model_dir", "devices", "model", "network", "ema", "objective", *SCORED_GROUPS}
_OF_A_MODEL -= {"evaluation", "features", "metrics"}
_OF_A_MODEL |= {f"evaluation.{name}" for name in ("weights", "batch_size", "precision", "statistics_images")}


def completed(command: str, options: Sequence[str]) -> list[str]:
    """The options of a command, completed by those that they imply."""
    asks = bool(_ASKS & {*options})
    match command:
        case "train" if not asks:
            own = [option for option in options if option != f"{SOURCE}={TRAINED}"]  # a rank already has it
            is_continued = bool(_folders_of("continue_from", own))
            return with_choices_of_parent(own) if is_continued else with_choices_of_source(own)
        case "evaluate" if _are_given(options):
            return ["--config-name=evaluate_samples", *options]
        case "evaluate" if not asks:
            return with_trained_choices(options, SCORING_GROUPS)
        case "sample" | "export":
            written = [*map(in_full, options)]
            return written if asks else with_trained_choices(written, DRAWING_GROUPS)
        case "import" if not asks:
            return _of_checkpoint(options)
        case "status" | "report" if options and re.match(r"[^-+~=][^=]*$", options[0]):
            return [f"sweep={options[0]}", *options[1:]]  # `status NAME`
    return [*options]


def _are_given(options: Sequence[str]) -> bool:
    """Whether images of files are scored in place of a model's. MistakeError for options that need a model."""
    keys = named(options)
    if unquoted(keys.get("samples", "null")) == "null":
        return False
    for key in keys:
        if {key, *re.split("[/.]", key)[:1], ".".join(key.split(".")[:2])} & _OF_A_MODEL:
            raise MistakeError(f"{key} has no effect with samples=…: remove it")
    return True


def _of_checkpoint(options: Sequence[str]) -> list[str]:
    """A checkpoint, or its flags, determine the parts of the model; the user's choices win."""
    from diffusion_lab.interop.opening import OPTIONS, opened  # imports torch

    own = {key: unquoted(value) for key, value in named(options).items() if key in ("checkpoint", *OPTIONS)}
    if "checkpoint" not in own:
        raise MistakeError("set the file or the folder, such as checkpoint=cifar10_uncond_50M_500K.pt")
    with users_mistakes():
        found = opened(Path(own["checkpoint"]), {key: value for key, value in own.items() if key in OPTIONS})
    kept = [option for option in options if option.partition("=")[0] not in own]
    # Quoted, because flags hold commas and spaces.
    return [*found.options, *(f"{key}={quoted(value)}" for key, value in own.items()), *kept]


def model_dir_of(options: Sequence[str]) -> ModelDirectory:
    """The model directory that the options name, or the newest one in their `outputs`. MistakeError for several."""
    given = named(options)
    written = given.get("model_dir", "null")
    wanted = unquoted(written)
    if wanted == written and "," in wanted:
        raise MistakeError(f"model_dir={wanted}: give one model, and run the command once for each")
    if wanted != "null":
        return ModelDirectory(Path(wanted))
    return newest_model(Path(unquoted(given.get("outputs", "outputs"))))


def with_trained_choices(options: Sequence[str], groups: Sequence[str]) -> list[str]:
    """`options`, with `sampler=trained` and so on for each scoring group that the user does not choose; stores these choices.

    With them `evaluate sampler.spacing.num_steps=25` changes the number of steps of the sampler used in training.
    """
    directory = model_dir_of(options)
    saved = load_config(directory)
    again = {f"{group}={TRAINED}" for group in groups}  # a rank already has them
    options = [option for option in options if option not in again]
    picked = named(options)
    for option in sorted(picked):
        group = option.partition(".")[0].partition("/")[0]
        if group in groups and _CHOSEN_WITH.get(group, group) not in saved:
            known = ", ".join(name for name in groups if name in saved)
            raise MistakeError(f"{option}: the model in {directory.path} has no {group} to choose; it has {known}")
        if picked.get(group) == "[]" and group in groups:
            raise MistakeError(f"{group}: choose at least one")
    kept = [group for group in groups if isinstance(saved.get(group), DictConfig) and (CONF / group).is_dir()]
    for group in kept:
        _store(group, as_plain(saved[group]))
    return [*(f"{group}={TRAINED}" for group in kept if group not in picked), *options]


def with_choices_of_source(options: Sequence[str]) -> list[str]:
    """`options`, with the choice `trained` of the parts of init_from; choices of an experiment and of the user replace it.

    Taken are the network, what gives its outputs their meaning (prediction, schedule, variance), and, unless the user chooses an
    objective, how it was trained. model.condition_dropout is taken because a network without a null class allows 0 only; decoder,
    rounding and guidance are not, because they are chosen anew for each score. MistakeError for several models that differ.
    """
    typed = named(options)
    groups = _MEANING if "objective" in typed else _MEANING + _TRAINED_BY
    folders = _folders_of("init_from", options)
    if typed.get("model", "diffusion") != "diffusion" or not folders or not all(Path(f).is_dir() for f in folders):
        return [*options]  # init_from is checked later
    parts = [_parts_to_start_from(load_config(ModelDirectory(Path(folder))), groups) for folder in folders]
    if any(part != parts[0] for part in parts):
        differ = sorted({key for part in parts for key, _ in _items(part) ^ _items(parts[0])})
        raise MistakeError(
            f"init_from={','.join(folders)}: these models differ in {differ[0]}; give one in each command"
        )
    chosen, values = {group: part for group, part in parts[0].items() if group != "model"}, parts[0].get("model")
    for group, part in chosen.items():
        _store(group, part)
    node = {"defaults": [{f"override /{group}": TRAINED} for group in chosen], **({"model": values} if values else {})}
    ConfigStore.instance().store(TRAINED, node, SOURCE, package="_global_")
    return [f"{SOURCE}={TRAINED}", *options]


def with_choices_of_parent(options: Sequence[str]) -> list[str]:
    """`options`, with all that the training in the folder continue_from was asked; what the user types replaces it."""
    typed, folders = named(options), _folders_of("continue_from", options)
    if len(folders) > 1:
        raise MistakeError(f"continue_from={','.join(folders)}: give one model, and run the command once for each")
    if typed.get("init_from", "null") != "null":
        raise MistakeError("init_from has no effect with continue_from, which has weights already: remove one")
    directory = ModelDirectory(Path(folders[0]))
    saved = as_plain(load_config(directory))
    if "objective" in saved:  # with the teacher that training goes on with
        saved["objective"] = todays_spelling(read_config(directory.config))["objective"]
    if _BUDGET & typed.keys():
        saved["trainer"] = {**saved["trainer"], **dict.fromkeys(option.partition(".")[2] for option in _BUDGET)}
    family = str(directory.read_choices().get("model"))
    groups = [name for name, part in saved.items() if (CONF / name).is_dir() and isinstance(part, dict)]
    groups = [group for group in groups if group not in ("model", "logger", "callbacks")]
    _check_classes(directory, saved)
    listed = {*_groups_in("train"), *_groups_in(f"model/{family}")}
    of_network = [{f"/{group}@_global_.{group}": TRAINED} for group in groups if group not in listed]
    for group in groups:
        _store(group, saved[group], of_network if group == "network" else ())
    defaults = [{"override /model": family}, *({f"override /{group}": TRAINED} for group in groups if group in listed)]
    without = NOT_IN_THE_NAME - {"snapshots", "val"} | {*groups, "facts", "callbacks"}
    values = {key: value for key, value in saved.items() if key not in without}
    ConfigStore.instance().store(TRAINED, {"defaults": defaults, **values}, SOURCE, package="_global_")
    return [f"{SOURCE}={TRAINED}", *options]


def _check_classes(directory: ModelDirectory, saved: Mapping[str, Any]) -> None:
    """MistakeError for a class in the groups that `load_config` does not check because no other command builds them."""
    for group, ours in (("trainer", "lightning.pytorch.Trainer"), ("ema", "diffusion_lab.training.ema.EMA")):
        for path, value in leaves(saved.get(group) or {}):
            if "_target_" in path and (path, value) != (("_target_",), ours):
                key = ".".join(map(str, (group, *path)))
                raise MistakeError(f"continue_from={directory.path}: its {key}={value} is not built; it must be {ours}")


def _groups_in(name: str) -> Iterator[str]:
    """The groups in the defaults of a yaml of ours, or of the user's."""
    files = (folder / f"{name}.yaml" for folder in (CONF, Path.cwd() / "conf"))
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    for entry in (yaml.safe_load(texts[0]) or {}).get("defaults", []) if texts else ():
        yield from (key.split()[-1].lstrip("/") for key in (entry if isinstance(entry, dict) else ()))


def _folders_of(option: str, options: Sequence[str]) -> list[str]:
    """The values of an option that may be swept; none for null."""
    override = OverridesParser.create().parse_override(f"{option}={named(options).get(option, 'null')}")
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    return [str(value) for value in values if value is not None]


def _items(part: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(key, repr(value)) for key, value in flat(part).items()}


def _parts_to_start_from(saved: DictConfig, groups: Sequence[str]) -> dict[str, Any]:
    """The groups of a diffusion model, and options of `model`; none for another family, whose parts are not one to a group."""
    if "prediction" not in saved:
        return {}
    parts = {group: _following(as_plain(saved[group]), group, saved) for group in groups if group in saved}
    return {**parts, "model": {"condition_dropout": saved.model.condition_dropout}}


def _following(part: dict[str, Any], group: str, saved: DictConfig) -> dict[str, Any]:
    """A part of a model with the references ${a.b} of our choices in place of the values that it has from them.

    So the number of channels follows the new data, unless it was set by hand. The number of levels does not where the weights
    depend on it: it decides which noise each t means, and which waves of the input the network sees.
    """
    references = _references(group).get(str(part.get("_target_")), {})
    fixed = "facts.num_levels" if group in _MEANING else None

    def value_of(key: str, value: Any) -> Any:
        reference = references.get(key, "")
        there = OmegaConf.create({key: OmegaConf.select(saved, reference) if reference else None})
        if reference not in ("", fixed) and as_plain(there) == {key: value}:
            return f"${{{reference}}}"
        return _following(value, group, saved) if isinstance(value, dict) else value

    return {key: value_of(key, value) for key, value in part.items()}


@cache
def _references(group: str) -> dict[str, dict[str, str]]:
    """Class -> option -> the place that our choices of a group refer to for it, such as facts.channels."""
    references: dict[str, dict[str, str]] = {}

    def read(node: Any) -> None:
        if isinstance(node, dict):
            of_class = references.setdefault(str(node.get("_target_")), {})
            for key, value in node.items():
                if reference := re.fullmatch(r"\$\{([\w.]+)\}", str(value)):
                    of_class[key] = reference[1]
                read(value)

    for file in (CONF / group).rglob("*.yaml"):
        read(yaml.safe_load(file.read_text(encoding="utf-8")))
    return references


def _store(group: str, values: Mapping[str, Any], brought: Sequence[Mapping[str, str]] = ()) -> None:
    """The choice `trained` of a group, and of its subgroups, so that sampler/spacing=quadratic keeps the sampler.

    brought: entries of the defaults for other groups that it sets.
    """
    parts = {name: part for name, part in values.items() if isinstance(part, dict) and (CONF / group / name).is_dir()}
    for name, part in parts.items():
        _store(f"{group}/{name}", part)
    own = {name: value for name, value in values.items() if name not in parts}
    newer = ["default"] if group == "evaluation" else []  # adds options that are newer than the training
    defaults = [*newer, *brought, *({name: TRAINED} for name in parts), "_self_"]
    ConfigStore.instance().store(TRAINED, {**own, "defaults": defaults}, group)


def drop_leftovers(cfg: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Delete options that the newly chosen objects do not accept, unless an override sets them; returns the deleted keys.

    An experiment sets options for its own choices; if the user chooses another option of the group, those that do not apply are
    dropped. Without an experiment, an option that does not apply is the user's mistake.
    """
    places = {
        override.key_or_group: override.package or override.key_or_group.replace("/", ".") for override in overrides
    }
    dropped: dict[str, None] = {}  # ordered; sampler=… and sampler/spacing=… both contain sampler.spacing.num_steps
    for place in places.values():
        node = OmegaConf.select(cfg, place, throw_on_missing=False)
        if isinstance(node, DictConfig):
            dropped |= dict.fromkeys(key for key in _not_taken(node, place) if key not in {*places, *OF_EVERY_CLASS})
    for key in dropped:
        place, _, name = key.rpartition(".")
        with open_dict(cfg):
            del OmegaConf.select(cfg, place)[name]
    return list(dropped)


def _not_taken(node: DictConfig, place: str) -> Iterator[str]:
    target = node.get("_target_")
    taken = None if target is None else parameters_of(target)
    for name in map(str, node):
        if taken is not None and not name.startswith("_") and name not in taken:
            yield f"{place}.{name}"
        elif not OmegaConf.is_interpolation(node, name) and OmegaConf.is_dict(OmegaConf.select(node, name)):
            yield from _not_taken(node[name], f"{place}.{name}")
