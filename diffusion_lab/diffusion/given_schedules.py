"""Schedules that derive from nothing: an object with alpha_bar() alone."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from .schedules import Schedule, Table


@runtime_checkable
class AlphaBar(Protocol):
    """A schedule that need not derive from `Schedule`: alpha_bar() gives the table ᾱ_0 = 1, …, ᾱ_T."""

    def alpha_bar(self) -> Table: ...


@dataclass(frozen=True, repr=False)
class OfAlphaBar(Schedule):
    """The `Schedule` with the table of another object."""

    given: AlphaBar

    def alpha_bar(self) -> Table:
        return torch.as_tensor(self.given.alpha_bar(), dtype=torch.float64)

    def __repr__(self) -> str:
        """That of the object, without an address in memory."""
        return repr(self.given).partition(" object at ")[0].lstrip("<")


def as_schedule(given: Schedule | AlphaBar) -> Schedule:
    """A `Schedule` itself, or the one with the table of an object that has only alpha_bar()."""
    return given if isinstance(given, Schedule) else OfAlphaBar(len(given.alpha_bar()) - 1, given)
