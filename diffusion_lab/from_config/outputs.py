"""The `outputs` of commands without that option, and the folders that the options of a command name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.conf_dir import CONF
from diffusion_lab.files import name_root


def usual_outputs() -> str:
    """`outputs`, unless the user's own conf/local/default.yaml names another folder."""
    files = [file for conf in (CONF, Path("conf")) if (file := conf / "local" / "default.yaml").is_file()]
    if not files:
        return "outputs"
    from omegaconf import OmegaConf  # main.py imports this file and must answer at once

    return next(filter(None, (OmegaConf.load(file).get("outputs") for file in files)), "outputs")


def name_folders(cfg: Mapping[str, Any]) -> None:
    """Below the folders that a command writes to, no link is followed out of them."""
    for option in ("outputs", "to", "jobs"):
        if cfg.get(option):
            name_root(Path(str(cfg[option])))
