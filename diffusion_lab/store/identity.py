"""The name of a run: a digest of its options, of the data, and of the user's own files; and the record of the code that made it.

Not in the name: the code and the versions of this package, the device, and what follows from them. These are recorded with a run
(`code_now`), and a command that uses a run of other code reports it (`made_by`). Does not import torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.option_names import canonical_json
from diffusion_lab.store.own_files import DIGITS, LISTS, Files, digests_of, sha256_of

PACKAGE = Path(__file__).parent.parent
SCORING_GROUPS = tuple(LISTS["scoring"])  # chosen anew for each score
SCORED_GROUPS = (*SCORING_GROUPS, "variance")  # variance only if it did not shape training
NOT_IN_THE_NAME = frozenset(key for some in LISTS.values() for key in some)
# Callbacks that observe and save; others are the user's, and may change training in any way.
OUR_CALLBACKS = tuple(yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text(encoding="utf-8")))
TRAINING_ROOMS = ("conditions", "data", "diffusion", "families", "models", "networks", "training")
SCORING_ROOMS = (*TRAINING_ROOMS, "analysis", "metrics", "sampling")
_MOST_NAMED = 3  # changed files in a sentence


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


def asked_of_score(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of scoring in a resolved config (plain containers)."""
    return {key: config[key] for key in SCORED_GROUPS if config.get(key) is not None}


@dataclass(frozen=True)
class Name:
    """The name of a run. asked: a digest of options and data. files: path -> digest of the user's own files."""

    asked: str
    files: Mapping[str, str]

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


def _is_ours(name: str, callback: Mapping[str, Any]) -> bool:
    return name in OUR_CALLBACKS and str(callback.get("_target_", "diffusion_lab.")).startswith("diffusion_lab.")


# ---- the code that made a run


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


def why_anew(name: Name, earlier: Mapping[str, Mapping[str, Any]]) -> str | None:
    """One sentence on a new training that differs from an earlier one only in the user's own files; None if there is no such one.

    earlier: path -> content of training.json.
    """
    for path, training in earlier.items():
        if training.get("asked") == name.asked and isinstance(training.get("files"), Mapping):
            files = some_of(changed(training["files"], name.files))
            return f"new, because files of yours have changed since {path} was trained: {files}"
    return None


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
