"""Python keywords as the options of a command: `num_steps=20` is `sampler.spacing.num_steps=20`.

A keyword is the name of an option or of a group of choices, or the end of its name: the shortest name that ends so. A dict gives
the options of a node, `inpaint={"image": 5, "mask": "mask.png"}`. Full names with dots are keywords too, in `**{…}`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.from_config.kinds import check_kinds
from diffusion_lab.from_config.mistakes import MistakeError, mistake_in_job, mistake_in_options
from diffusion_lab.from_config.overrides import quoted
from diffusion_lab.from_config.trained import with_trained_choices
from diffusion_lab.from_config.working_directory import own_configs
from diffusion_lab.options import above_and_itself, flat
from diffusion_lab.runs import ModelDirectory


@contextmanager
def as_value_errors(command: str) -> Iterator[None]:
    """Around a call from Python: a mistake is a ValueError with the sentence that the command prints."""
    try:
        yield
    except Exception as error:
        with own_hydra():
            message = mistake_in_job(error) or mistake_in_options(error, command, CONF)
        if message is None:
            raise
        raise ValueError(message) from None


@contextmanager
def own_hydra() -> Iterator[None]:
    """Inside the block configs may be composed, also where the caller is a program of Hydra's; its state is back afterwards."""
    state = GlobalHydra.instance()
    outer = state.hydra
    state.clear()
    try:
        yield
    finally:
        state.hydra = outer


def config_of(
    command: str,
    directory: ModelDirectory,
    groups: tuple[str, ...],
    keywords: Mapping[str, Any],
    of_this_call: Mapping[str, Any] = MappingProxyType({}),
    config_dir: Path | None = None,
) -> DictConfig:
    """The config of `diffusion-lab COMMAND model_dir=DIRECTORY --config-dir=CONFIG_DIR` with the keywords as its options.

    groups: those that begin as the model was trained with them. of_this_call: options that stand at the top and choose nothing;
    calls that differ only in these compose one config.
    """
    choices, rest = [], {}
    if config_dir is not None:
        choices.append(f"hydra.searchpath=[{quoted(f'file://{config_dir.absolute()}')}]")
    for name, value in keywords.items():
        group = _group(name)
        if group is not None and isinstance(value, str | list | tuple):
            choices.append(f"{group}={_plain(name, value)}")
        else:
            rest |= {key: _plain(key, leaf) for key, leaf in flat({name: value}).items()}
    stamp = directory.config.stat().st_mtime_ns if directory.config.is_file() else None
    where = (directory.path.absolute(), stamp, Path.cwd())
    cfg = copy.deepcopy(_composed(command, where, groups, tuple(choices), tuple(rest.items())))
    for name, value in {**of_this_call, "model_dir": str(directory.path)}.items():
        cfg[name] = value
    check_kinds(cfg, command)
    return cfg


@lru_cache(maxsize=16)
def _composed(
    command: str,
    where: tuple[Path, int | None, Path],
    groups: tuple[str, ...],
    choices: tuple[str, ...],
    rest: tuple[tuple[str, str], ...],
) -> DictConfig:
    """where: the model, when it was written, and the working directory, whose conf/local counts."""

    def completed(options: Iterable[str]) -> list[str]:
        return with_trained_choices([*options], groups, ModelDirectory(where[0]))

    with own_hydra(), own_configs(choices), initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, completed(choices))
        if not rest:
            return cfg
        known = list(flat(OmegaConf.to_container(cfg)))
        return compose(command, completed([*choices, *(f"{_full_name(name, known)}={value}" for name, value in rest)]))


def _group(name: str) -> str | None:
    """sampler -> sampler, spacing -> sampler/spacing; None where no folder of choices is called so."""
    if (CONF / name).is_dir():
        return name
    inner = [path.relative_to(CONF).as_posix() for path in CONF.glob(f"*/{name}") if path.is_dir()]
    return inner[0] if len(inner) == 1 else None


def _full_name(name: str, known: Sequence[str]) -> str:
    """The shortest known option that is `name` or ends in it. MistakeError where there is none, or where there are several.

    One of the sampler comes before others, so that `num_steps` is the same option of a sample and of a score, which has a bound.
    """
    keys = dict.fromkeys(key for leaf in known for key in above_and_itself(leaf))
    ending = [key for key in keys if f".{key}".endswith(f".{name}")]
    if not ending:
        close = difflib.get_close_matches(name, {key.rpartition(".")[2] for key in keys} | {*keys}, n=1, cutoff=0.6)
        if close:
            raise MistakeError(f"there is no option {name!r}; did you mean {close[0]}?")
        return name  # Hydra says it
    ending = [key for key in ending if key == name or key.startswith("sampler.")] or ending
    shortest = min(key.count(".") for key in ending)
    found = [key for key in ending if key.count(".") == shortest]
    if len(found) > 1:
        raise MistakeError(
            f'{name}: this may be {" or ".join(found)}; write one of them, such as **{{"{found[0]}": …}}'
        )
    return found[0]


def _plain(name: str, value: Any) -> str:
    """A value in Hydra's grammar. MistakeError for one that no option takes."""
    if isinstance(value, Path):
        value = str(value)
    elif isinstance(value, tuple):
        value = list(value)
    elif hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy or torch
        value = value.item()
    if not isinstance(value, str | bool | int | float | list | None):
        raise MistakeError(f"{name}: an option takes a number, a string, a list or None, not {type(value).__name__}")
    return quoted(value)
