"""The user's mistakes in one sentence each, with the option or the file and the fix; None for errors of the lab itself.

Sentences of Hydra and OmegaConf are shown as they are, on one line, except where they advise what the lab refuses.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.main import get_args_parser
from hydra.types import RunMode
from omegaconf.errors import (
    ConfigAttributeError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.overrides import flags_and_words, unknown_flag
from diffusion_lab.config.own_code import own_line
from diffusion_lab.config.unknown_names import all_options, closest, missing_choice, unknown_option
from diffusion_lab.store import RunError
from diffusion_lab.store.files import PlaceError
from diffusion_lab.sweeps.axes import MissingOptionError

_DASHES = tuple("\u2010\u2011\u2012\u2013\u2014\u2015\u2212")  # as word processors make them of - and --
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OF_PLACES = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EROFS}
_ONLY_IN_SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "sweep.")


class MistakeError(Exception):
    """A mistake of the user; the message is one sentence with the option or the file and the fix."""


# ---- checks before a config is composed, and around building objects


def refuse_words(options: Iterable[str], command: str) -> None:
    """MistakeError for a word of the command line that cannot be an option of any command."""
    options = [*options]
    if (flag := unknown_flag(options)) is not None:
        name, known = flag.lstrip("-").replace("-", "_"), all_options(command)
        such = "".join(f", such as {meant}=…" for meant in ([name] if name in known else closest(name, known))[:1])
        raise MistakeError(f"there is no flag {flag}: options are written option=value, without dashes{such}")
    folder = get_args_parser().parse_known_args(options)[0].config_dir
    if folder is not None and not Path(folder).is_dir():
        raise MistakeError(f"--config-dir {folder}: this is not a folder")
    for word in flags_and_words(options)[1]:
        option, is_set, value = word.partition("=")
        if word.startswith(_DASHES) or value.startswith(_DASHES):
            raise MistakeError(f"{word} contains a typographic dash: type - or --")
        if option and is_set and value in ("", "''", '""'):  # such as an unset variable
            raise MistakeError(f"{word} is empty: give a value, or remove it")
        if word.startswith("+") and (CONF / option.lstrip("+")).is_dir():
            raise MistakeError(f"{word}: write {word.lstrip('+')}, without +")
        if (CONF / option).is_dir() and option != "condition" and re.fullmatch(r"null|[-+]?[\d.]+", value):
            raise MistakeError(
                f"{word}: {option} takes the name of a choice; diffusion-lab {command} --help lists them"
            )


def refuse_outside_sweeps() -> None:
    """MistakeError for an option of sweeps, launchers or sweepers without -m: training would run here, not on the cluster; and for
    one of our sweeper with another."""
    hydra = HydraConfig.get()
    sweeper = hydra.runtime.choices.get("hydra/sweeper")
    for override in (*hydra.overrides.task, *hydra.overrides.hydra):
        name = override.lstrip("+~")
        if hydra.mode is RunMode.RUN and name.startswith(_ONLY_IN_SWEEPS):
            raise MistakeError(f"{override} works only in a sweep: add -m, or remove {override}")
        if sweeper != "train_once" and name.startswith("sweep."):
            raise MistakeError(f"{override} does not work with hydra/sweeper={sweeper}: remove one of the two")


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Turn a ValueError of building objects from options into a mistake in the options."""
    try:
        yield
    except InterpolationKeyError:  # is a ValueError too, but has its own sentence below
        raise
    except (ValueError, RunError) as error:
        raise MistakeError(str(error)) from error


@contextmanager
def out_of_memory(at: str, fix: str) -> Iterator[None]:
    """Turn running out of memory, in code whose memory grows with the options in `at`, into a sentence with a fix."""
    try:
        yield
    except (MemoryError, RuntimeError, InstantiationException) as error:
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
    """Turn the errors of processes whose peer has died into one sentence."""
    try:
        yield
    except RuntimeError as error:  # from gloo or NCCL
        if not re.search("(closed|reset) by peer|remote process exited", str(error)):
            raise
        raise MistakeError("another process of this command ended; its own log says why") from error


# ---- sentences for errors


def mistake_in_job(error: BaseException) -> str | None:
    """One sentence for an error in a job's options, or None."""
    match error:
        case MistakeError() | RunError() | PlaceError():
            return str(error)
        case _ if _is_out_of_memory(error):
            return f"{_place(error)}out of memory: choose smaller sizes, batches or numbers"
        case InterpolationKeyError():
            return _lacking(error)
        case InterpolationResolutionError():  # ${oc.env:NAME} of an unset variable, or a reference to itself
            return _one_line(error)
        case InstantiationException():
            return _instantiation(error)
        case MissingMandatoryValue():
            key = (error.full_key or "").removeprefix("model.")
            return f"{key} has no value; set {key}=…"
        case OSError() if error.errno in _OF_WRITING:
            fix = "earlier files are intact: free some space, or raise its limit, and run the same command again"
            return f"cannot write {error.filename or 'the outputs'} ({error.strerror}); {fix}"
        case OSError() if error.filename and error.errno in _OF_PLACES:
            return f"{error.filename}: {error.strerror}; choose another place"
    return None


