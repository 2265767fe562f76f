"""Frozen code: a sweep runs from a copy of code and configs, so that edits made meanwhile have no effect on it.

`train -m` makes a new copy and restarts itself with the copy in PYTHONPATH; its jobs and ranks inherit the environment.

<folder>/<digest>-<random>/            the lab with its plugins, and the user's modules
<folder>/<digest>-<random>/configs/    the user's folders of configs, each at its absolute path
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import all_suffixes
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.files import make_folders, remove_staged, staged_folder
from diffusion_lab.store.fingerprints import LAB, Module, is_lab
from diffusion_lab.store.lease import hold, is_held
from diffusion_lab.store.places import has_outcome
from diffusion_lab.store.records import RunError
from diffusion_lab.sweeps.jobs import submitted

# The copy that this process runs from; if set to an empty value, the sweep runs from the original code.
VARIABLE = "DIFFUSION_LAB_CODE"
_PACKAGE = Path(__file__).parent.parent
_PLUGINS = "hydra_plugins"
_READS_BESIDE = (b"__file__", b"resources", b"pkgutil")  # used by modules that read files beside them
_NAMED_FOLDERS = r"(?<=^--config-dir=).+|(?<=^-cd=).+|(?<=file://)[^\]\s,'\"]+"  # in one option
_STARTING_SECONDS = 60.0  # a command that has made a copy holds it within this time


class StartAgain(BaseException):
    """Raised to restart this command from a copy."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy

    def start(self, command: str, options: Sequence[str]) -> NoReturn:
        """Replace this process by the same command from the copy."""
        path = os.pathsep.join(filter(None, [str(self.copy), os.environ.get("PYTHONPATH")]))
        os.environ.update({VARIABLE: str(self.copy), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"})
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.execv(sys.executable, [sys.executable, "-m", LAB, command, *_with_copied_folders(options)])


def copied(folder: Path) -> Path:
    """The place of a config folder in the copy that this process runs from; outside a copy the folder itself."""
    place = _configs(folder)
    copy = os.environ.get(VARIABLE)
    return Path(copy) / place if copy and (Path(copy) / place).is_dir() else folder


def check_copy() -> None:
    """RunError if DIFFUSION_LAB_CODE names a copy that this process does not run from."""
    copy = os.environ.get(VARIABLE)
    if copy and not _PACKAGE.resolve().is_relative_to(Path(copy).resolve()):
        raise RunError(
            f"Python did not start from the copy of the code in {copy}: choose an outputs=… without {os.pathsep} in its path, or "
            f"set {VARIABLE}= (empty) to run from the code as it is"
        )


def make_copy(folder: Path, modules: Iterable[Module], configs: Iterable[Path]) -> Path:
    """Make a copy in `folder`, as a whole or not at all, of the lab, the user's modules among these, and these config folders.

    A user's package is copied entirely, because it may import its modules later.
    """
    folder = folder.absolute()
    users = dict(pair for module in modules if not is_lab(module.name) for pair in _code_of(module, folder))
    files = {Path(LAB) / path.relative_to(_PACKAGE): path for path in _below(_PACKAGE)}
    files |= {Path(LAB) / "conf" / path.relative_to(CONF): path for path in _below(CONF)}
    spec = find_spec(_PLUGINS)
    for place in map(Path, (spec and spec.submodule_search_locations) or ()):
        plugins = {path.relative_to(place): path for path in _below(place)}
        files |= {Path(_PLUGINS) / name: path for name, path in plugins.items() if name.parts[0].startswith(f"{LAB}_")}
    files |= users
    for source in configs:
        yaml = (path for path in _below(source, without=folder) if path.suffix in (".yaml", ".yml"))
        files |= {_configs(source) / path.relative_to(source): path for path in yaml}
    contents = {place: path.read_bytes() for place, path in files.items()}
    make_folders(folder)
    remove_staged(folder)
    copy = folder / f"{_digest(contents)}-{uuid.uuid4().hex[:6]}"
    with staged_folder(copy) as staged:
        for place, content in contents.items():
            (staged / place).parent.mkdir(parents=True, exist_ok=True)
            (staged / place).write_bytes(content)
        for place, target in _beside(users, contents, folder).items():
            (staged / place).symlink_to(target)
        staged.rename(copy)
    return copy


@contextmanager
def using_copy(jobs: Path) -> Iterator[None]:
    """In the block the copy that this process runs from is in use; earlier unused copies of the sweep are removed.

    jobs: the folder of a queue's jobs, which may outlive the command.
    """
    if not (copy := os.environ.get(VARIABLE)):
        yield
        return
    with hold(Path(copy), waiting=lambda holder: None):
        for other in unused_copies(Path(copy).parent, jobs):
            remove_copy(other, jobs)
        yield


def unused_copies(folder: Path, jobs: Path) -> list[Path]:
    """Unchanged copies that no command holds and no unfinished job runs from."""
    waiting = {Path(job.code).resolve() for name, job in submitted(jobs).items() if not has_outcome(jobs, name)}
    copies = (path for path in sorted(folder.glob("[!.]*-*")) if path.is_dir() and not path.is_symlink())
    return [copy for copy in copies if copy.resolve() not in waiting and not _is_held(copy) and _is_ours(copy)]


def remove_copy(copy: Path, jobs: Path) -> bool:
    """Remove a copy unless it is in use; returns whether it was. It is renamed first, so no command starts from half of it."""
    unused = copy in unused_copies(copy.parent, jobs)
    if unused:
        with staged_folder(copy) as staged:
            copy.rename(staged)
    return unused


def _is_held(copy: Path) -> bool:
    return is_held(copy) or time.time() - copy.stat().st_mtime < _STARTING_SECONDS


def _is_ours(copy: Path) -> bool:
    """Whether a copy is unchanged, apart from links, hidden files and compiled code."""
    files = {path.relative_to(copy): path for path in _below(copy) if not path.is_symlink()}
    return _digest({name: path.read_bytes() for name, path in files.items()}) == copy.name.partition("-")[0]


def _digest(contents: Mapping[Path, bytes]) -> str:
    lines = (f"{path.as_posix()} {hashlib.sha256(content).hexdigest()}" for path, content in sorted(contents.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _below(source: Path, without: Path | None = None) -> Iterator[Path]:
    """All files below a folder except hidden and compiled ones, and except the folder that contains `without`."""
    for above, folders, names in os.walk(source):
        here = Path(above)
        shown = (name for name in folders if name != "__pycache__" and not name.startswith("."))
        folders[:] = [name for name in shown if without is None or not without.is_relative_to(here / name)]
        yield from (here / name for name in names if not name.startswith("."))


def _code_of(module: Module, copies: Path) -> Iterator[tuple[Path, Path]]:
    """(place in a copy, file) of a module, and of all modules in a package."""
    parts = module.name.split(".")
    if module.path is not None:
        yield Path(*(parts if module.folders is not None else parts[:-1]), module.path.name), module.path
    for source in map(Path, module.folders or ()):
        for path in _below(source, without=copies):
            if path.suffix in all_suffixes() and path.is_file() and (path.parent / "__init__.py").exists():
                yield Path(*parts) / path.relative_to(source), path


def _configs(folder: Path) -> Path:
    """The place of a config folder in a copy."""
    return Path("configs") / Path(os.path.abspath(folder)).relative_to("/")


def _beside(users: Mapping[Path, Path], contents: Mapping[Path, bytes], copies: Path) -> dict[Path, Path]:
    """Links to data files beside those user's modules that read such files, up to the folder that they are imported from."""
    taken = {part for file in contents for part in (file, *file.parents)}
    links = {}
    for place, path in users.items():
        if not any(word in contents[place] for word in _READS_BESIDE):
            continue
        source = path.absolute().parent
        for above, at in zip((source, *source.parents), place.parents, strict=False):
            for entry in above.iterdir():
                is_code = entry.suffix in all_suffixes() or (entry / "__init__.py").exists()
                hides = at / entry.name in taken or entry.name == "__pycache__" or copies.is_relative_to(entry)
                if not (is_code or hides):
                    links[at / entry.name] = entry
    return links


def _with_copied_folders(options: Sequence[str]) -> Iterator[str]:
    """The options, with config folders replaced by their copies."""
    for before, option in zip(["", *options], options, strict=False):
        named = r"^.+" if before in ("--config-dir", "-cd") else _NAMED_FOLDERS
        yield re.sub(named, lambda found: str(copied(Path(found[0]))), option)
