"""What a config that comes out of a folder may build: classes of these packages and nothing else.

A model directory may be somebody else's. Hydra builds whatever a `_target_` names, and the options of a command line are the
user's own; a file's are not. Only the environment can allow more, never the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.runs import RunError

ALLOWED = ("diffusion_lab", "torch.nn", "torch.optim", "lightning.pytorch", "torchvision", "torchmetrics")
VARIABLE = "DIFFUSION_LAB_TARGETS"  # more packages, separated by commas


def check_targets(config: DictConfig, file: Path) -> None:
    """RunError, naming the key and the fix, if `config`, which was read from `file`, would build anything else.

    Not the name alone counts, since a package's modules lead to others (torch.nn.functional.torch.hub.load): what it leads to
    must be a class, and that class must be defined in one of the packages.
    """
    own = tuple(filter(None, (name.strip() for name in os.environ.get(VARIABLE, "").split(","))))
    for key, target in _targets(OmegaConf.to_container(config, resolve=False), ""):
        if not (isinstance(target, str) and _within(target, ALLOWED + own) and _defined_within(target, ALLOWED + own)):
            package = str(target).partition(".")[0]
            raise RunError(
                f"{file}: {key}={target} is not built, because a file may name classes of {', '.join(ALLOWED)} only; if you trust "
                f"it, {VARIABLE}={package} in the environment allows it"
            )


def _targets(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every `_target_` below a node, with its dotted key."""
    if isinstance(node, dict):
        for key, child in node.items():
            if key == "_target_":
                yield f"{prefix}{key}", child
            yield from _targets(child, f"{prefix}{key}.")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _targets(child, f"{prefix}{index}.")


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _defined_within(target: str, packages: tuple[str, ...]) -> bool:
    try:
        found = get_object(target)
    except Exception:  # whatever the import of a module raises: it is not a class of these packages
        return False
    return isinstance(found, type) and _within(found.__module__, packages)
