"""Where conf/ lies (in a wheel inside the package, in a clone beside it), and the `outputs` of commands without that option."""

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())


def usual_outputs() -> str:
    """`outputs`, unless the user's own conf/local/default.yaml names another folder."""
    files = [file for conf in (CONF, Path("conf")) if (file := conf / "local" / "default.yaml").is_file()]
    if not files:
        return "outputs"
    from omegaconf import OmegaConf  # main.py imports this file and must answer at once

    return next(filter(None, (OmegaConf.load(file).get("outputs") for file in files)), "outputs")
