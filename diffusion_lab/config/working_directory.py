"""The user's own code and choices: modules of the working directory, and its folder conf/. Both add, and never replace."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.overrides import quoted
from diffusion_lab.store.places import finish_swaps
from diffusion_lab.store.records import RunError

_SEARCHPATH = "hydra.searchpath"


def add_to_path() -> None:
    """Let Python look for modules in the working directory, after everything that is installed."""
    Plugins.instance()  # Hydra imports every package hydra_plugins that it finds
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def with_own_choices(options: Sequence[str]) -> list[str]:
    """`options`, with the folder conf/ here at the end of the search path."""
    own = Path.cwd() / "conf"
    if not own.is_dir() or own.samefile(CONF):
        return [*options]
    parser, typed = OverridesParser.create(), [o for o in options if o.lstrip("+").startswith(f"{_SEARCHPATH}=")]
    values = [parser.parse_override(option).value() for option in typed]
    given = [str(path) for value in values if isinstance(value, list) for path in value]
    paths = list(dict.fromkeys([*given, f"file://{own}"]))  # a rank already has ours
    return [*(option for option in options if option not in typed), f"{_SEARCHPATH}={quoted(paths)}"]


def check_outputs(cfg: Mapping[str, Any]) -> None:
    """RunError if `outputs` is a file. Finishes swaps of `retrain=true` that a killed process has left."""
    if cfg.get("outputs") and Path(str(cfg["outputs"])).is_file():
        raise RunError(f"outputs={cfg['outputs']} is a file: choose a folder")
    if cfg.get("outputs"):
        finish_swaps(Path(str(cfg["outputs"])))
