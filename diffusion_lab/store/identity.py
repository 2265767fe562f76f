"""The name of a run: a digest of what was asked, of the data, and of the user's own files. Does not import torch.

Not in it: the code and the versions of this package, the device, and what follows from them. These are recorded with a run
(`code_now`), and a command that uses a run of other code says so (`made_by`).

The user's own files are found from the modules that a config names. Of a package all files count, of a single file those beside it
and in folders below, and beyond these the modules that they import by name, at the top or in a function. What is read from
elsewhere, from environment variables, or imported from elsewhere by a computed name is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import stat
import sysconfig
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.files import MARKER
from diffusion_lab.store.option_names import canonical_json

PACKAGE = Path(__file__).parent.parent
_LISTS = yaml.safe_load((CONF / "not_in_the_name.yaml").read_text(encoding="utf-8"))
SCORING_GROUPS: tuple[str, ...] = tuple(_LISTS["scoring"])  # chosen anew for each score
SCORED_GROUPS = (*SCORING_GROUPS, "variance")  # variance only if it did not shape training
_OF_CALLBACKS = frozenset(_LISTS["callbacks"])
_PLACES = frozenset(_LISTS["places"])
NOT_IN_THE_NAME = frozenset((*SCORING_GROUPS, *_LISTS["training"])) | _PLACES | _OF_CALLBACKS
# Callbacks that observe and save; others are the user's, and may change training in any way.
OUR_CALLBACKS = tuple(yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text(encoding="utf-8")))
TRAINING_ROOMS = ("conditions", "data", "diffusion", "families", "models", "networks", "training")
SCORING_ROOMS = (*TRAINING_ROOMS, "analysis", "metrics", "sampling")

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_LARGEST = 2**24  # bytes of a file that counts although nothing names it
_MOST_NAMED = 3  # changed files in a sentence
_DIGITS = 16  # of a recorded digest
_INSTALLED = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
# Beside a single module: files that change without anything being computed in another way (notes, notebooks, redirected output).
_NO_PART = frozenset((".pyc", ".ipynb", ".md", ".log", ".out", ".err"))
COPY = "DIFFUSION_LAB_CODE"  # the copy that a job of a cluster runs from, see `sweeps.frozen`
_NO_FOLDER = frozenset(("__pycache__", "site-packages", "dist-packages", "node_modules", "outputs"))
_OF_RESULTS = ("training.json", "metrics.json", "sweep.json")
# Of a clone of the lab, in which a user may put his files.
_FOLDERS_OF_A_CLONE = {"benchmarks", "conf", "diffusion_lab", "docs", "hydra_plugins", "notebooks", "scripts", "tests"}
_OF_A_CLONE = _FOLDERS_OF_A_CLONE | {"CITATION.cff", "LICENSE", "Makefile", "mkdocs.yml", "pyproject.toml"}

Files = Mapping[Path, Collection[Path]]  # folder from which modules are imported -> the user's files below it


def asked_of_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config (plain containers) without what cannot change the weights."""
    callbacks = {name: node for name, node in (config.get("callbacks") or {}).items() if node is not None}
    added = {name for name, node in callbacks.items() if not (name in OUR_CALLBACKS and _is_ours(node))}
    without = NOT_IN_THE_NAME | {f"callbacks.{name}" for name in config.get("callbacks") or {} if name not in added}
    without = without - _OF_CALLBACKS if added else without | {"callbacks"}

    def keep(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if f"{prefix}{key}" not in without
        }

    return keep(config, "")


