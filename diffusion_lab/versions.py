"""Which versions a number was made with. Imports none of these packages."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"  # the one place; hatchling reads it here
PACKAGES = ("torch", "lightning", "hydra-core", "torchmetrics", "torch-fidelity")


def versions() -> dict[str, str]:
    """name -> version, of this package, Python, and what computes or decides our numbers. It is the same list everywhere."""
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
