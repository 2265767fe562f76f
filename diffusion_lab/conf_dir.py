"""The path of conf/: inside the package in a wheel, beside it in a clone."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
