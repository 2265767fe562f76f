"""The conditions y of samples, from `condition=…` of `diffusion-lab sample` and of `Model.sample`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffusion_lab.conditions.condition import Size, has_classes
from diffusion_lab.conditions.units import Units
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import ALL, as_plain
from diffusion_lab.data.array_files import read_npy
from diffusion_lab.data.arrays import MOST_BYTES
from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.condition_parts import as_conditions, parts
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.drawer import labels
from diffusion_lab.models.generator import Generator
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.records import RunError


@dataclass(frozen=True)
class One:
    """One condition of a model.

    name: of the condition. size: the number of classes, or the shape of a value. names: of its classes, or their numbers. shares:
    frequencies of clusters, float64 (K,); None for other conditions. rows: the values that the user chose, used in turn; None if
    none. units: of numeric values. held_out: values of test images, if the model's folder has them.
    """

    name: str
    size: Size
    names: Sequence[str]
    shares: Tensor | None
    rows: Tensor | None
    units: Units | None = None
    held_out: Tensor | None = None


@dataclass(frozen=True)
class DrawnConditions:
    """Conditions y of samples: the values that the user chose, or default values.

    By default classes are used in turn, clusters by frequency, and all other conditions in the order of the test images, from
    `each` if the model's folder has them, otherwise from `data`, the data set of its training.
    """

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
    """The conditions of samples that the options choose. MistakeError for values that do not fit the model.

    cfg: of `sample`. saved: the model's config. directory: its folder. generator: the model. data: loads its data set, if needed.
    arrays: values of conditions by name, in addition to `cfg`.
    """
    sizes = generator.conditions or (() if generator.num_classes is None else (generator.num_classes,))
    names = ([*(saved.get("condition") or {})] or ["classes"]) if sizes else []  # "classes": of a guiding classifier
    if len(names) != len(sizes):
        raise RunError(f"{directory.config}: condition must have an entry for each of the {len(sizes)} conditions")
    options = as_plain(cfg.condition) if cfg.condition is not None else {}
    given = {name: value for name, value in {**options, **arrays}.items() if value is not None}
    if ALL in given and len(sizes) == 1:
        given = {names[0]: given[ALL]}
    if given and not sizes:
        value = next(iter(given.values()))
        raise MistakeError(f"condition={value}: {directory.path} has no condition to choose a value of")
    if given.keys() - {*names}:
        known = " and ".join(names)
        raise MistakeError(f"condition: {directory.path} is conditioned on {known}; give a value for each, by name")
    records = directory.read_training().get("conditions", {})
    each = [
        _one(name, size, records.get(name, {}), given.get(name), cfg.num_images, directory)
        for name, size in zip(names, sizes, strict=True)
    ]
    return DrawnConditions(each, data)


def _one(name: str, size: Size, record: Mapping[str, Any], value: Any, most: int, directory: ModelDirectory) -> One:
    """A condition with its record and the value that the user chose, or None."""
    kind = torch.int64 if isinstance(size, int) else torch.float32
    held_out = torch.tensor(record["held_out"], dtype=kind) if "held_out" in record else None
    if not isinstance(size, int):
        units = Units.of_condition(record)
        rows = None if value is None else _rows(value, name, tuple(size), units)
        return One(name, size, [], None, rows, units, held_out)
    named = record.get("names", [])
    names = named if len(named) == size else []
    shares = torch.tensor(record["shares"], dtype=torch.float64) if "shares" in record else None
    chosen = None if value is None else _classes(value, size, names, most, directory)
    return One(name, size, names or [*map(str, range(size))], shares, chosen, held_out=held_out)


def _rows(value: Any, name: str, shape: tuple[int, ...], units: Units | None) -> Tensor:
    """Values of a condition from a file, an option or a Python array, normalised: (N, D) vectors, (N, C, …) fields."""
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
    rows = rows.float() if units is None else units.normalised(rows)
    if rows.isinf().any() or (rows.ndim == 2 and (rows.isnan().any(1) ^ rows.isnan().all(1)).any()):
        raise MistakeError(f"condition: a {name} has an infinite value, or NaN in a part of it")
    return rows


def _classes(value: Any, num_classes: int, names: Sequence[str], most: int, directory: ModelDirectory) -> Tensor:
    """Class numbers from an option or from a Python array: (N,)."""
    plain = value.tolist() if isinstance(value, Tensor) else value
    chosen = plain if isinstance(plain, list) else [plain]
    if not 1 <= len(chosen) <= most:
        raise MistakeError(f"condition={value}: give from one to num_images={most} classes")
    return torch.tensor([_class(each, num_classes, names, directory) for each in chosen])


def _class(given: Any, num_classes: int, names: Sequence[str], directory: ModelDirectory) -> int:
    """The number of a class, given by number or by name; case is ignored if that is unambiguous."""
    if type(given) is int and 0 <= given < num_classes:
        return given
    folded = [name.casefold() for name in names]
    if given in names:
        return names.index(given)
    if isinstance(given, str) and folded.count(given.casefold()) == 1:
        return folded.index(given.casefold())
    near = difflib.get_close_matches(str(given).casefold(), folded, n=3, cutoff=0.5)
    such = ", ".join([names[folded.index(name)] for name in near] or names[:10])
    raise MistakeError(
        f"condition={given}: {directory.path} has the classes 0 … {num_classes - 1}{f', such as {such}' if such else ''}"
    )
