"""The versions of packages that affect numbers. Imports none of these packages."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.3.0.dev0"  # defined only here; hatchling reads it
PACKAGES = ("torch", "lightning", "hydra-core", "torchmetrics", "torch-fidelity")


def versions() -> dict[str, str]:
    """name -> version of this package, Python, and packages that compute or affect our numbers, the same list everywhere."""
    return {
        "diffusion_lab": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


@cache
def _version(name: str) -> str:
    return version(name) if is_installed(name) else "not installed"


def is_installed(name: str) -> bool:
    """Whether a package is installed under this name; a folder of that name in the working directory is none."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
