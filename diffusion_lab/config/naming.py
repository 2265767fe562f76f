"""The names of trainings and scores: a digest of the options that can change a number, of the data and of the user's files.

    config -> what is asked (without conf/not_in_the_name.yaml) -> the spelling of names (`spelling`) -> digest -> folder

Not in a name: the code and the versions of this package, the device, and what follows from them (`store.provenance` records them).
Other models, such as a guiding one, are identified by content, so a score keeps its name when their folder is moved. Files of a
finished model are compared with those that it was trained with (`edited`). Builds only a variance and an objective.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.overrides import as_options, as_plain, leaves
from diffusion_lab.config.spelling import TABLE, meanings, spelling_of_names
from diffusion_lab.config.untrusted import REFERENCE, check_targets, read_config, whole_config
from diffusion_lab.config.weight_files import weight_file
from diffusion_lab.store import ModelDirectory, RunError, model_directory
from diffusion_lab.store.option_names import (
    LISTS,
    NOT_IN_THE_NAME,
    OUR_CALLBACKS,
    SCORED_GROUPS,
    canonical_json,
    flat,
)
from diffusion_lab.store.own_files import DIGITS, Files, digests_of, sha256_of, state_of, users_files
from diffusion_lab.store.places import models_in
from diffusion_lab.store.provenance import SCORING, by_other_code, changed, code_now, some_of, with_other_files
from diffusion_lab.store.weight_names import snapshot_name

RAW = "raw"
_STEPS = "trainer.max_steps"
_CARDS = Path(__file__).parents[1] / "metrics" / "weights"  # of shipped weights, with their digests
_MAY_HOLD_SECRETS = {"logger", "callbacks"}  # their files are not read again
_FOLDERS = ("classifier", "model")  # options of a guidance that name a folder
TEACHER = "objective.teacher"
_OTHER_MODELS = (TEACHER, "guidance.classifier", "guidance.model", "guidance.worse.model")


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config in plain containers. In `model`, references ${a.b} to other groups are kept.

    Other interpolations in `model` are resolved, because the environment may differ when the config is read. Texts in `logger` and
    `callbacks`, which may take a password from ${oc.env:NAME}, are recorded unresolved, as {oc.env:NAME}.
    """
    return _as_recorded(cfg, as_plain(cfg, resolve=True))


def _as_recorded(cfg: DictConfig, resolved: Mapping[str, Any]) -> dict[str, Any]:
    written = as_plain(cfg)
    groups = {"model", *_MAY_HOLD_SECRETS} & resolved.keys()
    return {
        **resolved,
        **{name: _recorded(written[name], resolved[name], name in _MAY_HOLD_SECRETS) for name in groups},
    }


def _recorded(written: Any, resolved: Any, secret: bool) -> Any:
    if isinstance(written, dict):
        return {key: _recorded(child, resolved[key], secret) for key, child in written.items()}
    if isinstance(written, list):
        return [_recorded(*pair, secret) for pair in zip(written, resolved, strict=True)]
    if not isinstance(written, str):
        return resolved
    if secret and (isinstance(resolved, str) or "oc.env" in written):
        return written.replace("${", "{")
    return written if not secret and REFERENCE.fullmatch(written) else resolved


# ---- what is asked


def asked_of_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config (plain containers) without options that cannot change the weights."""
    callbacks = config.get("callbacks") or {}
    added = {name for name, node in callbacks.items() if node is not None and not _is_ours(name, node)}
    without = NOT_IN_THE_NAME | {f"callbacks.{name}" for name in callbacks if name not in added}
    without = without - {*LISTS["callbacks"]} if added else without | {"callbacks"}

    def keep(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if f"{prefix}{key}" not in without
        }

    return keep(config, "")


def _is_ours(name: str, callback: Mapping[str, Any]) -> bool:
    return name in OUR_CALLBACKS and str(callback.get("_target_", "diffusion_lab.")).startswith("diffusion_lab.")


def asked_of_score(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of scoring in a resolved config (plain containers)."""
    return {key: config[key] for key in SCORED_GROUPS if config.get(key) is not None}


def variance_matters(cfg: Mapping[str, Any]) -> bool:
    """Whether training depends on the variance; False for families without one. No teacher is loaded."""
    untaught = {"teacher": None} if "teacher" in cfg.get("objective", {}) else {}
    return "variance" not in cfg or instantiate(cfg["objective"], **untaught).reads_variance


