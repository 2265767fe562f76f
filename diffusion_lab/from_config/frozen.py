"""Run a sweep from a copy of the code and the configs that it was planned with: an edit after the plan changes and stops nothing.

What is imported from here on, in this process and in all that it starts, comes from the copy, and so do the configs that jobs are
composed from. Ranks that a job starts, and a job that Slurm puts back into its queue, inherit the environment that says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathElement

from diffusion_lab.conf_dir import CONF
from diffusion_lab.from_config.build import CODE
from diffusion_lab.imports import LAB, Module, is_lab
from diffusion_lab.sweeps.copies import copy_in_use

VARIABLE = "DIFFUSION_LAB_CODE"  # in the environment: the copy that this process runs from
_PACKAGE = Path(__file__).parent.parent
_PLUGINS = "hydra_plugins"
_CONFIGS, MORE_CONFIGS = Path(LAB) / "conf", Path("config_dirs")  # in a copy
_READS_BESIDE = (b"__file__", b"resources", b"pkgutil")  # how a module finds files that lie beside it


@contextmanager
def running_from_copy(folder: Path, loader: ConfigLoader, jobs: str | None) -> Iterator[None]:
    """The block runs from a copy in `folder`. jobs: where a queue's jobs have their files; None: there is no queue."""
    configs = _config_folders(loader)
    modules = {module.name: module for module in CODE.modules() if not is_lab(module.name)}
    files = _package() | _users(modules)
    for source, place in configs.items():
        yaml = _files(source, without=folder.absolute(), suffixes=(".yaml", ".yml"))
        files |= {place / path.relative_to(source): path.read_bytes() for path in yaml}
    links = _beside(modules, files, folder.absolute())
    with (
        copy_in_use(folder, files, links, None if jobs is None else Path(jobs)) as copy,
        _imported_from(copy, modules),
        _composed_from(copy, loader, configs),
    ):
        yield


def _package() -> dict[Path, bytes]:
    """The lab itself, as this process has read it."""
    read = {module.path: module.content for module in CODE.modules() if module.path is not None}
    files = {Path(LAB) / path.relative_to(_PACKAGE): path for path in _files(_PACKAGE)}
    for place in map(Path, find_spec(_PLUGINS).submodule_search_locations):
        for plugin in place.glob(f"{LAB}_*"):
            files |= {Path(_PLUGINS) / path.relative_to(place): path for path in _files(plugin)}
    return {place: read.get(path) or path.read_bytes() for place, path in files.items()}


def _users(modules: Mapping[str, Module]) -> dict[Path, bytes]:
    return {_place(module) / module.path.name: module.content for module in modules.values() if module.path is not None}


def _place(module: Module) -> Path:
    """The folder of a module's file in a copy."""
    parts = module.name.split(".")
    return Path(*(parts if module.folders is not None else parts[:-1]))


def _beside(modules: Mapping[str, Module], files: Mapping[Path, bytes], copies: Path) -> dict[Path, Path]:
    """What lies beside the user's modules that look there, up to the folder that they are imported from: tables, weights."""
    taken = {part for file in files for part in (file, *file.parents)}
    links = {}
    for module in modules.values():
        if module.path is None or not any(word in module.content for word in _READS_BESIDE):
            continue
        source, place = module.path.absolute().parent, _place(module)
        for above, at in zip((source, *source.parents), (place, *place.parents), strict=False):
            for entry in above.iterdir():
                is_code = entry.suffix == ".py" or (entry / "__init__.py").exists() or entry.name == "__pycache__"
                if not is_code and at / entry.name not in taken and not copies.is_relative_to(entry):
                    links[at / entry.name] = entry
    return links


def _config_folders(loader: ConfigLoader) -> dict[Path, Path]:
    """Folder that configs are searched in -> its place in a copy; that of the lab, and those of --config-dir."""
    found: dict[Path, Path] = {}
    for element in loader.config_search_path.get_path():
        folder = _folder(element)
        if folder is not None:
            found.setdefault(folder, _CONFIGS if folder == CONF else MORE_CONFIGS / str(len(found)))
    return found


def _folder(element: SearchPathElement) -> Path | None:
    """Where an element of Hydra's search path looks; None: in a package."""
    scheme, separator, path = (element.path or "").rpartition("://")
    return Path(path) if path and (scheme == "file" or not separator) else None


def _files(source: Path, without: Path | None = None, suffixes: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """All files below a folder, but what is hidden or compiled, and but the part of it that leads to `without`."""
    for above, folders, names in os.walk(source):
        here = Path(above)
        folders[:] = [
            name
            for name in folders
            if name != "__pycache__"
            and not name.startswith(".")
            and not (without is not None and without.is_relative_to(here / name))
        ]
        yield from (here / name for name in names if name.endswith(suffixes) and not name.startswith("."))


@contextmanager
def _imported_from(copy: Path, modules: Mapping[str, Module]) -> Iterator[None]:
    """What is imported in the block, here and in processes that start there, is looked for in the copy first."""
    environment = {
        VARIABLE: str(copy),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(copy), os.environ.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",  # or `python -m` would look in the working directory before it
    }
    before = {name: os.environ.get(name) for name in environment}
    packages = {
        name: [*module.__path__]
        for name, module in sys.modules.items()
        if (name.partition(".")[0] == LAB or name in modules) and hasattr(module, "__path__")
    }
    os.environ |= environment
    sys.path.insert(0, str(copy))
    for name in packages:
        sys.modules[name].__path__ = [str(copy.joinpath(*name.split(".")))]
    try:
        yield
    finally:
        for name, path in packages.items():
            sys.modules[name].__path__ = path
        _import_from_live(copy)
        sys.path.remove(str(copy))
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _import_from_live(copy: Path) -> None:
    """Packages that were imported from the copy look beside their parents again: the copy may be removed."""
    for name, module in sorted(sys.modules.items()):
        parent, _, last = name.rpartition(".")
        path = getattr(module, "__path__", None)
        if parent in sys.modules and isinstance(path, list) and path and Path(path[0]).is_relative_to(copy):
            module.__path__ = [str(Path(sys.modules[parent].__path__[0]) / last)]


@contextmanager
def _composed_from(copy: Path, loader: ConfigLoader, configs: Mapping[Path, Path]) -> Iterator[None]:
    """What the loader composes in the block, it reads from the copy."""
    search_path = loader.config_search_path.get_path()
    before = [element.path for element in search_path]
    for element in search_path:
        folder = _folder(element)
        if folder is not None:
            element.path = f"file://{copy / configs[folder]}"
    loader.repository.initialize_sources(loader.config_search_path)
    try:
        yield
    finally:
        for element, path in zip(search_path, before, strict=True):
            element.path = path
        loader.repository.initialize_sources(loader.config_search_path)
