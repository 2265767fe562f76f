"""How large what is read from a folder may become: a small file can request more than any memory holds.

Checked before it is made: references before they are resolved, numbers that become tables and images before they are used, and a
model's parameters, as they are registered, against the file of its weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusion_lab.foreign import LARGEST_NUMBER, RunError
from diffusion_lab.runs.contents import wrong_in_facts

REFERENCE = re.compile(r"\$\{\w+(\.\w+)*\}")  # a plain one
_LEAST = 64  # numbers that a parameter counts as: one of a single number takes memory too
_MOST_VALUES = 20_000  # of a config; ours have a few hundred


def check_expansion(config: dict[str, Any], file: Path) -> None:
    """RunError if plain containers with references would hold more than 20,000 values once these are resolved."""
    try:
        number = _ExpansionCounter(config, file).values(config)
    except RecursionError:
        raise RunError(f"{file} is not a config: its references are circular") from None
    if number > _MOST_VALUES:
        raise RunError(f"{file} is not a config: its references expand to more than {_MOST_VALUES:,} values")


def check_sizes(config: dict[str, Any], file: Path) -> None:
    """RunError for facts that no data set has, and for an option of a model or a score that is too large to use; all resolved."""
    wrong = wrong_in_facts(config.get("facts") or {})
    if wrong:
        raise RunError(f"{file}: {wrong}")
    for key, value in (
        found for part in ("model", "evaluation", "metrics") for found in _integers(config.get(part), part)
    ):
        if abs(value) > LARGEST_NUMBER and not key.endswith("seed"):
            raise RunError(f"{file}: {key}={value} is too large: at most {LARGEST_NUMBER:,} is allowed")


@contextmanager
def no_larger_than(weights: Path) -> Iterator[None]:
    """Inside the block a model is built: ValueError as soon as it has many more parameters than the safetensors file `weights`.

    A parameter is registered before it is filled, so memory that is reserved here is not used yet.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "pt") as file:
            there = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{weights} does not hold the weights of this model: {error}") from None
    with no_more_numbers(there, weights):
        yield


@contextmanager
def no_more_numbers(there: int, weights: Path) -> Iterator[None]:
    """The same where the file `weights` is known to hold so many numbers."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    budget = _Budget(weights, there)
    handle = register_module_parameter_registration_hook(lambda module, name, parameter: budget.spend(parameter))
    try:
        with budget:
            yield
    finally:
        handle.remove()


class _Budget:
    """Numbers that a model may have. A classifier that guides is built inside its model, and has a budget of its own."""

    _inner: list[_Budget] = []  # noqa: RUF012  # the last one counts

    def __init__(self, weights: Path, there: int) -> None:
        self._weights, self._there = weights, there
        self._left = 4 * there + 2**20  # a layer may register a parameter again in another form

    def __enter__(self) -> None:
        self._inner.append(self)

    def __exit__(self, *_: object) -> None:
        self._inner.pop()

    def spend(self, parameter: Any) -> None:
        from torch.nn.parameter import is_lazy

        if parameter is None or is_lazy(parameter) or self._inner[-1] is not self:
            return
        if parameter.numel() == 0:
            raise ValueError("the model has a layer without any channels")
        self._left -= max(parameter.numel(), _LEAST)
        if self._left < 0:
            raise ValueError(
                f"the model has many more parameters than {self._weights}, which holds {self._there:,} numbers"
            )


class _ExpansionCounter:
    """Counts values of plain containers without resolving anything: each container and each reference is looked at once."""

    def __init__(self, root: dict[str, Any], file: Path) -> None:
        self._root = root
        self._file = file
        self._known: dict[int | str, int] = {}

    def values(self, node: Any) -> int:
        """1 and the number of those below; 1 and those of its target for a reference."""
        if isinstance(node, dict | list):
            key, below = id(node), list(node.values()) if isinstance(node, dict) else node
        elif isinstance(node, str) and REFERENCE.fullmatch(node):
            key, below = node, [self._at(node)]
        else:
            return 1
        if key not in self._known:
            self._known[key] = 1 + sum(map(self.values, below))
        return self._known[key]

    def _at(self, reference: str) -> Any:
        node: Any = self._root
        for part in reference[2:-1].split("."):
            if isinstance(node, str):
                raise RunError(f"{self._file} is not a config: {reference} refers through another reference")
            if isinstance(node, list):
                node = node[int(part)] if part.isdecimal() and int(part) < len(node) else None
            else:
                node = node.get(part) if isinstance(node, dict) else None
        return node


def _integers(node: Any, key: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _integers(child, f"{key}.{name}")
    elif isinstance(node, int):
        yield key, node
