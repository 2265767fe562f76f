"""Which K of the T steps does a sampler visit? S ⊂ {1 … T}, strictly increasing, always with T."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class Spacing(ABC):
    """T -> S."""

    @abstractmethod
    def __call__(self, num_timesteps: int) -> Int64[Tensor, " K"]:
        """S, int64 (K,), strictly increasing within 1 … T and ending at T."""


@dataclass(frozen=True)
class AllSteps(Spacing):
    """S = {1 … T}."""

    def __call__(self, num_timesteps: int) -> Int64[Tensor, " K"]:
        return torch.arange(1, num_timesteps + 1)


@dataclass(frozen=True)
class EvenSpacing(Spacing):
    """t_i = 1 + i·(T − 1)/(K − 1), i = 0 … K − 1, halves rounded to even (Nichol & Dhariwal 2021, section 4). K = 1 keeps T."""

    num_steps: int

    def __call__(self, num_timesteps: int) -> Int64[Tensor, " K"]:
        _check(self.num_steps, num_timesteps)
        if self.num_steps == 1:
            return torch.tensor([num_timesteps])
        i = torch.arange(self.num_steps, dtype=torch.float64)
        return 1 + (i * (num_timesteps - 1) / (self.num_steps - 1)).round().long()


@dataclass(frozen=True)
class QuadraticSpacing(Spacing):
    """t_i = 1 + (i/(K − 1))²·(T − 1), i = 0 … K − 1: dense near the data (Song et al. 2020, DDIM).

    Halves are rounded to even and collisions moved up. K = 1 keeps T.
    """

    num_steps: int

    def __call__(self, num_timesteps: int) -> Int64[Tensor, " K"]:
        _check(self.num_steps, num_timesteps)
        if self.num_steps == 1:
            return torch.tensor([num_timesteps])
        i = torch.arange(self.num_steps)
        wanted = 1 + ((i / (self.num_steps - 1)).double().square() * (num_timesteps - 1)).round().long()
        # A step lies at least one above the step before it: subtract i, take the running maximum, add i again.
        return (wanted - i).cummax(dim=0).values + i


def _check(num_steps: int, num_timesteps: int) -> None:
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(
            f"num_steps = {num_steps}: a chain of {num_timesteps} steps can be sampled in 1 … {num_timesteps} steps"
        )
