"""diffusion_lab: train, sample and compare diffusion models. The theory is in `diffusion_lab.diffusion`; `load` loads a model."""

import os
import sys

# `python -m` looks for every module in the working directory first, which is removed here unless it holds this package.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

from typing import TYPE_CHECKING, Any

from diffusion_lab.versions import __version__ as __version__

if TYPE_CHECKING:
    from diffusion_lab.commands.library import Model, Score, load

__all__ = ["Model", "Score", "load"]


def __getattr__(name: str) -> Any:
    """Imports lazily, because the theory and --help do not need it."""
    if name not in __all__:
        raise AttributeError(f"module 'diffusion_lab' has no attribute {name!r}")
    from diffusion_lab.commands import library

    return getattr(library, name)
