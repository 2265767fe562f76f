"""The code and versions that made a run: recorded (`code_now`), not in its name, and compared when the run is used.

Here are all sentences on code and files that have changed since. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diffusion_lab.store.own_files import DIGITS, sha256_of

PACKAGE = Path(__file__).parent.parent
# Packages and files whose code can change the weights of a training, and the numbers of a score.
_BOTH = ("conditions", "config", "data", "diffusion", "families", "models", "networks", "training")
_WHERE = ("store/directories.py", "store/weight_names.py")  # which weights are read
TRAINING = (*_BOTH, *_WHERE, "commands/fit.py", "commands/train.py")
_GIVEN_IMAGES = ("interop/given_images.py", "interop/given_statistics.py")
SCORING = (*_BOTH, *_WHERE, *_GIVEN_IMAGES, "analysis", "commands/evaluate.py", "metrics", "sampling")
_MOST_NAMED = 3  # changed files in a sentence


def code_now(places: Sequence[str] | None = None) -> dict[str, str]:
    """File -> its digest, for the code of this package, or only for that of these packages and files."""
    return {file: digest for file, digest in _code().items() if places is None or _lies_in(file, places)}


def _lies_in(file: str, places: Sequence[str]) -> bool:
    return any(f"{file}/".startswith(f"{place}/") for place in places)


@cache
def _code() -> dict[str, str]:
    """File -> its digest, read once, because a long process keeps running the code that it has loaded."""
    return {file.relative_to(PACKAGE).as_posix(): sha256_of(file)[:DIGITS] for file in sorted(PACKAGE.rglob("*.py"))}


def both(earlier: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, str]:
    """The code of work that one code began and another one ended: both digests of a file if they differ.

    Packages that the earlier record does not cover are left out.
    """
    covered = {*map(_package, earlier)}
    return {
        file: " ".join(dict.fromkeys([*str(earlier.get(file, "none")).split(), now.get(file, "none")]))
        for file in sorted({*earlier, *now})
        if _package(file) in covered
    }


def changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The files in which two records differ."""
    return [file for file in sorted({*earlier, *now}) if earlier.get(file) != now.get(file)]


def changed_code(earlier: Mapping[str, Any], now: Mapping[str, Any], places: Sequence[str]) -> list[str]:
    """The files of these packages and files in which two records of code differ.

    Only packages that both records cover count: earlier versions recorded fewer.
    """
    covered = {*map(_package, earlier)} & {*map(_package, now)}
    return [file for file in changed(earlier, now) if _package(file) in covered and _lies_in(file, places)]


def _package(file: str) -> str:
    return file.partition("/")[0]


def by_other_code(path: Path, training: Mapping[str, Any]) -> list[str]:
    """A sentence, with the ways on, if other code trained the model in the folder `path`. training: its record."""
    made = None if "imported" in training else made_by(training, TRAINING)
    ways = "train with retrain=true to replace it, or with variant=WORD to keep both"
    return [f"{path} was trained by {made}: {ways}"] if made else []


def with_other_files(path: Path, edited: Sequence[str]) -> list[str]:
    """A sentence, with the ways on, if files were edited since the model in the folder `path` was trained with them."""
    ways = "restore them, or train again (retrain=true)"
    return [f"{path} was trained with other versions of its files ({some_of(edited)}): {ways}"] if edited else []


def first_of(sentences: Sequence[str]) -> list[str]:
    """The first of these sentences on models, with the number of the others; nothing if there are none."""
    more = f" (and {len(sentences) - 1} more of these models)" if len(sentences) > 1 else ""
    return [sentences[0] + more] if sentences else []


def some_of(files: Sequence[str]) -> str:
    """The first few of these files, and the number of the others."""
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return ", ".join(files[:_MOST_NAMED]) + more


def of_earlier_version(record: Mapping[str, Any]) -> bool:
    """Whether version 0.1 wrote the record: it has no digests of code."""
    return "names" in record.get("code", {"names"})


def made_by(record: Mapping[str, Any], places: Sequence[str]) -> str | None:
    """A phrase on the code in a record if it differs from this code in these packages and files; None otherwise."""
    if of_earlier_version(record):
        version = (record.get("versions") or {}).get("diffusion_lab")
        return f"diffusion_lab {version or 'of an earlier version'}, which recorded no code"
    files = changed_code(record["code"], code_now(), places)
    return f"other code ({some_of(files)})" if files else None
