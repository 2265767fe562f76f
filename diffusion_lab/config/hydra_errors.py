"""Facts that Hydra and OmegaConf give only in the texts of their errors. No other file reads these texts."""

from __future__ import annotations

import re

from hydra.errors import ConfigCompositionException


def could_not_override(key: str) -> ConfigCompositionException:
    """The error that Hydra raises for an option that the config does not have."""
    return ConfigCompositionException(f"Could not override '{key}'.")


def refused_option(error: BaseException) -> str | None:
    """The key of an option that the config does not have; a choice of a group with its package, as group@package."""
    return _found(r"Could not override '([^']+)'", error)


def refused_by(error: BaseException) -> str | None:
    """The config, as local/default, that overrides the choice of a group which is not there; None: the command line does."""
    return _found(r"In '([^']+)': Could not override", error)


def place(error: BaseException) -> str | None:
    """The dotted key that an error is about."""
    return _found(r"full_key: (\S+)", error)


def missing_target(error: BaseException) -> str | None:
    """A `_target_` that Python cannot import."""
    return _found(r"Error locating target '([^']+)'", error)


def missing_reference(error: BaseException) -> str | None:
    """The dotted key that an interpolation refers to and that is not there."""
    return _found(r"Interpolation key '([^']+)'", error)


def wrong_kind(error: BaseException) -> str | None:
    """The sentence for a value that cannot be converted to the type of its option."""
    text = str(error)
    return text.splitlines()[0] if "could not be converted" in text or "Cannot convert" in text else None


def is_null_group(error: BaseException) -> bool:
    """Whether a group was set to null. Hydra does not say which."""
    return "Config group override must be" in str(error)


def is_two_modes(error: BaseException) -> bool:
    """Whether the error says that flags exclude each other, such as -m and --cfg."""
    return str(error).startswith("Only one of --run")


def one_line(error: BaseException) -> str:
    """The text, without the folders that configs were searched in."""
    return " ".join(str(error).split("Config search path")[0].split())


def _found(pattern: str, error: BaseException) -> str | None:
    match = re.search(pattern, str(error))
    return None if match is None else match[1]
