"""The user's mistakes in one sentence, with the option or the file and the fix; None for errors of the lab itself.

Some facts are found only in the texts of Hydra's and OmegaConf's errors. Only this file reads these texts.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from hydra.types import RunMode
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.store import RunError
from diffusion_lab.store.files import PlaceError
from diffusion_lab.store.identity import SCORING_GROUPS
from diffusion_lab.store.option_names import above_and_itself, flat
from diffusion_lab.sweeps.axes import MissingOptionError

_REPLACED = {
    "conditional": "use condition=classes for conditional=true, and condition=none for conditional=false",
    "labels": "use condition=clusters for labels=clusters, and condition=none for labels=own",
    "label": "use condition=3 for label=3",
    "model.label_dropout": "use model.condition_dropout",
}
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OF_PLACES = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EROFS}


class MistakeError(Exception):
    """A mistake of the user; the message is one sentence on what is wrong."""


def refuse_outside_sweeps() -> None:
    """MistakeError for an option of sweeps, launchers or sweepers without -m: training would run here, not on the cluster."""
    hydra = HydraConfig.get()
    for override in hydra.overrides.task:
        if override.startswith("sweep.jobs_per_model="):  # not an option of a single training
            raise MistakeError(f"{override} works only in a sweep of train -m: add -m, or remove it")
    for override in hydra.overrides.hydra if hydra.mode is RunMode.RUN else ():
        if override.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")):
            raise MistakeError(f"{override} works only with -m: add -m to run it as a sweep, or remove {override}")


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Around code that builds objects from options: a ValueError inside is a mistake in the options."""
    try:
        yield
    except InterpolationKeyError:  # is a ValueError too, but has its own sentence below
        raise
    except (ValueError, RunError) as error:
        raise MistakeError(str(error)) from error


@contextmanager
def out_of_memory(at: str, fix: str) -> Iterator[None]:
    """Around code whose memory grows with the options in `at`: out of memory becomes a sentence with a fix."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise MistakeError(f"out of memory at {at}: {fix}") from error


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, in the error or in one of its causes: torch's class on GPUs, the allocator's messages on a CPU."""
    said = "not enough memory|an't allocate memory|annot allocate memory|bad_alloc|failed to map segment|Storage size calculation"
    return error is not None and (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or re.search(said, str(error)) is not None
        or _is_out_of_memory(error.__cause__)
    )


@contextmanager
def lost_process() -> Iterator[None]:
    """Around work of several processes: if one of them dies, the others report that."""
    try:
        yield
    except RuntimeError as error:  # from gloo or NCCL
        if not re.search("(closed|reset) by peer|remote process exited", str(error)):
            raise
        raise MistakeError("another process of this command ended; its own log says why") from error


def mistake_in_job(error: BaseException) -> str | None:
    """One sentence for an error in a job's options, or None."""
    match error:
        case MistakeError() | RunError() | PlaceError():
            return str(error)
        case _ if _is_out_of_memory(error):
            return f"{_place(error)}out of memory: choose smaller sizes, batches or numbers"
        case InterpolationKeyError():
            return _of_another_family(error)
        case InterpolationResolutionError():  # ${oc.env:NAME} of an unset variable, or a reference to itself
            return _one_line(error)
        case InstantiationException():
            return _instantiation(error)
        case MissingMandatoryValue():
            key = (error.full_key or "").removeprefix("model.")  # the parts of `model` are references to groups
            return f"{key} has no value; set {key}=…"
        case OSError():
            return _of_a_file(error)
    return None


def _of_a_file(error: OSError) -> str | None:
    name = error.filename
    if error.errno in _OF_WRITING:
        fix = "earlier files are intact: free some space, or raise its limit, and run the same command again"
        return f"cannot write {name or 'the outputs'} ({error.strerror}); {fix}"
    return f"{name}: {error.strerror}; choose another place" if name and error.errno in _OF_PLACES else None


def mistake_in_options(error: BaseException, command: str) -> str | None:
    """One sentence for options that cannot be composed into a config, or None."""
    match error:
        case MissingOptionError():
            return _unknown(error.key, command)
        case MissingConfigException():
            return _missing(error)
        case OverrideParseException():
            return f"cannot read {error.override!r}: write option=value, with quotes around spaces, commas and brackets"
        case ConfigCompositionException() | OmegaConfBaseException():
            return _composition(error, command)
        case YAMLError():
            return f"cannot read a config: {' '.join(str(error).split())}"
        case SearchPathException():
            return f"{_one_line(error)}: --config-dir must name a folder that exists"
        case ValueError() if re.match("Only one of --run|File .* does not exist", str(error)):
            return _one_line(error)
        case ValueError() if "Config group override must be" in str(error):
            return "a group cannot be null, as in callbacks=null: name one of its choices, or remove it with ~callbacks"
    return None


def refused_option(error: BaseException) -> str | None:
    """The key of an option that the config lacks; for a group's choice with its package, as group@package."""
    return _found(r"Could not override '([^']+)'", error)


