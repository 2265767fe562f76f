"""What a command reads from the working directory, which may come from somebody else: only what the user names.

A class is imported from there if an option names it with `_target_`. The folder conf/ is searched if an option names a choice that
only this folder has. conf/local/default.yaml sets plain options. `.env` sets credentials, and the variables that options read.
In the folder of a model, and in `outputs`, nothing is read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.outputs import LOCAL, working_directory
from diffusion_lab.config.strangers import VARIABLE as TARGETS
from diffusion_lab.store.imports import imported, parsed
from diffusion_lab.store.records import LARGEST_CONFIG, RunError, printable, read_bytes, read_yaml
from diffusion_lab.sweeps.frozen import copied

_DOTTED = re.compile(r"(?<![\w./-])([^\W\d]\w*)(?:\.[^\W\d]\w*)+")
_READ = re.compile(r"oc\.env:\s*(\w+)")
_CREDENTIAL = re.compile(r"\w+_(KEY|TOKEN|USERNAME|PASSWORD)")
_SETS = "it sets credentials (names that end in _KEY, _TOKEN, _USERNAME or _PASSWORD) and what your options read by ${oc.env:NAME}"
_PLAIN = re.compile(r"\$\{(oc\.env:\s*\w+(,[^${}]*)?|\w+(\.\w+)*)\}")  # ${oc.env:NAME,default} and ${a.b}


class OwnChoices(SearchPathPlugin):
    """Hydra searches `folder` after the lab's own configs, so a file of the same name overrides none of them."""

    folder: Path | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder is not None:
            search_path.append("working-directory", f"file://{self.folder}")


@contextmanager
def own_configs(options: Sequence[str]) -> Iterator[None]:
    """In the block Hydra finds the choices that the options name, and the settings of conf/local."""
    folder = working_directory()
    settings = local_settings(folder / LOCAL) if folder is not None and (folder / LOCAL).is_file() else None
    found = any((own / LOCAL.relative_to("conf")).is_file() for own in (CONF, *_own_folders(options)))  # by Hydra
    Plugins.instance().register(OwnChoices)
    try:
        OwnChoices.folder = _own_choices(options)
        if settings is not None and not found:
            ConfigStore.instance().store(group="local", name="default", node=settings)
        yield
    finally:
        OwnChoices.folder = None
        ConfigStore.instance().repo.pop("local", None)


def read_environment(options: Sequence[str]) -> str | None:
    """Set the allowed variables of `.env` that are not set yet: credentials, and those that options read by ${oc.env:NAME}.

    Returns one sentence on what is ignored, or None.
    """
    folder = working_directory()
    if folder is None:
        here = [name for name in (".env", "conf") if Path(name).exists()]
        return f"{' and '.join(here)}: this folder holds results, so no settings are read from it" if here else None
    if not (folder / ".env").is_file():
        return None
    from dotenv import dotenv_values

    text = read_bytes(folder / ".env", LARGEST_CONFIG).decode(errors="replace")
    missing = {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if name not in os.environ}
    read = {name for text in (*options, *_own_files(options)) for name in _READ.findall(text)}
    allowed = {name for name in missing if name in read or _CREDENTIAL.fullmatch(name)}
    os.environ |= {name: missing[name] or "" for name in allowed}
    ignored = ", ".join(sorted(map(printable, missing.keys() - allowed)))
    return f"{ignored} of .env: {_SETS}" if ignored else None


def typed_modules(options: Sequence[str]) -> frozenset[str]:
    """The modules and packages of the classes that the options or the user's own configs name, or that DIFFUSION_LAB_TARGETS
    allows."""
    typed = [value for option in options for key, _, value in [option.partition("=")] if key.endswith("_target_")]
    typed += [text for option in options for text in re.findall(r"_target_['\"]?\s*:\s*([^,}]+)", option)]
    allowed = (name.strip().partition(".")[0] for name in os.environ.get(TARGETS, "").split(","))
    return frozenset((*allowed, *(name for text in (*typed, *_own_files(options)) for name in _DOTTED.findall(text))))


@contextmanager
def importing(modules: frozenset[str]) -> Iterator[None]:
    """In the block these modules, and what they import, are found in the working directory if they are nowhere else."""
    folder = working_directory()
    if os.path.lexists("matplotlibrc"):  # matplotlib reads it when it is imported: it may name programs, or be a pipe
        with chdir(CONF):
            import matplotlib  # noqa: F401
    finder = _Finder(folder, {*modules}) if folder is not None else None
    sys.meta_path += [finder] if finder is not None else []
    try:
        yield
    finally:
        if finder is not None:
            sys.meta_path.remove(finder)


