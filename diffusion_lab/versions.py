"""The versions of packages that affect numbers. Imports none of these packages."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"  # defined only here; hatchling reads it
PACKAGES = ("torch", "lightning", "hydra-core", "torchmetrics", "torch-fidelity")


def versions() -> dict[str, str]:
    """name -> version of this package, Python, and packages that compute or affect our numbers, the same list everywhere."""
    return {
        "diffusion_lab": __version__,
        "python": platform.python_version(),
        **{name: _installed(name) for name in PACKAGES},
    }


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
