"""The `outputs` of commands without that option, and the folder whose own settings count."""

from pathlib import Path

from diffusion_lab.conf_dir import CONF
from diffusion_lab.runs.places import is_in_outputs

LOCAL = Path("conf", "local", "default.yaml")  # the user's own settings, below the working directory


def working_directory() -> Path | None:
    """The working directory; None where it is the folder of a model, or in `outputs`: nothing is read there."""
    folder = Path.cwd()
    return None if is_in_outputs(folder) else folder


def usual_outputs() -> str:
    """`outputs`, unless the user's own conf/local/default.yaml names another folder. RunError where that file is wrong."""
    files = [folder / LOCAL for folder in (CONF.parent, working_directory()) if folder is not None]
    if not any(file.is_file() for file in files):
        return "outputs"
    from diffusion_lab.from_config.working_directory import (
        local_settings,
    )  # main.py imports this file and must answer at once

    found = (local_settings(file) for file in files if file.is_file())
    return next(filter(None, (settings.get("outputs") for settings in found)), "outputs")
