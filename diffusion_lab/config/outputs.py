"""The `outputs` of commands without that option, the folder whose own settings count, and the folders that options name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.files import name_root
from diffusion_lab.store.places import is_in_outputs

LOCAL = Path("conf", "local", "default.yaml")  # the user's own settings, below the working directory


def working_directory() -> Path | None:
    """The working directory; None if it is the folder of a model, or in `outputs`, where nothing is read."""
    folder = Path.cwd()
    return None if is_in_outputs(folder) else folder


def usual_outputs() -> str:
    """`outputs`, unless the user's own conf/local/default.yaml names another folder. RunError where that file is wrong."""
    files = [folder / LOCAL for folder in (CONF.parent, working_directory()) if folder is not None]
    if not any(file.is_file() for file in files):
        return "outputs"
    # main.py imports this file and must answer at once
    from omegaconf.errors import OmegaConfBaseException

    from diffusion_lab.config.working_directory import local_settings
    from diffusion_lab.store.records import RunError

    found = (local_settings(file) for file in files if file.is_file())
    try:
        return str(next(filter(None, (settings.get("outputs") for settings in found)), "outputs"))
    except OmegaConfBaseException as error:
        raise RunError(f"{LOCAL}: outputs cannot be resolved: {' '.join(str(error).split())}") from None


def name_folders(cfg: Mapping[str, Any]) -> None:
    """Register the folders that a command writes to, so that no link below leads out of them."""
    for option in ("outputs", "to", "jobs", "sweep", "model_dir"):
        if cfg.get(option) and not isinstance(cfg[option], Mapping):  # in train, sweep is a group of options
            name_root(Path(str(cfg[option])))
