"""A schedule that is stated number by number: β_1 … β_T, as a checkpoint of somebody else holds them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .schedules import Schedule, Table
from .shapes import Number

_SHOWN = 4  # numbers of a table, in its name


@dataclass(frozen=True, repr=False)
class TableSchedule(Schedule):
    """ᾱ_t = ∏_{s≤t} (1 − β_s), where β_1 … β_T are given; of fewer than T numbers, evenly apart, the values between are linear.

    So two numbers are β_t that rises linearly, as with `LinearSchedule`, but without its factor 1000/T.

    Parameters
    ----------
    betas: 1 to T numbers, each above 0 and below 1; the first is β_1 and the last β_T. ValueError for others.
    """

    betas: Sequence[Number] = (1e-4, 0.02)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        if not 1 <= len(self.betas) <= self.num_timesteps:
            raise ValueError(
                f"schedule.betas has {len(self.betas)} numbers: give 1 to num_timesteps={self.num_timesteps} of them"
            )
        wrong = [beta for beta in self.betas if not 0 < beta < 1]
        if wrong:
            raise ValueError(f"schedule.betas: {wrong[0]} must lie above 0 and below 1")

    def __repr__(self) -> str:
        """Of a long table its ends and its sum."""
        shown = ", ".join(map(repr, self.betas))
        if len(self.betas) > _SHOWN:
            shown = f"{self.betas[0]!r}, …, {self.betas[-1]!r}; sum {sum(self.betas)!r}"
        return f"TableSchedule(num_timesteps={self.num_timesteps}, betas=({shown}))"

    def alpha_bar(self) -> Table:
        given = torch.tensor(self.betas, dtype=torch.float64)
        place = torch.linspace(0, len(given) - 1, self.num_timesteps, dtype=torch.float64)
        before = place.long().clamp(max=max(len(given) - 2, 0))
        after = (before + 1).clamp(max=len(given) - 1)
        beta = torch.lerp(given[before], given[after], place - before)
        return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, dim=0)])