def _question(config: Mapping[str, Any], variance_counts: bool) -> dict[str, Any]:
    """What a config asks of its training, in the spelling of names. variance_counts: more of the variance than its width."""
    asked = spelling_of_names(asked_of_training(config))
    if asked.get("condition"):
        asked["condition"] = [[*item] for item in asked["condition"].items()]  # the order of the parts of y
    if not variance_counts:
        asked["variance"] = {"outputs_per_channel": instantiate(config["variance"]).outputs_per_channel}
    return asked


# ---- names


@dataclass(frozen=True)
class Name:
    """The name of a run. asked: a digest of options and data. files: path -> digest of the user's own files.

    options: option -> digest of the file that its value names, to be recorded; its content is part of `asked`.
    """

    asked: str
    files: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        """64 hex digits."""
        return _digest([self.asked, self.files])


def name_of(asked: Mapping[str, Any], data: str, files: Files) -> Name:
    """The name of a run. asked: its options. data: a digest of the data. files: the user's own files.

    TypeError or ValueError for values that JSON cannot represent.
    """
    return Name(_digest([by_content(asked), data]), digests_of(files))


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def by_content(node: Any) -> Any:
    """A part of a config, with the digest of its content for each value that names a file."""
    match node:
        case Mapping():
            return {key: value if key == "_target_" else by_content(value) for key, value in node.items()}
        case list() | tuple():
            return [by_content(child) for child in node]
        case str() if _is_file(node):
            return f"sha256 {sha256_of(Path(node))}"
    return node


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # not the name of a file
        return False


def name_of_training(cfg: DictConfig) -> Name:
    """The name of a training: a digest of its options, its data and the files that it reads. Facts must be filled in.

    A variance that the objective does not read counts only by its width: under L_simple, fixed small and fixed large are one model.
    """
    resolved = as_plain(cfg, resolve=True)
    question = _question(_as_recorded(cfg, resolved), variance_matters(cfg))
    return Name(_digest([by_content(question), cfg.facts.identity]), **own_files(asked_of_training(resolved), resolved))


