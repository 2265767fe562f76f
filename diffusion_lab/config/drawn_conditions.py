"""The conditions y of samples, from `condition=…` of `diffusion-lab sample` and of `Model.sample`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffusion_lab.conditions.condition import Size, has_classes
from diffusion_lab.conditions.units import Units
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import ALL, as_plain
from diffusion_lab.data.array_files import read_npy
from diffusion_lab.data.arrays import MOST_BYTES
from diffusion_lab.diffusion.condition_parts import as_conditions, parts
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.drawer import labels
from diffusion_lab.models.generator import Generator
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.records import RunError

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule


@dataclass(frozen=True)
class One:
    """One condition of a model. names: of its classes, or their numbers. shares: frequencies of clusters. rows: the values that
    the user chose, used in turn. units: of numeric values. held_out: values of test images, if the model's folder has them."""

    name: str
    size: Size
    names: Sequence[str]
    shares: Tensor | None
    rows: Tensor | None
    units: Units | None = None
    held_out: Tensor | None = None


@dataclass(frozen=True)
class DrawnConditions:
    """Conditions y of samples: the user's values if given; otherwise classes in turn, clusters by frequency, and all other
    conditions in the order of the test images, from its folder if it has them, else from `data`, which it was trained on."""

    each: Sequence[One]
    data: Callable[[], DataModule]

    @property
    def number(self) -> int:
        """The number of values that the user chose, before they repeat; 0 if none."""
        return max((len(one.rows) for one in self.each if one.rows is not None), default=0)

    @property
    def classes(self) -> One | None:
        """The condition, if it is classes or clusters alone."""
        return self.each[0] if len(self.each) == 1 and has_classes(self.each[0].size) else None

    def of(self, indices: Tensor, seed: int) -> Conditions:
        """y of the samples with these indices (B,) and this seed, on the device of `indices`."""
        images: Sequence[Tensor | None] = [None] * len(self.each)
        if self.classes is None and any(one.rows is None for one in self.each):
            held_out = [one.held_out for one in self.each if one.held_out is not None]
            if len(held_out) == len(self.each):
                images = [values[indices.cpu() % len(values)] for values in held_out]
            else:
                images = parts(self.data().y_of("test", indices))
        return as_conditions(
            [_values(one, indices, seed, own).to(indices.device) for one, own in zip(self.each, images, strict=True)]
        )

    def by_name(self, y: Conditions) -> dict[str, Tensor]:
        """The parts of y by name, in the data's units; classes are named "classes", clusters "clusters"."""
        names = [
            ("classes" if one.shares is None else "clusters") if has_classes(one.size) else one.name
            for one in self.each
        ]
        given = zip(names, parts(y), self.each, strict=False)
        return {name: part.cpu() if one.units is None else one.units.restored(part.cpu()) for name, part, one in given}


def _values(one: One, indices: Tensor, seed: int, of_images: Tensor | None) -> Tensor:
    if one.rows is not None:
        return one.rows[indices.cpu() % len(one.rows)]
    if of_images is not None:
        return of_images
    assert isinstance(one.size, int)
    return indices % one.size if one.shares is None else labels(indices, seed, one.shares)


def drawn_conditions(
    cfg: DictConfig,
    saved: DictConfig,
    directory: ModelDirectory,
    generator: Generator,
    data: Callable[[], DataModule],
    arrays: Mapping[str, Tensor],
) -> DrawnConditions:
    """The conditions that the options choose. MistakeError for values that do not fit the model. arrays: values by name."""
    sizes = generator.conditions or (() if generator.num_classes is None else (generator.num_classes,))
    names = [*(saved.get("condition") or {})] or ["classes"]  # conditions of a guiding classifier
    names = names if sizes else []
    if len(names) != len(sizes):
        raise RunError(f"{directory.config}: condition must have an entry for each of the {len(sizes)} conditions")
    given: dict[str, Any] = {**(as_plain(cfg.condition) if cfg.condition is not None else {}), **arrays}
    given = {name: value for name, value in given.items() if value is not None}
    if ALL in given and len(sizes) == 1:
        given = {names[0]: given[ALL]}
    for name, value in given.items():
        if not sizes:
            raise MistakeError(f"condition={value}: {directory.path} has no condition to choose a value of")
        if name not in names:
            known = " and ".join(names)
            raise MistakeError(f"condition: {directory.path} is conditioned on {known}; give a value for each, by name")
    training = directory.read_training()
    records = training.get("conditions", {})
    lacking = [name for name in saved.get("condition") or {} if name not in records]
    if lacking and "imported" not in training:
        raise RunError(f"{directory.training} has no record of the condition {lacking[0]}")
    return DrawnConditions(
        [
            _one(name, size, records.get(name, {}), given.get(name), cfg.num_images, directory)
            for name, size in zip(names, sizes, strict=True)
        ],
        data,
    )


