"""An experiment sets options for its own choice of a group. With another choice, those that it does not have are dropped."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

from hydra._internal.utils import _locate  # what Hydra itself finds a target with
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

_OF_EVERY_CLASS = ("data.validation",)  # and no parameter of any


def drop_leftovers(cfg: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Delete what the objects of the groups that `overrides` choose do not take, unless an override gives it; their keys.

    Only for a config with an experiment: without one, such an option is a mistake of the user.
    """
    places = {
        override.key_or_group: override.package or override.key_or_group.replace("/", ".") for override in overrides
    }
    dropped: dict[str, None] = {}  # in order; sampler=… and sampler/spacing=… both hold sampler.spacing.num_steps
    for place in places.values():
        node = OmegaConf.select(cfg, place, throw_on_missing=False)
        if isinstance(node, DictConfig):
            dropped |= dict.fromkeys(key for key in _not_taken(node, place) if key not in {*places, *_OF_EVERY_CLASS})
    for key in dropped:
        place, _, name = key.rpartition(".")
        with open_dict(cfg):
            del OmegaConf.select(cfg, place)[name]
    return list(dropped)


def _not_taken(node: DictConfig, place: str) -> Iterator[str]:
    taken = _parameters(node.get("_target_"))
    for name in node:
        if taken is not None and not name.startswith("_") and name not in taken:
            yield f"{place}.{name}"
        elif not OmegaConf.is_interpolation(node, name) and OmegaConf.is_dict(OmegaConf.select(node, name)):
            yield from _not_taken(node[name], f"{place}.{name}")


def _parameters(target: object) -> set[str] | None:
    """The parameter names of a target; None if it takes **kwargs or has no readable signature."""
    try:
        parameters = inspect.signature(_locate(target)).parameters.values()
    except Exception:  # whatever an import raises: building the object raises it again
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}
