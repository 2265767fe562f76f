"""Limits on what files in a folder may request: a small file can request more memory than any machine has.

References are checked before they are resolved, the memory and time that the numbers of a config need before they are
used, and a model's parameters, as they are registered, against the file of its weights.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusion_lab.foreign import RunError
from diffusion_lab.runs.contents import wrong_in_facts

REFERENCE = re.compile(r"\$\{\w+(\.\w+)*\}")  # a plain one
_LEAST = 64  # numbers that a parameter counts as: one of a single number takes memory too
_MOST_EVALUATIONS = 7 * 24 * 3600 * 1000
_USUAL_IMAGES = 2048  # drawn if the file names no number
_PROCESS = 2**28  # bytes of a process that reads images
_COUNTED = ("model", "evaluation", "metrics", "features", "data", "labels")
_ONLY_TRAINED = ("model.optimization.", "data.batch_size")
_MOST_VALUES = 20_000  # of a config; ours have a few hundred


def check_expansion(config: dict[str, Any], file: Path) -> None:
    """RunError if plain containers with references would hold more than 20,000 values once these are resolved."""
    try:
        number = _ExpansionCounter(config, file).values(config)
    except RecursionError:
        raise RunError(f"{file} is not a config: its references are circular") from None
    if number > _MOST_VALUES:
        raise RunError(f"{file} is not a config: its references expand to more than {_MOST_VALUES:,} values")


def check_sizes(config: dict[str, Any], file: Path, of_file: dict[str, Any]) -> None:
    """RunError, naming the option, for facts that no data set has, and for numbers that need too much memory or time.

    Both configs are resolved. of_file: the config as it is in the file; options that the user changed are not refused.
    """
    wrong = wrong_in_facts(config.get("facts") or {})
    if wrong:
        raise RunError(f"{file}: {wrong}")
    numbers, written = _numbers_of(config), _numbers_of(of_file)
    memory = f"more memory than this machine has, {_memory_here() / 2**30:.0f} GiB"
    time = "more than a week at 1,000 network evaluations a second"
    for needed, there, what in (
        (_memory(config, numbers), _memory_here(), memory),
        (_evaluations(numbers), _MOST_EVALUATIONS, time),
    ):
        needed = {key: amount for key, amount in needed.items() if numbers[key] == written.get(key)}
        if sum(needed.values()) > there:
            key = max(needed, key=lambda name: (needed[name], numbers[name]))
            how = f"; add +{key}=… with a smaller number" if key.startswith("data.") else ""
            raise RunError(f"{file}: {key}={numbers[key]:.15g} is too large, because it needs {what}{how}")


def _numbers_of(config: dict[str, Any]) -> dict[str, float]:
    """Key -> number, of all that determine the cost of using a trained model; neither seeds nor limits."""
    found = (pair for part in _COUNTED for pair in _numbers(config.get(part), part))
    return {
        key: abs(value)
        for key, value in found
        if math.isfinite(value)
        and not key.endswith("seed")
        and not key.rpartition(".")[2].startswith("max_")
        and not key.startswith(_ONLY_TRAINED)
    }


def _memory(config: dict[str, Any], numbers: dict[str, float]) -> dict[str, float]:
    """Option -> bytes, roughly: of a process, of an image in a batch and what a network makes of it, of a row of a table."""
    image = math.prod((config.get("facts") or {}).get("shape") or [1])
    row = min(max(4 * image, 256), 1024)
    data = {key: number for key, number in numbers.items() if key.startswith("data.")}
    sides = [number for key, number in data.items() if key.startswith("data.image_size")]
    shown = math.prod(sides * 2 if len(sides) == 1 else sides) * data.get("data.channels", 1) * data.get("data.dim", 1)

    def bytes_of(key: str, number: float) -> float:
        if key.startswith(("data.image_size", "data.channels", "data.dim")):
            return 64 * shown
        if key == "data.num_workers":
            return number * _PROCESS
        if key.startswith("data.num_"):  # points, which are drawn all at once
            return number * max(16 * shown, row)
        return number * (64 * image if key.endswith("batch_size") and not key.startswith("data.") else row)

    return {key: bytes_of(key, number) for key, number in numbers.items()}


def _evaluations(numbers: dict[str, float]) -> dict[str, float]:
    """Option -> network evaluations, roughly: each image that is scored takes the steps of the longest chain."""
    chains = {key: number for key, number in numbers.items() if key.startswith("model.") and key.endswith("num_steps")}
    chains = chains or {key: number for key, number in numbers.items() if key.endswith("num_timesteps")}
    images = {key: number for key, number in numbers.items() if key.startswith(("evaluation.", "metrics."))}
    for key in filter(re.compile(r".*\.num_draws").fullmatch, images):  # of each image
        images[key] *= images.get(key.replace("num_draws", "num_images"), 1)
    longest = max(chains, key=chains.__getitem__, default="")
    total = chains.get(longest, 1) * (_USUAL_IMAGES + sum(images.values()))
    most = max(images, key=images.__getitem__, default=longest)
    return {longest if chains.get(longest, 1) > images.get(most, 0) else most: total} if longest or most else {}


def _memory_here() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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


def _numbers(node: Any, key: str) -> Iterator[tuple[str, float]]:
    if isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _numbers(child, f"{key}.{name}")
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield key, node
