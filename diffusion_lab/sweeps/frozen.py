"""A copy of code for jobs of a cluster, so that edits made after their submission have no effect on them.

<folder>/<digest>/            the package with conf/, and the plugins
<folder>/<digest>/users/<n>/  the user's own files, a folder for each that modules are imported from
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.files import remove_staged, whole_folder
from diffusion_lab.store.option_names import canonical_json
from diffusion_lab.store.own_files import COPY, Files, sha256_of
from diffusion_lab.store.provenance import PACKAGE
from diffusion_lab.sweeps.plan import JobError

_LAB, _PLUGINS, _USERS = "diffusion_lab", "hydra_plugins", "users"


def make_copy(folder: Path, users: Files) -> Path:
    """The copy in `folder` of the package and the user's own files in their current state, made as a whole or not at all."""
    files = {Path(_LAB) / path.relative_to(PACKAGE): path for path in _below(PACKAGE)}
    files |= {Path(_LAB) / "conf" / path.relative_to(CONF): path for path in _below(CONF)}
    spec = find_spec(_PLUGINS)
    for place in map(Path, reversed((spec and spec.submodule_search_locations) or ())):  # the first one wins
        plugins = {path.relative_to(place): path for path in _below(place)}
        files |= {Path(_PLUGINS) / name: path for name, path in plugins.items() if name.parts[0].startswith(_LAB)}
    roots = {Path(_USERS, f"{number:03d}"): root for number, root in enumerate(sorted(users, key=_order))}
    for place, root in roots.items():
        files |= {place / path.relative_to(root): path for path in users[root]}
    digests = {str(place): sha256_of(path) for place, path in files.items()}
    copy = folder.absolute() / hashlib.sha256(canonical_json(digests).encode()).hexdigest()[:12]
    remove_staged(folder)  # by a command that was killed
    if not copy.is_dir():
        with whole_folder(copy) as staged:
            for place, path in files.items():
                (staged / place).parent.mkdir(parents=True, exist_ok=True)
                (staged / place).write_bytes(path.read_bytes())
            for place, root in roots.items():
                for folder in {above for path in users[root] for above in path.relative_to(root).parents}:
                    _link_others(root / folder, staged / place / folder, without=copy)
    return copy


def shell(copy: Path) -> list[str]:
    """Shell commands after which Python imports from a copy. JobError if its path cannot be in PYTHONPATH."""
    if os.pathsep in str(copy):
        raise JobError(
            f"jobs of a cluster cannot import from {copy}: choose an outputs=… without {os.pathsep} in its path"
        )
    path = shlex.quote(os.pathsep.join([str(copy), *map(str, sorted((copy / _USERS).glob("*")))]))
    exports = [
        f"PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}",
        "PYTHONSAFEPATH=1",
        f"{COPY}={shlex.quote(str(copy))}",
    ]
    return [f"export {each}" for each in exports]


def _below(source: Path) -> Iterator[Path]:
    """All files below a folder except hidden and compiled ones."""
    for above, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (Path(above, name) for name in names if not name.startswith("."))


def _order(root: Path) -> int:
    """The place of a folder in the search path: the first of two modules of one name is imported."""
    searched = [*map(os.path.abspath, sys.path)]
    return searched.index(str(root)) if str(root) in searched else len(searched)


def _link_others(source: Path, copied: Path, without: Path) -> None:
    """Link the files beside the user's files that are not copied, such as a large table, except the folder of the copy."""
    for entry in source.iterdir():
        hides = entry.name.startswith(".") or entry.name in (_LAB, _PLUGINS, "__pycache__")
        if not (hides or os.path.lexists(copied / entry.name) or without.is_relative_to(entry.absolute())):
            (copied / entry.name).symlink_to(entry.absolute())
