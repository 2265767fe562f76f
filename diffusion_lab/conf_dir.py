"""Where conf/ lies: in a wheel inside the package, in a clone beside it."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())