class _Finder:
    """Finds allowed modules only. With an entry of sys.path, the optional imports of packages would find any file of that name."""

    def __init__(self, folder: Path, modules: set[str]) -> None:
        self._folder, self._modules = str(folder), modules

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if path is not None or name not in self._modules:
            return None
        spec = PathFinder.find_spec(name, [self._folder])
        if spec is not None:
            inside = spec.submodule_search_locations
            files = [(name, Path(spec.origin))] if inside is None else list(_files(name, inside))
            trees = [(parsed(file.read_bytes()), module) for module, file in files if file.suffix == ".py"]
            self._modules |= {name.partition(".")[0] for tree in trees for name, _, _ in imported(*tree)}
        return spec


def _files(package: str, folders: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Name -> file, of the modules of a package."""
    for folder in map(Path, folders):
        for file in folder.rglob("*.py"):
            yield ".".join([package, *file.relative_to(folder).with_suffix("").parts]), file


def _own_choices(options: Sequence[str]) -> Path | None:
    """The folder conf/ here, if one of the options names a choice that it has and the lab has not.

    A sweep finds it in the copy that it runs from.
    """
    folder = working_directory()
    if folder is None:
        return None
    own = copied(folder / "conf")
    for key, _, value in (option.partition("=") for option in options):
        group = key.lstrip("+").partition("@")[0]
        if group.startswith("hydra") or not (CONF / group).is_dir():
            continue  # choices that installed plugins bring; an option that is no choice: sweep=first, remove=true
        for choice in re.findall(r"[\w/.-]+", value):
            if (own / group / f"{choice}.yaml").is_file() and not (CONF / group / f"{choice}.yaml").is_file():
                return own
    return None


def _own_folders(options: Sequence[str]) -> list[Path]:
    """Where the user's configs are: --config-dir, hydra.searchpath, and conf/ if it is searched."""
    text = "\n".join(options)
    named = re.findall(r"^(?:--config-dir|-cd)[=\n](.+)$", text, re.MULTILINE)
    named += re.findall(r"file://([^\]\s,'\"]+)", text)
    own = _own_choices(options)
    return [*map(Path, named), *([] if own is None else [own])]


def _own_files(options: Sequence[str]) -> Iterator[str]:
    """The texts of the user's configs."""
    for folder in _own_folders(options):
        for file in folder.rglob("*.yaml"):
            yield file.read_text(encoding="utf-8", errors="replace")


def local_settings(file: Path) -> Any:
    """The config in conf/local/default.yaml. RunError for more than plain options."""
    read_yaml(file)  # refuses what OmegaConf would unfold
    try:
        settings = OmegaConf.create(read_bytes(file, LARGEST_CONFIG).decode())
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise RunError(f"{LOCAL} is not a config: {' '.join(str(error).split())}") from None
    plain = OmegaConf.to_container(settings, resolve=False)
    for entry in plain.pop("defaults", None) or []:
        if entry != "_self_" and not (isinstance(entry, dict) and all(_is_choice(*pair) for pair in entry.items())):
            raise RunError(
                f"{LOCAL}: defaults may hold choices of the lab, as in `- override /optimizer: muon`, but this holds "
                f"{printable(str(entry))}"
            )
    _check_plain(plain, "")
    return settings


def _is_choice(key: Any, choices: Any) -> bool:
    """Whether an entry of a list of defaults chooses among the lab's own configs, and none of Hydra's."""
    named = re.fullmatch(r"override /?((?!hydra/)\w+(/\w+)*)", str(key))
    choices = choices if isinstance(choices, list) else [choices]
    return named is not None and all((CONF / named[1] / f"{choice}.yaml").is_file() for choice in choices)


def _check_plain(node: Any, prefix: str) -> None:
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        key = f"{prefix}{name}"
        if isinstance(node, dict) and (not re.fullmatch(r"[^\W\d_]\w*", str(name)) or key == "hydra"):
            raise RunError(
                f"{LOCAL}: {printable(key)} is not a plain option, as this file may set; put it on the command line"
            )
        if isinstance(child, dict | list):
            _check_plain(child, f"{key}.")
        elif "${" in _PLAIN.sub("", str(child)):
            raise RunError(
                f"{LOCAL}: {key}={printable(str(child))} may refer only to options and to the environment, as "
                "${a.b} and ${oc.env:NAME}"
            )