def asked_of_score(config: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of scoring in a resolved config."""
    return {key: config[key] for key in SCORED_GROUPS if config.get(key) is not None}


@dataclass(frozen=True)
class Name:
    """What identifies a run. asked: a digest of options and data. files: place -> digest of the user's own files."""

    asked: str
    files: Mapping[str, str]

    def __str__(self) -> str:
        """64 hex digits."""
        return _digest([self.asked, self.files])


def name_of(asked: Mapping[str, Any], data: str, files: Files) -> Name:
    """data: a digest of the data. TypeError or ValueError for values that JSON cannot represent."""
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
    except (OSError, ValueError):  # no name of a file
        return False


def _is_ours(callback: Mapping[str, Any]) -> bool:
    return str(callback.get("_target_", "diffusion_lab.")).startswith("diffusion_lab.")


# ---- the user's own files


def users_files(asked: Mapping[str, Any], config: Mapping[str, Any]) -> dict[Path, set[Path]]:
    """The files of the modules that a part of a config names. Nothing is imported.

    config: the whole of it, resolved: files in the folders that it names for data and for results do not count.
    """
    named = {name.partition(".")[0] for name in _dotted(asked)}
    left_out = {Path(os.path.abspath(text)) for text in _places(config) if text}
    found: dict[Path, set[Path]] = {}
    waiting, known = sorted(named), set[str]()
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        for folder, is_package in _where(name):
            if is_package:
                modules = files = {*_files_below(folder, left_out, package=True)}
            else:
                modules = {folder / f"{name}.py"}
                files = modules | ({*_files_below(folder, left_out)} if name in named else set())
            found.setdefault(folder.parent if is_package else folder, set()).update(files)
            waiting += sorted({other for file in modules if file.suffix == ".py" for other in _imported(file)} - known)
    return found


def digests_of(files: Files) -> dict[str, str]:
    """Place -> digest of each file, sorted."""
    found = {f.relative_to(root).as_posix(): sha256_of(f)[:_DIGITS] for root in sorted(files) for f in files[root]}
    return dict(sorted(found.items()))


def _dotted(node: Any) -> Iterator[str]:
    """Every dotted name below a node of a config: each `_target_`, and names passed as arguments."""
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from _dotted(child)
    elif isinstance(node, str) and _DOTTED.fullmatch(node):
        yield node


def _places(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The values of options that name places of data and results."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _places(value, f"{prefix}{key}.")
        elif isinstance(value, str) and f"{prefix}{key}" in _PLACES:
            yield value


def _where(module: str) -> Iterator[tuple[Path, bool]]:
    """(its folder, True) for each folder of a user's package; (the folder around it, False) for a single file."""
    try:
        spec = None if module in (PACKAGE.name, "hydra_plugins") else find_spec(module)
    except (ImportError, ValueError):  # ValueError for a module without a file, such as __main__ in a notebook
        return
    if spec is None:
        return
    packages = [Path(folder) for folder in spec.submodule_search_locations or ()]
    file = Path(spec.origin) if spec.origin and spec.has_location else None
    if not any(_is_installed(path) for path in packages or filter(None, [file])):
        yield from ((Path(os.path.abspath(folder)), True) for folder in packages)
        if not packages and file is not None and file.suffix == ".py":
            yield Path(os.path.abspath(file.parent)), False


def _is_installed(path: Path) -> bool:
    above = {path.resolve(), *path.resolve().parents}
    return bool(above & _INSTALLED) or any(part.name in ("site-packages", "dist-packages") for part in above)


def _files_below(folder: Path, left_out: Collection[Path], package: bool = False) -> Iterator[Path]:
    """The files in a folder and in plain folders below it, without hidden, large and empty ones, results, and the lab's own.

    Of a package all folders count, also conf/ and outputs/. In the copy that a job of a cluster runs from, links lead to what does
    not count.
    """
    copied = Path(os.environ.get(COPY) or os.devnull) in folder.parents
    no_part = frozenset((".pyc",)) if package else _NO_PART
    for above, folders, names in os.walk(folder):
        here = Path(above)
        others = {"__pycache__"} if package else {*_NO_FOLDER, *({"conf"} if here == folder else ())}
        if (here / PACKAGE.name / "__init__.py").is_file():
            others |= _OF_A_CLONE
        folders[:] = [
            name
            for name in sorted(folders)
            if not (name.startswith(".") or name in others or here / name in left_out or _is_made(here / name))
        ]
        for name in names:
            path = here / name
            is_part = not (name.startswith(".") or path.suffix in no_part or name in others or path in left_out)
            if is_part and not (copied and path.is_symlink()):
                try:
                    found = path.stat()
                except OSError:
                    continue
                if stat.S_ISREG(found.st_mode) and 0 < found.st_size <= _LARGEST and not _is_output(found):
                    yield path


def _is_output(found: os.stat_result) -> bool:
    """Whether this command prints to the file."""
    for stream in (1, 2):
        with suppress(OSError):  # it may be closed
            if os.path.samestat(os.fstat(stream), found):
                return True
    return False


def _is_made(folder: Path) -> bool:
    """Whether a folder is an environment, or holds results of the lab."""
    made = any((folder / name).is_file() for name in ("pyvenv.cfg", MARKER, *_OF_RESULTS))
    return made or any(folder.glob("models/*/choices.json"))


def _imported(file: Path) -> Iterator[str]:
    """The first parts of the names of the modules that a file imports from elsewhere than its package."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # reported by Python on import
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


# ---- what made a run


def code_now(rooms: Sequence[str] = TRAINING_ROOMS) -> dict[str, str]:
    """File -> its digest, for the code of this package in these rooms."""
    files = sorted(file for room in rooms for file in (PACKAGE / room).rglob("*.py"))
    return {file.relative_to(PACKAGE).as_posix(): sha256_of(file)[:_DIGITS] for file in files}


def both(earlier: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, str]:
    """The code of work that was begun by one code and ended by another: with both digests of a file where they differ."""
    return {
        file: " ".join(dict.fromkeys([*str(earlier.get(file, "none")).split(), now.get(file, "none")]))
        for file in sorted({*earlier, *now})
    }


def changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The files in which the recorded code of a run and `now` differ."""
    return [file for file in sorted({*earlier, *now}) if earlier.get(file) != now.get(file)]


def said_of_model(path: Path, training: Mapping[str, Any]) -> str | None:
    """A sentence on a finished training if other code made it, with the ways on; None if this code did."""
    made = None if "imported" in training else made_by(training, code_now())
    ways = "train with retrain=true to replace it, or with variant=WORD to train beside it"
    return made and f"{path} was trained by {made}: {ways}"


def why_anew(name: Name, earlier: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A sentence on a new training that differs from an earlier one in nothing but the user's own files.

    earlier: path -> content of training.json.
    """
    for path, training in earlier.items():
        if training.get("asked") == name.asked and isinstance(training.get("files"), Mapping):
            files = some_of(changed(training["files"], name.files))
            return f"new, because files of yours have changed since {path} was trained: {files}"
    return None


def some_of(files: Sequence[str]) -> str:
    """The first few of these files, and how many more."""
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return ", ".join(files[:_MOST_NAMED]) + more


def of_earlier_version(record: Mapping[str, Any]) -> bool:
    """Whether 0.1 made what a record is about: it recorded no files of code."""
    return "names" in record.get("code", {"names"})


def made_by(record: Mapping[str, Any], now: Mapping[str, str]) -> str | None:
    """Half a sentence if other code made what a record is about, which has `code` and `versions`; None if this code did."""
    if of_earlier_version(record):
        version = (record.get("versions") or {}).get("diffusion_lab")
        return f"diffusion_lab {version or 'of an earlier version'}, which recorded no code"
    files = changed(record["code"], now)
    if not files:
        return None
    return f"other code ({some_of(files)})"


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, kept until it changes: no program can set the time of a change of its status."""
    state = file.stat()
    return _sha256(file.absolute(), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=4096)
def _sha256(file: Path, *_: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