def _lacking(error: InterpolationKeyError) -> str:
    """One sentence for a reference to an option that does not exist, such as the model's ${sampling.temperature}."""
    group, _, option = str(error).split("'")[1].rpartition(".")  # OmegaConf names it only in the text
    if not (group and (error.full_key or "").startswith("model.")):
        return f"{_one_line(error)}: your choices do not fit together; choose parts of one family"
    return f"{group}: this model needs {option}, which your choice lacks: choose parts of one family"


def _instantiation(error: InstantiationException) -> str | None:
    """The sentence of the object that refuses its options, after their place."""
    place, cause = _place(error), error.__cause__
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    said = " ".join(str(cause).split())
    of_lightning = type(cause).__name__ == "MisconfigurationException"  # slow to import
    if isinstance(cause, InterpolationKeyError):
        return _lacking(cause)
    if isinstance(cause, ValueError | RunError | OmegaConfBaseException | ImportError) or of_lightning:
        if place and (its_own := re.match(r"(\w+) = ([^\s:,]+)", said)):
            return f"{place.removesuffix(': ')}.{its_own[1]}={its_own[2]}{said[its_own.end() :]}"
        return said if re.match(r"\w+\.[\w.]+=", said) else place + said  # the message may name the option already
    if cause is not None and (line := own_line(cause)):
        return line
    if missing := re.search(r"missing 1 required .*argument: '(\w+)'", said):
        if not place:
            return f"a part needs {missing[1]}: your choices do not fit together; choose parts of one family"
        return f"{place}set +{place.removesuffix(': ')}.{missing[1]}=…"
    if isinstance(cause, ArithmeticError | RuntimeError | TypeError):
        return f"{place}these values do not work ({said})"
    return None if cause is not None else _one_line(error)


def mistake_in_options(error: BaseException, command: str, options: Sequence[str] = ()) -> str | None:
    """One sentence for options that cannot be composed into a config, or None."""
    match error:
        case MissingConfigException():
            return missing_choice(error, options)
        case OverrideParseException():
            return f"cannot read {error.override!r}: write option=value, with quotes around spaces, commas and brackets"
        case MissingOptionError() | HydraException() | OmegaConfBaseException():
            key = refused_option(error)
            if key is None or "@" in key:
                return _several_values(str(error), command, options) or _one_line(error)
            of_hydra = key.startswith("hydra.")
            group, of_group, _ = key.partition(".")
            chosen = [
                word for word in options if word.startswith("hydra/") or (of_group and word.startswith(f"{group}="))
            ]
            known = all_options(command, of_hydra or _is_sweep(options), chosen)
            if not of_hydra:
                known = [name for name in known if not name.startswith("hydra.") or ".sweeper." in name]
            return unknown_option(key, known, command)
        case ValueError() | YAMLError():
            return _one_line(error)
    return None


def _several_values(said: str, command: str, options: Sequence[str]) -> str | None:
    """One sentence for an option with several values that Hydra refuses without -m, or as a parameter of a search."""
    for word in flags_and_words(options)[1]:
        if word in said and OverridesParser.create().parse_override(word).is_sweep_override():
            name = word.lstrip("+").removeprefix("hydra.sweeper.params.")
            if not _is_sweep(options):
                return f"{word}: several values need -m (diffusion-lab {command} -m …)"
            return None if name == word else f"{word}: write {name}"
    return None


def _is_sweep(options: Sequence[str]) -> bool:
    return bool({"-m", "--multirun"} & {*flags_and_words(options)[0]})


def refused_option(error: BaseException) -> str | None:
    """The option that a config lacks, which Hydra can neither set nor delete, or which the user deleted; None for other errors."""
    if isinstance(error, MissingOptionError):
        return error.key
    if isinstance(error, ConfigAttributeError):
        return error.full_key
    is_refusal = isinstance(error, ConfigCompositionException) and str(error).startswith("Could not ")
    return str(error).split("'")[1] if is_refusal else None  # Hydra names it only in the text


def _place(error: BaseException) -> str:
    """The option that an error is about, as in "network.dropout: "; empty if there is none. Hydra says it only in the text."""
    key = str(error).partition("full_key: ")[2].split()
    return f"{key[0].removeprefix('model.')}: " if key and key[0] != "model" else ""  # parts of `model` refer to groups


def _one_line(error: BaseException) -> str:
    """The text and that of its cause, without the list of searched folders and of Python's types."""
    texts = [str(one).split("Config search path")[0] for one in (error, error.__cause__) if one]
    texts = list(dict.fromkeys(text.split("object_type=")[0].strip() for text in texts))
    return " ".join(" ".join(texts).split())
