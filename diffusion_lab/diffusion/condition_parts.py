"""Functions on y, the conditions of samples: None, a tensor (B, …), or a tuple of tensors for several conditions.

A dropped condition has the value `null`: K for K classes, NaN for a vector or a field. So dropping a condition, and the
unconditional branch of guidance, work alike for every kind.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .shapes import Conditions

Null = int | float | tuple[int | float, ...] | None  # the nulls of y's parts, in the same structure


def each(function: Callable[..., Tensor], y: Conditions, *more: Conditions | Null) -> Conditions:
    """function(part, …) of the parts of y, and of the parts of `more`, which have the same structure."""
    if y is None:
        return None
    return tuple(map(function, y, *more)) if isinstance(y, tuple) else function(y, *more)


def parts(y: Conditions) -> tuple[Tensor, ...]:
    """y as a tuple, with one tensor per condition."""
    return () if y is None else y if isinstance(y, tuple) else (y,)


def as_conditions(values: list[Tensor]) -> Conditions:
    """The inverse of `parts`."""
    return tuple(values) if len(values) > 1 else values[0] if values else None


def left_out(y: Conditions, null: Null) -> Conditions:
    """The null conditions, shaped like y."""
    return each(torch.full_like, y, null)


def where(chosen: Tensor, y: Conditions, otherwise: Conditions) -> Conditions:
    """Rows of y where `chosen`, bool (B,), is true, and rows of `otherwise` elsewhere."""
    return each(lambda a, b: torch.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b), y, otherwise)


def rows(y: Conditions, index: slice | Tensor) -> Conditions:
    """y[index]."""
    return each(lambda part: part[index.to(part.device) if isinstance(index, Tensor) else index], y)


def joined(first: Conditions, second: Conditions) -> Conditions:
    """The rows of both, one after the other."""
    return each(lambda *pair: torch.cat(pair), first, second)


def moved(y: Conditions, device: torch.device | str) -> Conditions:
    """y on a device."""
    return each(lambda part: part.to(device), y)


def classes_in(y: Conditions) -> Tensor | None:
    """The first part of y that holds classes or clusters, int64 (B,); None if there is none."""
    return next((part for part in parts(y) if not part.is_floating_point()), None)