def _instantiation(error: InstantiationException) -> str | None:
    """One sentence for options that an object refuses: its own message, after the option's place."""
    place, lost = _place(error), _found(r"Error locating target '([^']+)'", error)
    if lost:
        option = f"{place.removesuffix(': ')}._target_" if place else "_target_"
        return f"{option}={lost}: Python cannot import this; check its spelling and its installation"
    cause = error.__cause__
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    said = " ".join(str(cause).split())
    place = "" if re.match(r"\w+\.[\w.]+=", said) else place  # the message already names the option
    if isinstance(cause, InterpolationKeyError):
        return _of_another_family(cause)
    of_lightning = type(cause).__name__ == "MisconfigurationException"  # slow to import
    if isinstance(cause, ValueError | RunError | OmegaConfBaseException | ImportError) or of_lightning:
        return place + said
    if isinstance(cause, ArithmeticError | RuntimeError):
        return f"{place}these values do not work ({said})"
    if isinstance(cause, TypeError):
        unexpected = _found(r"unexpected keyword argument '(\w+)'", cause)
        return place + (f"there is no option {unexpected}" if unexpected else f"a value is of the wrong kind ({said})")
    return None if cause is not None else _one_line(error)


def _of_another_family(error: InterpolationKeyError) -> str:
    """A model refers to an option that the chosen part lacks, such as sampling=temperature of a VAE."""
    wanted = _found(r"Interpolation key '([^']+)'", error)
    if wanted is None:
        return _one_line(error)
    group, _, option = wanted.rpartition(".")
    if not group:
        return f"this model needs {option}, which no choice sets: check that network=… is one of its family"
    return f"{group}: this model needs {option}, which your choice does not have; choose another"


def _missing(error: MissingConfigException) -> str:
    """One sentence for a choice that a group does not have."""
    if error.missing_cfg_file == "hydra/sweeper/optuna":
        return "hydra/sweeper=optuna is not installed: pip install 'diffusion-lab[optuna]'"
    wanted = error.missing_cfg_file or ""
    group, _, option = wanted.rpartition("/")
    # Hydra lists the choices of a group, not those of a folder in it, as network=diffusion/….
    options = sorted(error.options or [file.stem for file in (CONF / group).glob("*.yaml")])
    if not group or not options:
        return _one_line(error)
    typed = f"{group}={option}" if error.options else wanted.replace("/", "=", 1)
    return f"{typed}: there is no such choice; choose one of {', '.join(options)}{_hint(option, options)}"


def _composition(error: Exception, command: str) -> str:
    """One sentence for an option that does not exist, or a value of the wrong kind."""
    named = refused_option(error) or _found(r"full_key: (\S+)", error)
    if named is None:
        return _one_line(error)
    key = named.partition("@")[0]
    file = _found(r"In '([^']+)': Could not override", error)
    if file is not None:
        if said := replaced(key):
            return f"{file}.yaml: {said}"
        return f"{file}.yaml overrides the group {key}, which diffusion-lab {command} does not have"
    if "could not be converted" in str(error) or "Cannot convert" in str(error):
        return f"{key}: {str(error).splitlines()[0]}"
    return _unknown(key, command)


def replaced(key: str) -> str | None:
    """What to write instead of an option of an earlier version, or None."""
    fix = _REPLACED.get(key if key in _REPLACED else key.partition(".")[0])
    return None if fix is None else f"{key} was replaced: {fix}"


def _unknown(key: str, command: str) -> str:
    """One sentence for an option that the config does not have."""
    if said := replaced(key):
        return said
    if command in ("train", "schedule") and (CONF / key).is_dir():
        models = sorted(file.stem for file in (CONF / "model").glob("*.yaml") if f"  - /{key}: " in file.read_text())
        if models:
            others = f"or choose model={' or '.join(models)}"
            return f"{key} is not a part of the model that you chose: remove {key}=…, {others}"
    elif key not in SCORING_GROUPS and (CONF / key).is_dir():
        other = "; model_dir=… names a trained model" if key == "model" else ""
        return f"{key} is chosen in training (diffusion-lab train {key}=…), not in {command}{other}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        leaves = flat(as_plain(compose(command)))
    known = list(dict.fromkeys(above for leaf in leaves for above in above_and_itself(leaf)))
    return f"there is no option {key!r}{_hint(key, known, f'; see diffusion-lab {command} --help')}"


def _hint(word: str, known: list[str], otherwise: str = "") -> str:
    if word in known:
        return f" with your choice of {word.partition('.')[0]}"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else otherwise


def _place(error: BaseException) -> str:
    """The key that an error is about, as in "network.dropout: "; empty if there is none."""
    key = _found(r"full_key: (\S+)", error)
    return "" if key is None else f"{key}: "


def _one_line(error: BaseException) -> str:
    """The text without the list of searched folders."""
    return " ".join(str(error).split("Config search path")[0].split())


def _found(pattern: str, error: BaseException) -> str | None:
    match = re.search(pattern, str(error))
    return None if match is None else match[1]
