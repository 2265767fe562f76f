"""Options by name: a nested config as dotted names, the shortest distinct names, the options in which two configs differ.

`grouped` groups items with equal options, or any other key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import reduce
from itertools import accumulate
from typing import Any, TypeVar

import yaml

from diffusion_lab.conf_dir import CONF

LISTS: dict[str, list[str]] = yaml.safe_load((CONF / "not_in_the_name.yaml").read_text(encoding="utf-8"))
SCORING_GROUPS = tuple(LISTS["scoring"])  # chosen anew for each score
SCORED_GROUPS = (*SCORING_GROUPS, "variance")  # variance only if it did not shape training
NOT_IN_THE_NAME = frozenset(key for some in LISTS.values() for key in some)
# Callbacks that observe and save; others are the user's, and may change training in any way.
OUR_CALLBACKS = tuple(yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text(encoding="utf-8")))

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def flat(config: Mapping[str, Any], between: str = ".", prefix: str = "") -> dict[str, Any]:
    """{"data": {"batch_size": 64}} -> {"data.batch_size": 64}."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        leaves |= flat(value, between, name + between) if isinstance(value, Mapping) else {name: value}
    return leaves


def above_and_itself(key: str) -> Iterator[str]:
    """sampler.spacing.num_steps -> sampler, sampler.spacing, sampler.spacing.num_steps."""
    return accumulate(key.split("."), "{}.{}".format)


def short_names(names: Collection[str]) -> dict[str, str]:
    """Name -> its last part, sampler.spacing.num_steps -> num_steps, where neither another name nor `seed` ends so."""
    last = {name: name.replace("/", ".").rpartition(".")[2] for name in (*names, "seed")}
    return {name: last[name] if list(last.values()).count(last[name]) == 1 else name for name in names}


def check_at_least(least: float, options: Any, *names: str, prefix: str = "") -> None:
    """ValueError for the first of these options, such as "trainer.num_nodes", that is smaller than `least`; None is allowed.

    options: a config, or an object with these attributes. prefix: of their names on the command line.
    """
    for name in names:
        value = reduce(lambda node, part: getattr(node, part, None), name.split("."), options)
        if value is not None and value < least:
            raise ValueError(f"{prefix}{name}={value} must be at least {least}")


def canonical_json(content: Any) -> str:
    """Canonical JSON: keys sorted, no spaces, floats in their shortest exact form (Python's repr)."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by their keys, in the order in which they occur."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