def own_files(parts: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Digests of the user's own files that parts of a config name: of modules as `files`, by path, and of values as `options`.

    config: the whole of it, as in `users_files`. Only a class of the user's reads a file that an option of a training names.
    """
    files = digests_of(users_files(parts, config))
    read = {
        ".".join(map(str, path)): sha256_of(Path(value))[:DIGITS]
        for path, value in (leaves(parts) if files else ())
        if isinstance(value, str) and path[-1] != "_target_" and _is_file(value)
    }
    return {"files": files, "options": read}


def name_of_score(cfg: DictConfig) -> Name:
    """The choices of scoring, beside the model."""
    resolved = as_plain(cfg, resolve=True)
    parts = _choices_of_scoring(cfg, resolved)
    return name_of(spelling_of_names(parts), "", users_files(parts, resolved))


def sampling_identity(cfg: DictConfig, unread: Iterable[str], features: str) -> str:
    """A digest of everything besides weights and sampler that determines a model's samples and their features.

    These are the parts of the model, the code, and the user's files. unread: groups of `cfg` that do not affect the samples.
    features: the name of the features.
    """
    resolved = as_plain(cfg, resolve=True)
    choices = _choices_of_scoring(cfg, resolved)
    read = {key: part for key, part in choices.items() if key not in {*unread, "metrics", "evaluation"}}
    read["features"] = read["features"][features]
    files = _digest_of_files(resolved, {**asked_of_training(resolved), **read})
    return f"{_how_built(resolved)} {_code()} {files} {canonical_json(read.get('guidance'))}"


def measuring_identity(cfg: DictConfig) -> str:
    """A digest of everything besides its weights that determines a network's statistics: parts, code, the user's files."""
    resolved = as_plain(cfg, resolve=True)
    return f"{_how_built(resolved)} {_code()} {_digest_of_files(resolved, asked_of_training(resolved))}"


def _code() -> str:
    """A digest of the package's code that draws and scores; results in the cache are valid for one such digest."""
    return hashlib.sha256(canonical_json(code_now(SCORING)).encode()).hexdigest()


def _how_built(config: Mapping[str, Any]) -> str:
    """A digest of the model in a config, without its parts that may be chosen after training."""
    parts = {name: part for name, part in config["model"].items() if name not in SCORED_GROUPS}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _digest_of_files(config: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """A digest of the user's own files that these parts of a config name."""
    return hashlib.sha256(canonical_json(own_files(parts, config)).encode()).hexdigest()


def features_by_content(features: Mapping[str, Any]) -> dict[str, Any]:
    """The options of features, with the digest of their weights, from the user's file or from the card of shipped weights."""
    found = dict(features)
    for name, options in found.items():
        if isinstance(options, Mapping):
            weights = options.get("weights") or _CARDS / f"{options.get('name')}.json"
            if Path(weights).is_file():
                found[name] = {**options, "weights": sha256_of(Path(weights))}
    return found


def _choices_of_scoring(cfg: DictConfig, resolved: Mapping[str, Any]) -> dict[str, Any]:
    parts = asked_of_score(_as_recorded(cfg, resolved))
    if parts.get("guidance") is not None:
        parts["guidance"] = guidance_by_content(parts["guidance"])
    if parts.get("features") is not None:
        parts["features"] = features_by_content(parts["features"])
    return parts


def guidance_by_content(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a guidance, with each model folder replaced by the identity of the model in it."""
    moment, worse = guidance.get("moment"), guidance.get("worse")
    weights = None if moment is None else snapshot_name(moment)
    found = {
        option: identity_of(ModelDirectory(Path(value)), weights) if option in _FOLDERS and value is not None else value
        for option, value in guidance.items()
    }
    return found | {"worse": guidance_by_content(worse)} if isinstance(worse, Mapping) else found


def identity_of(directory: ModelDirectory, name: str | None = None) -> dict[str, Any]:
    """Name of a training, and the digest of the weights called `name` (None: the default ones). RunError if it has not finished.

    And files that were edited since, so that a name of before stays where there is none.
    """
    training, weights = directory.read_training(), weight_file(directory, name)
    identity = {"fingerprint": training.get("fingerprint"), "weights": sha256_of(weights)}
    return identity | ({"edited": files} if (files := edited(directory)) else {})


def files_of_model(directory: ModelDirectory) -> dict[str, dict[str, str]]:
    """`own_files` of the training of a model, as they are now."""
    config = whole_config(directory)
    return own_files(asked_of_training(config), config)


def edited(directory: ModelDirectory) -> dict[str, str | None]:
    """File -> its digest now, None if it is gone: the files that differ from the record of a finished training.

    These are its config.yaml and `own_files`. Earlier versions recorded no digest of the config, nor of files in options: for their
    models these cannot be compared.
    """
    training, config, own = directory.read_training(), directory.config, files_of_model(directory)
    now = {config.name: sha256_of(config)}
    then = {config.name: training.get("config", now[config.name])}
    for kind, digests in own.items():
        now |= digests
        then |= training.get(kind, digests)
    return {file: now.get(file) for file in changed(then, now)}


def other_models(cfg: DictConfig) -> list[ModelDirectory]:
    """The finished models that a config reads whole: a teacher, and those that guide; not init_from, see `content_of_start`."""
    folders = [OmegaConf.select(cfg, option) for option in _OTHER_MODELS]
    models = [ModelDirectory(Path(folder)) for folder in dict.fromkeys(folders) if folder is not None]
    return [model for model in models if model.finished]


def differences_of(models: Iterable[ModelDirectory]) -> list[str]:
    """Sentences on finished models that other code trained, or other versions of the files that are read now."""
    return [
        line
        for model in models
        for line in (*by_other_code(model.path, model.read_training()), *with_other_files(model.path, [*edited(model)]))
    ]


def content_of_start(cfg: DictConfig) -> str | None:
    """Digests of what training starts from, and of a teacher; None for fresh weights. RunError if a file is missing.

    Of init_from only the weights count: its options, and the user's classes that they name, shape a training only where they stand
    in the new config, and count there.
    """
    digests = [sha256_of(file) for file in start_files(cfg)]
    if cfg.get("continue_from") is not None:
        parent = ModelDirectory(Path(cfg.continue_from))
        digests += [str(parent.read_training().get("fingerprint")), sha256_of(checkpoint_of(parent))]
    if (teacher := OmegaConf.select(cfg, TEACHER)) is not None:
        if not ModelDirectory(Path(teacher)).finished:
            raise RunError(f"{TEACHER}={teacher} holds no finished model: name the folder of a trained diffusion model")
        digests += map(str, identity_of(ModelDirectory(Path(teacher))).values())
    return " ".join(digests) or None


def checkpoint_of(parent: ModelDirectory) -> Path:
    """The checkpoint from which another training goes on. RunError if it is missing."""
    if not parent.resume.is_file():
        raise RunError(
            f"continue_from={parent.path}: the checkpoint {parent.resume.name} is missing there; train that model with retrain=true"
        )
    return parent.resume


def start_files(cfg: DictConfig) -> list[Path]:
    """The files of init_from that training reads: raw weights, then the average or earlier moment that init_weights names."""
    if cfg.get("init_from") is None:
        return []
    directory = ModelDirectory(Path(cfg.init_from))
    if not directory.path.is_dir():
        what = "is a file" if directory.path.exists() else "does not exist"
        raise RunError(f"init_from={cfg.init_from} {what}: name the folder of a trained model")
    files = [weight_file(directory, name, "init_weights") for name in (RAW, cfg.init_weights)]
    return list(dict.fromkeys(files))


# ---- folders of trainings, also of earlier versions


def folder_of(cfg: DictConfig, data: str, family: str, name: Name) -> ModelDirectory:
    """The folder of a training: that of its name, or one of an earlier version whose recorded config asks the same.

    data, family: names of the data set and of the model family.
    """
    own = model_directory(Path(cfg.outputs), data, family, str(name))
    if own.path.exists():
        return own
    same = [model for model, question, files in _recorded_like(own) if _same(question, files, name)]
    return min(same, key=lambda model: not model.finished, default=own)


def options_asked(cfg: DictConfig) -> dict[str, Any]:
    """What a config asks of its training, in the spelling of names, by dotted names."""
    return flat(_question(plain_config(cfg), variance_matters(cfg)))


def options_recorded(file: Path) -> list[dict[str, Any]]:
    """The same of a recorded config; 0.1 recorded several questions in the same way. RunError for one that is not valid."""
    configs = meanings(read_config(file))
    check_targets({key: part for key, part in configs[0].items() if key in ("objective", "variance")}, file)
    return [flat(_question(config, variance_matters(config))) for config in configs]


def why_anew(cfg: DictConfig, directory: ModelDirectory, name: Name, typed: Collection[str]) -> str | None:
    """One sentence on a new training that the user may have expected to exist; None without a reason.

    typed: the keys of the options that the user typed.
    """
    for model in _alike(directory):
        training = model.read_training() if model.finished else {}
        if training.get("asked") == name.asked and isinstance(training.get("files"), Mapping):
            edited = some_of(changed(training["files"], name.files))
            return f"new, because files of yours have changed since {model.path} was trained: {edited}"
    now, shorter = options_asked(cfg), list[tuple[int, Path]]()
    for model, question, files in _recorded_like(directory):
        then = flat(question)
        differing = {option: then.get(option) for option in {*then, *now} if then.get(option) != now.get(option)}
        are_defaults = all(value in TABLE["defaults"].get(option, ()) for option, value in differing.items())
        are_typed = any(option.removesuffix("._target_") in typed for option in differing)
        if model.finished and are_defaults and not are_typed and files == name.files:
            words = " ".join(as_options(dict(sorted(differing.items()))))
            return f"new: {model.path} differs from it in earlier defaults only; to use that model, type {words}"
        if model.finished and differing.keys() == {_STEPS} and files == name.files and 0 < then[_STEPS] < now[_STEPS]:
            shorter.append((then[_STEPS], model.path))
    if shorter:
        steps, path = max(shorter)
        words = f"continue_from={path} {_STEPS}={now[_STEPS]}"
        return f"new: {path} is the same training of {steps} steps; to go on from it as another model, type {words}"
    return None


def _alike(directory: ModelDirectory) -> Iterator[ModelDirectory]:
    """The other models of the same data and family."""
    kind = directory.path.name.rpartition("-")[0]
    return (m for m in models_in(directory.outputs) if m.path.name.rpartition("-")[0] == kind and m != directory)


def _recorded_like(directory: ModelDirectory) -> Iterator[tuple[ModelDirectory, dict[str, Any], Mapping[str, str]]]:
    """Other models of the same data and family, with what their configs ask and the digests of the user's files."""
    for model in _alike(directory):
        files = model.read_training().get("files", {}) if model.finished else {}
        for question in _questions_in(model.config, *state_of(model.config)) if model.config.is_file() else ():
            yield model, question, files


def _same(question: Mapping[str, Any], files: Mapping[str, str], name: Name) -> bool:
    return _digest([question, question["facts"].get("identity")]) == name.asked and files == name.files


@lru_cache(maxsize=4096)
def _questions_in(file: Path, *_: int) -> list[dict[str, Any]]:
    """What a recorded config asks of its training, in the spelling of names. 0.1 recorded several questions in the same way.

    Nothing for a config that is not valid, or that names files, whose content at that time is not known.
    """
    try:
        configs = meanings(read_config(file))
        check_targets({key: part for key, part in configs[0].items() if key in ("objective", "variance")}, file)
        questions = [_question(config, variance_matters(config)) for config in configs]
    except (RunError, InstantiationException):
        return []
    return [question for question in questions if by_content(question) == question]
