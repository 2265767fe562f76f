"""What a command reads from the working directory: only what the user names, because the folder may be somebody else's.

A class is imported from it if an option names the class with `_target_`. The folder conf/ is searched if an option names a choice
that only conf/ has. conf/local/default.yaml sets plain options. `.env` sets credentials, and variables that options refer to.
Nothing is read in a model's folder or in `outputs`.
"""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.overrides import as_plain, named, quoted
from diffusion_lab.config.untrusted import VARIABLE as TARGETS
from diffusion_lab.config.untrusted import leaves
from diffusion_lab.store.places import finish_swaps, is_in_outputs
from diffusion_lab.store.records import LARGEST_CONFIG, RunError, printable, read_bytes, read_yaml
from diffusion_lab.sweeps.frozen import copied

LOCAL = Path("conf", "local", "default.yaml")  # the user's own settings, below the working directory
_SEARCHPATH = "hydra.searchpath"
_DOTTED = re.compile(r"(?<![\w./-])([^\W\d]\w*)(?:\.[^\W\d]\w*)+")
_READ = re.compile(r"oc\.env:\s*(\w+)")
_CREDENTIAL = re.compile(r"\w+_(KEY|TOKEN|USERNAME|PASSWORD)")
_SETS = "it sets credentials (names that end in _KEY, _TOKEN, _USERNAME or _PASSWORD) and what your options read by ${oc.env:NAME}"
_PLAIN = re.compile(r"\$\{(oc\.env:\s*\w+(,[^${}]*)?|\w+(\.\w+)*)\}")  # ${oc.env:NAME,default} and ${a.b}


def working_directory() -> Path | None:
    """The working directory; None in a model's folder or in `outputs`, from which nothing is read."""
    folder = Path.cwd()
    return None if is_in_outputs(folder) else folder


def usual_outputs() -> str:
    """`outputs`, or the folder that the user's conf/local/default.yaml sets. RunError if that file is invalid."""
    files = [folder / LOCAL for folder in (CONF.parent, working_directory()) if folder is not None]
    found = (local_settings(file) for file in files if file.is_file())
    try:
        return str(next(filter(None, (settings.get("outputs") for settings in found)), "outputs"))
    except OmegaConfBaseException as error:
        raise RunError(f"{LOCAL}: outputs cannot be resolved: {' '.join(str(error).split())}") from None


def check_outputs(cfg: Mapping[str, Any]) -> None:
    """RunError if `outputs` is a file. Finishes what a killed `retrain=true` left half done there."""
    if cfg.get("outputs") and Path(str(cfg["outputs"])).is_file():
        raise RunError(f"outputs={cfg['outputs']} is a file: choose a folder")
    if cfg.get("outputs"):
        finish_swaps(Path(str(cfg["outputs"])))


def with_own_choices(options: Sequence[str]) -> list[str]:
    """`options`, with the folder conf/ here added to the search path, after the lab's configs and those that the user names.

    It is added only if an option names a choice that conf/ has and the lab lacks. A sweep reads it in its copy of the code.
    """
    if (folder := working_directory()) is None:
        return [*options]
    own = copied(folder / "conf")
    for group, value in named(options).items():
        if group.startswith("hydra") or not (CONF / group).is_dir():
            continue  # choices of installed plugins, and options that are not choices: sweep=first, remove=true
        for choice in re.findall(r"[\w/.-]+", value):
            if (own / group / f"{choice}.yaml").is_file() and not (CONF / group / f"{choice}.yaml").is_file():
                paths = list(dict.fromkeys([*_search_path(options), f"file://{own}"]))  # a rank already has ours
                return [*(o for o in options if not _is_search_path(o)), f"{_SEARCHPATH}={quoted(paths)}"]
    return [*options]


def _search_path(options: Sequence[str]) -> list[str]:
    """The search path that the options set."""
    values = (OverridesParser.create().parse_override(option).value() for option in filter(_is_search_path, options))
    return [str(path) for value in values if isinstance(value, list) for path in value]


def _is_search_path(option: str) -> bool:
    return option.lstrip("+").startswith(f"{_SEARCHPATH}=")


@contextmanager
def stored_configs(options: Sequence[str]) -> Iterator[None]:
    """In the block Hydra's store has the settings of conf/local, unless Hydra finds that file, and anything stored in the block."""
    Plugins.instance()  # Hydra's plugins store their configs
    folder, store = working_directory(), ConfigStore.instance()
    before, store.repo = store.repo, copy.deepcopy(store.repo)
    try:
        if folder is not None and (folder / LOCAL).is_file():
            settings = local_settings(folder / LOCAL)
            if not any((own / LOCAL.relative_to("conf")).is_file() for own in (CONF, *own_folders(options))):
                store.store(group="local", name="default", node=settings)
        yield
    finally:
        store.repo = before


