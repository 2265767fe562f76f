"""The code and versions that made a run: recorded (`code_now`), not in its name, and compared when the run is used (`made_by`).

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diffusion_lab.store.own_files import DIGITS, sha256_of

PACKAGE = Path(__file__).parent.parent
TRAINING_ROOMS = ("conditions", "data", "diffusion", "families", "models", "networks", "training")
SCORING_ROOMS = (*TRAINING_ROOMS, "analysis", "metrics", "sampling")
_MOST_NAMED = 3  # changed files in a sentence


def code_now(rooms: Sequence[str] = TRAINING_ROOMS) -> dict[str, str]:
    """File -> its digest, for the code of this package in these rooms."""
    return {file: digest for file, digest in _code().items() if file.partition("/")[0] in rooms}


@cache
def _code() -> dict[str, str]:
    """File -> its digest, read once, because a long process keeps running the code that it has loaded."""
    files = sorted(file for room in SCORING_ROOMS for file in (PACKAGE / room).rglob("*.py"))
    return {file.relative_to(PACKAGE).as_posix(): sha256_of(file)[:DIGITS] for file in files}


def both(earlier: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, str]:
    """The code of work that one code began and another one ended: both digests of a file if they differ."""
    return {
        file: " ".join(dict.fromkeys([*str(earlier.get(file, "none")).split(), now.get(file, "none")]))
        for file in sorted({*earlier, *now})
    }


def changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The files in which the recorded code of a run and `now` differ."""
    return [file for file in sorted({*earlier, *now}) if earlier.get(file) != now.get(file)]


def said_of_model(path: Path, training: Mapping[str, Any]) -> str | None:
    """One sentence on a finished training if other code made it, with the options; None if it was this code."""
    made = None if "imported" in training else made_by(training, code_now())
    ways = "train with retrain=true to replace it, or with variant=WORD to keep both"
    return made and f"{path} was trained by {made}: {ways}"


def some_of(files: Sequence[str]) -> str:
    """The first few of these files, and the number of the others."""
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return ", ".join(files[:_MOST_NAMED]) + more


def of_earlier_version(record: Mapping[str, Any]) -> bool:
    """Whether version 0.1 wrote the record: it has no digests of code."""
    return "names" in record.get("code", {"names"})


def made_by(record: Mapping[str, Any], now: Mapping[str, str]) -> str | None:
    """A phrase on the code and versions in a record if they differ from `now` and these versions; None otherwise."""
    if of_earlier_version(record):
        version = (record.get("versions") or {}).get("diffusion_lab")
        return f"diffusion_lab {version or 'of an earlier version'}, which recorded no code"
    files = changed(record["code"], now)
    return f"other code ({some_of(files)})" if files else None
