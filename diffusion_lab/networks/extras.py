"""Networks of other packages, which are optional extras: they are imported when such a network is built."""

from importlib import import_module
from typing import Any


class NotInstalledError(ValueError):
    """An optional extra is missing; one sentence that says how to install it."""


def network_class(module: str, name: str, extra: str) -> Any:
    """The class `name` of `module`, which `pip install 'diffusion-lab[extra]'` brings."""
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise NotInstalledError(
            f"the network {name} needs the package {extra} ({error}): pip install 'diffusion-lab[{extra}]'"
        ) from None
