"""Frozen code: a sweep runs from a copy of code and configs, so that edits made meanwhile have no effect on it.

`train -m` makes a new copy and restarts itself with the copy in PYTHONPATH; its jobs and ranks inherit the environment.

<folder>/<random>/            the lab with its plugins
<folder>/<random>/users/<n>/  the user's own files, a folder for each that modules are imported from
<folder>/<random>/configs/    the user's folders of configs, each at its absolute path
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.files import whole_folder
from diffusion_lab.store.identity import PACKAGE as _PACKAGE
from diffusion_lab.store.lock import hold, is_held
from diffusion_lab.store.own_files import Files
from diffusion_lab.store.places import has_outcome
from diffusion_lab.store.records import RunError
from diffusion_lab.sweeps.jobs import submitted

# The copy that this process runs from; if set to an empty value, the sweep runs from the original code.
VARIABLE = "DIFFUSION_LAB_CODE"
LAB, _PLUGINS = "diffusion_lab", "hydra_plugins"
_USERS = "users"
_NAMED_FOLDERS = r"(?<=^--config-dir=).+|(?<=^-cd=).+|(?<=file://)[^\]\s,'\"]+"  # in one option
_STARTING_SECONDS = 60.0  # a command that has made a copy holds it within this time


class StartAgain(BaseException):
    """Raised to restart this command from a copy."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy

    def start(self, command: str, options: Sequence[str]) -> NoReturn:
        """Replace this process by the same command from the copy."""
        own = [str(folder) for folder in sorted((self.copy / _USERS).glob("*"))]
        path = os.pathsep.join(filter(None, [str(self.copy), *own, os.environ.get("PYTHONPATH")]))
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


def make_copy(folder: Path, users: Files, configs: Iterable[Path]) -> Path:
    """Make a copy in `folder`, as a whole or not at all, of the lab, the user's own files, and these config folders."""
    folder = folder.absolute()
    files = {Path(LAB) / path.relative_to(_PACKAGE): path for path in _below(_PACKAGE)}
    files |= {Path(LAB) / "conf" / path.relative_to(CONF): path for path in _below(CONF)}
    spec = find_spec(_PLUGINS)
    for place in map(Path, reversed((spec and spec.submodule_search_locations) or ())):  # the first one wins
        plugins = {path.relative_to(place): path for path in _below(place)}
        files |= {Path(_PLUGINS) / name: path for name, path in plugins.items() if name.parts[0].startswith(f"{LAB}_")}
    searched = [*map(os.path.abspath, sys.path)]  # the first of two modules of one name is found
    order = sorted(users, key=lambda source: searched.index(str(source)) if str(source) in searched else len(searched))
    roots = {source: Path(_USERS, f"{number:03d}") for number, source in enumerate(order)}
    files |= {roots[source] / path.relative_to(source): path for source in users for path in users[source]}
    for source in configs:
        yaml = (path for path in _below(source, without=folder) if path.suffix in (".yaml", ".yml"))
        files |= {_configs(source) / path.relative_to(source): path for path in yaml}
    links = _beside({place: path for place, path in files.items() if place.parts[0] == _USERS}, folder)
    copy = folder / uuid.uuid4().hex[:12]
    with whole_folder(copy) as staged:
        for place, path in files.items():
            (staged / place).parent.mkdir(parents=True, exist_ok=True)
            (staged / place).write_bytes(path.read_bytes())
        for place, target in links.items():
            (staged / place).symlink_to(target)
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
            shutil.rmtree(other, ignore_errors=True)
        yield


def unused_copies(folder: Path, jobs: Path) -> list[Path]:
    """Copies that no command holds and no unfinished job runs from."""
    waiting = {Path(job.code).resolve() for name, job in submitted(jobs).items() if not has_outcome(jobs, name)}
    copies = (path for path in sorted(folder.glob("[!.]*")) if path.is_dir() and not path.is_symlink())
    return [copy for copy in copies if copy.resolve() not in waiting and not _is_held(copy)]


def _is_held(copy: Path) -> bool:
    return is_held(copy) or time.time() - copy.stat().st_mtime < _STARTING_SECONDS


def _below(source: Path, without: Path | None = None) -> Iterator[Path]:
    """All files below a folder except hidden and compiled ones, and except the folder that contains `without`."""
    for above, folders, names in os.walk(source):
        here = Path(above)
        shown = (name for name in folders if name != "__pycache__" and not name.startswith("."))
        folders[:] = [name for name in shown if without is None or not without.is_relative_to(here / name)]
        yield from (here / name for name in names if not name.startswith("."))


def _configs(folder: Path) -> Path:
    """The place of a config folder in a copy."""
    return Path("configs") / Path(os.path.abspath(folder)).relative_to("/")


def _beside(users: Mapping[Path, Path], copies: Path) -> dict[Path, Path]:
    """Links to what lies beside the user's files and is not copied, such as a large table or a folder of images."""
    taken = {part for file in users for part in (file, *file.parents)}
    links = {}
    for place, source in {(file.parent, path.parent) for file, path in users.items()}:
        for entry in source.iterdir():
            hides = entry.name.startswith(".") or entry.name in (LAB, _PLUGINS, "__pycache__")
            if not (hides or place / entry.name in taken or copies.is_relative_to(entry.absolute())):
                links[place / entry.name] = entry.absolute()
    return links


def _with_copied_folders(options: Sequence[str]) -> Iterator[str]:
    """The options, with config folders replaced by their copies."""
    for before, option in zip(["", *options], options, strict=False):
        named = r"^.+" if before in ("--config-dir", "-cd") else _NAMED_FOLDERS
        yield re.sub(named, lambda found: str(copied(Path(found[0]))), option)