def read_environment(options: Sequence[str]) -> str | None:
    """Set variables of `.env` that are allowed and not yet set: credentials, and those that options read by ${oc.env:NAME}.

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
    """The modules and packages of classes that the options or the user's configs name, or that DIFFUSION_LAB_TARGETS
    allows."""
    typed = [value for option in options for key, _, value in [option.partition("=")] if key.endswith("_target_")]
    typed += [text for option in options for text in re.findall(r"_target_['\"]?\s*:\s*([^,}]+)", option)]
    allowed = (name.strip().partition(".")[0] for name in os.environ.get(TARGETS, "").split(","))
    return frozenset((*allowed, *(name for text in (*typed, *_own_files(options)) for name in _DOTTED.findall(text))))


@contextmanager
def importing(modules: frozenset[str]) -> Iterator[None]:
    """In the block these modules, and their imports, are found in the working directory unless they are found elsewhere."""
    folder = working_directory()
    if os.path.lexists("matplotlibrc"):  # matplotlib reads it on import: it may name programs, or be a pipe
        with chdir(CONF):
            import matplotlib  # noqa: F401
    finders = [] if folder is None else [_Finder(folder, modules)]
    sys.meta_path += finders
    try:
        yield
    finally:
        for finder in finders:
            sys.meta_path.remove(finder)


class _Finder:
    """Finds the allowed modules, and the modules here that they import.

    With an entry in sys.path, other packages' optional imports would find any file of the right name.
    """

    def __init__(self, folder: Path, modules: frozenset[str]) -> None:
        self._folder, self._modules = str(folder), modules
        self._found: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if path is not None or not (name in self._modules or _importing_module() in self._found):
            return None
        spec = PathFinder.find_spec(name, [self._folder])
        self._found |= set() if spec is None else {name}
        return spec


def _importing_module() -> str:
    """The outermost package of the module that is importing."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package != "importlib" and not frame.f_code.co_filename.startswith("<frozen importlib"):
            return package
        frame = frame.f_back
    return ""


def own_folders(options: Sequence[str]) -> list[Path]:
    """The folders of the user's configs: --config-dir and hydra.searchpath, and conf/ if it is searched."""
    typed = re.findall(r"^(?:--config-dir|-cd)[=\n](.+)$", "\n".join(options), re.MULTILINE)
    return [Path(name) for name in (*typed, *(path.removeprefix("file://") for path in _search_path(options)))]


def _own_files(options: Sequence[str]) -> Iterator[str]:
    """The texts of the user's configs."""
    for folder in own_folders(options):
        for file in folder.rglob("*.yaml"):
            yield file.read_text(encoding="utf-8", errors="replace")


def local_settings(file: Path) -> Any:
    """The config in conf/local/default.yaml. RunError if it holds more than plain options."""
    read_yaml(file)  # refuses what OmegaConf would expand
    try:
        settings: Any = OmegaConf.create(read_bytes(file, LARGEST_CONFIG).decode())
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise RunError(f"{LOCAL} is not a config: {' '.join(str(error).split())}") from None
    plain = as_plain(settings)
    entries = plain.pop("defaults", None) or []
    for entry in entries if isinstance(entries, list) else [entries]:
        if entry != "_self_" and not (isinstance(entry, dict) and all(_is_choice(*pair) for pair in entry.items())):
            raise RunError(
                f"{LOCAL}: defaults may hold only choices of the lab, but this holds {printable(str(entry))}"
            )
    for path, value in leaves(plain):
        key = printable(".".join(map(str, path)))
        if path[:1] == ("hydra",) or not all(type(name) is int or re.fullmatch(r"[^\W\d_]\w*", name) for name in path):
            raise RunError(f"{LOCAL}: {key} is not a plain option; put it on the command line")
        if "${" in _PLAIN.sub("", str(value)):
            raise RunError(f"{LOCAL}: {key}={printable(str(value))} may refer only to options and the environment")
    return settings


def _is_choice(key: Any, choices: Any) -> bool:
    """Whether an entry of a defaults list is a choice among the lab's configs, not Hydra's."""
    group = re.fullmatch(r"override /?((?!hydra/)\w+(/\w+)*)", str(key))
    choices = choices if isinstance(choices, list) else [choices]
    return group is not None and all((CONF / group[1] / f"{choice}.yaml").is_file() for choice in choices)
