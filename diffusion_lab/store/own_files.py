"""The user's own files that count for a run, found from the modules that a config names. Nothing is imported.

Of a package all files count, of a single file those beside it and in folders and linked folders below, and beyond these the modules
that they import by name, at the top or in a function. What is read from elsewhere, from environment variables, or imported from
elsewhere by a computed name is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import re
import sysconfig
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from diffusion_lab.store.files import MARKER
from diffusion_lab.store.option_names import LISTS, flat

COPY = "DIFFUSION_LAB_CODE"  # the copy that a job of a cluster runs from, see `sweeps.frozen`
DIGITS = 16  # of a recorded digest

_LAB, _PLUGINS = "diffusion_lab", "hydra_plugins"
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_LARGEST = 2**24  # bytes of a file that counts although nothing names it
_MOST_LINKED = 1000  # files below a link that leads to a folder; one with more, such as a data set, does not count
_STANDARD_LIBRARY = [Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")]
_INSTALLED = frozenset(("site-packages", "dist-packages"))
# Beside a single module: files that change without anything being computed in another way (notes, notebooks, redirected output).
_NO_PART = frozenset((".pyc", ".ipynb", ".md", ".log", ".out", ".err"))
_NO_FOLDER = _INSTALLED | {"__pycache__", "node_modules", "outputs"}
_OF_RESULTS = ("pyvenv.cfg", MARKER, "training.json", "metrics.json", "sweep.json")  # or of an environment
# Of a clone of the lab, in which a user may put his files.
_FOLDERS_OF_A_CLONE = {"benchmarks", "conf", "diffusion_lab", "docs", "hydra_plugins", "notebooks", "scripts", "tests"}
_OF_A_CLONE = _FOLDERS_OF_A_CLONE | {"CITATION.cff", "LICENSE", "Makefile", "mkdocs.yml", "pyproject.toml"}

Files = Mapping[Path, Collection[Path]]  # folder from which modules are imported -> the user's files below it


def users_files(asked: Mapping[str, Any], config: Mapping[str, Any]) -> dict[Path, set[Path]]:
    """The files of the modules that a part of a config names.

    config: the whole of it, resolved: files in the folders that it names for data and for results do not count.
    """
    named = {name.partition(".")[0] for name in _dotted(asked)}
    places = (
        value for key, value in flat(config).items() if key in LISTS["places"] and isinstance(value, str) and value
    )
    left_out = {Path(path) for place in places for path in (os.path.abspath(place), os.path.realpath(place))}
    found: dict[Path, set[Path]] = {}
    waiting, known = sorted(named), set[str]()
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        for path in _where(name):
            if path.is_dir():
                modules = files = {*_files_below(path, left_out, package=True)}
            else:
                modules = {path}
                files = modules | ({*_files_below(path.parent, left_out)} if name in named else set())
            found.setdefault(path.parent, set()).update(files)
            sources = (file for file in modules if file.suffix == ".py")
            waiting += sorted({other for file in sources for other in _imported(file, *state_of(file))} - known)
    return found


def digests_of(files: Files) -> dict[str, str]:
    """Path below its root -> digest of each file, sorted."""
    found = {f.relative_to(root).as_posix(): sha256_of(f)[:DIGITS] for root in sorted(files) for f in files[root]}
    return dict(sorted(found.items()))


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, kept until it changes."""
    return _sha256(file.absolute(), *state_of(file))


def state_of(file: Path) -> tuple[int, ...]:
    """What tells one content of a file from another: no program can set the time of a change of its status."""
    state = file.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


@lru_cache(maxsize=4096)
def _sha256(file: Path, *_: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _dotted(node: Any) -> Iterator[str]:
    """Every dotted name below a node of a config: each `_target_`, and names passed as arguments."""
    if isinstance(node, Mapping | list | tuple):
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _dotted(child)
    elif isinstance(node, str) and _DOTTED.fullmatch(node):
        yield node


def _where(module: str) -> list[Path]:
    """The folders of a user's package, or the file of a user's module; nothing for installed modules."""
    try:
        spec = None if module in (_LAB, _PLUGINS) else find_spec(module)
    except (ImportError, ValueError):  # ValueError for a module without a file, such as __main__ in a notebook
        spec = None
    if spec is None:
        return []
    found = [Path(os.path.abspath(folder)) for folder in spec.submodule_search_locations or ()]
    if not found and spec.origin and spec.has_location and spec.origin.endswith(".py"):
        found = [Path(os.path.abspath(spec.origin))]
    return [] if any(map(_is_installed, found)) else found


def _is_installed(path: Path) -> bool:
    path = path.resolve()
    return not _INSTALLED.isdisjoint(path.parts) or any(map(path.is_relative_to, _STANDARD_LIBRARY))


def _files_below(
    folder: Path, left_out: Collection[Path], package: bool = False, above: Sequence[Path] = ()
) -> Iterator[Path]:
    """The files in a folder and in folders below it, without hidden, large and empty ones, results, and the lab's own.

    Of a package all folders count, also conf/ and outputs/. A link to a folder is followed, unless that folder contains the link
    or more than _MOST_LINKED files. In the copy that a job of a cluster runs from, links lead to what does not count.
    above: the folders that contain this one, from the outermost.
    """
    copied = Path(os.environ.get(COPY) or os.devnull) in folder.parents
    others = {"__pycache__"} if package else _NO_FOLDER | (set() if above else {"conf"})
    if (folder / _LAB / "__init__.py").is_file():
        others |= _OF_A_CLONE
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in others or path in left_out:
            continue
        if copied and path.is_symlink():
            continue
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK) or _is_made(path) or path.resolve() in left_out:
                continue
            inside = (*above, folder)
            if not path.is_symlink():
                yield from _files_below(path, left_out, package, inside)
            elif not any(around.resolve().is_relative_to(path.resolve()) for around in inside):
                linked = list(islice(_files_below(path, left_out, package, inside), _MOST_LINKED + 1))
                yield from linked if len(linked) <= _MOST_LINKED else _too_many(path)
        elif path.is_file() and (package or path.suffix not in _NO_PART):
            with suppress(OSError):  # removed meanwhile
                found = path.stat()
                if path.suffix != ".pyc" and 0 < found.st_size <= _LARGEST and not _is_output(found):
                    yield path


@cache
def _too_many(link: Path) -> tuple[()]:
    """No files. Logs once that those below a link do not count."""
    fix = "link a smaller folder, or name the file that your code reads in an option"
    logging.getLogger(__name__).warning(
        f"{link} leads to more than {_MOST_LINKED:,} files, so that an edit of one is not noticed: {fix}"
    )
    return ()


def _is_output(found: os.stat_result) -> bool:
    """Whether this command prints to the file."""
    for stream in (1, 2):
        with suppress(OSError):  # it may be closed
            if os.path.samestat(os.fstat(stream), found):
                return True
    return False


def _is_made(folder: Path) -> bool:
    """Whether a folder is an environment, or holds results of the lab."""
    return any((folder / name).is_file() for name in _OF_RESULTS) or any(folder.glob("models/*/choices.json"))


@lru_cache(maxsize=4096)
def _imported(file: Path, *_: int) -> frozenset[str]:
    """The first parts of the names of the modules that a file imports from elsewhere than its package."""
    found = set[str]()
    with suppress(OSError, SyntaxError, ValueError, RecursionError):  # reported by Python on import
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return frozenset(found)