def _one(name: str, size: Size, record: Mapping[str, Any], value: Any, most: int, directory: ModelDirectory) -> One:
    """A condition with its record and the value that the user chose, or None."""
    count = size if isinstance(size, int) else size[0]
    for fact in ("shares", "shift", "scale"):
        if len(record.get(fact, range(count))) != count:
            raise RunError(
                f"{directory.training}: conditions.{name}.{fact} has {len(record[fact])} entries, not {count}"
            )
    held_out = _held_out(record, name, size, directory)
    if not isinstance(size, int):
        units = Units.of_condition(record)
        rows = None if value is None else _rows(value, name, tuple(size))
        rows = None if rows is None else rows.float() if units is None else units.normalised(rows)
        if rows is not None and (
            rows.isinf().any() or (rows.ndim == 2 and (rows.isnan().any(1) ^ rows.isnan().all(1)).any())
        ):
            raise MistakeError(f"condition: a {name} has an infinite value, or NaN in a part of it")
        return One(name, size, [], None, rows, units, held_out)
    numbers, named = [str(number) for number in range(size)], record.get("names", [])
    names = named if len(named) == size else []
    shares = torch.tensor(record["shares"], dtype=torch.float64) if "shares" in record else None
    chosen = None if value is None else _classes(value, size, names, most, directory)
    return One(name, size, names or numbers, shares, chosen, held_out=held_out)


def _held_out(record: Mapping[str, Any], name: str, size: Size, directory: ModelDirectory) -> Tensor | None:
    """The values of test images in the record of a condition. RunError where they are none of this size."""
    if "held_out" not in record:
        return None
    with suppress(OverflowError, RuntimeError, TypeError, ValueError):
        found = torch.tensor(record["held_out"], dtype=torch.int64 if isinstance(size, int) else torch.float32)
        allowed = (found >= 0) & (found < size) if isinstance(size, int) else found.isfinite()
        if len(found) > 0 and found.shape[1:] == (() if isinstance(size, int) else tuple(size)) and allowed.all():
            return found
    raise RunError(f"{directory.training}: conditions.{name}.held_out must hold values of the size {size}")


def _classes(value: Any, num_classes: int, names: Sequence[str], most: int, directory: ModelDirectory) -> Tensor:
    """Class numbers from an option or from a Python array: (N,)."""
    plain = value.tolist() if isinstance(value, Tensor) else value
    chosen = plain if isinstance(plain, list) else [plain]
    if not 1 <= len(chosen) <= most:
        raise MistakeError(f"condition={value}: give from one to num_images={most} classes")
    return torch.tensor([_class(each, num_classes, names, directory) for each in chosen])


def _rows(value: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """Values of a condition from a file, an option or a Python array: (N, D) vectors, (N, C, …) fields."""
    if isinstance(value, str):
        if not Path(value).is_file():
            raise MistakeError(f"condition={value}: there is no such file; give FILE.npy with a {name} for each image")
        value = torch.from_numpy(read_npy(Path(value), MOST_BYTES))
    try:
        rows = torch.as_tensor(value, dtype=torch.float64)
    except (OverflowError, TypeError, ValueError):
        raise MistakeError(f"condition={value}: give FILE.npy with a {name} {shape} for each image") from None
    rows = rows[None] if tuple(rows.shape) == shape else rows
    if tuple(rows.shape[1:]) != shape or len(rows) == 0:
        raise MistakeError(f"condition: shape {tuple(rows.shape)}, but each {name} must have the shape {shape}")
    return rows


def _class(given: Any, num_classes: int, names: Sequence[str], directory: ModelDirectory) -> int:
    """The number of a class, given by number or by name; case is ignored if that is unambiguous."""
    if type(given) is int and 0 <= given < num_classes:
        return given
    folded = [name.casefold() for name in names]
    if given in names:
        return names.index(given)
    if isinstance(given, str) and folded.count(given.casefold()) == 1:
        return folded.index(given.casefold())
    if str(given) in names:
        raise MistakeError(f"condition={given} is a number: for the class of this name write condition=\"'{given}'\"")
    near = difflib.get_close_matches(str(given).casefold(), folded, n=3, cutoff=0.5)
    such = ", ".join([names[folded.index(name)] for name in near] or names[:10])
    named = f", such as {such}" if names else ", without names" if isinstance(given, str) else ""
    raise MistakeError(f"condition={given}: {directory.path} has the classes 0 … {num_classes - 1}{named}")
