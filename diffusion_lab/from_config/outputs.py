"""The `outputs` of commands without that option."""

from pathlib import Path

from diffusion_lab.conf_dir import CONF


def usual_outputs() -> str:
    """`outputs`, unless the user's own conf/local/default.yaml names another folder."""
    files = [file for conf in (CONF, Path("conf")) if (file := conf / "local" / "default.yaml").is_file()]
    if not files:
        return "outputs"
    from omegaconf import OmegaConf  # main.py imports this file and must answer at once

    return next(filter(None, (OmegaConf.load(file).get("outputs") for file in files)), "outputs")
