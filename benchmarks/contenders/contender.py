"""What every contender does: train for a budget, then sample with its weights at the end and at earlier moments."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffusion_lab.diffusion import GaussianDiffusion, ReverseProcess

SHAPE = (1, 28, 28)  # of Fashion-MNIST
END = 1.0  # the moment at which the budget is used


@dataclass(frozen=True)
class Budget:
    """seconds: of training. moments: shares of them at which weights are kept, besides the end. threads: of the one process."""

    seconds: float
    moments: tuple[float, ...]
    seed: int
    threads: int
    device: str

    def clock(self) -> float:
        """Seconds of this process: on a CPU its CPU time divided by its threads, so that other work on the machine does not count;
        on a GPU wall time."""
        return time.process_time() / self.threads if self.device == "cpu" else time.monotonic()


@dataclass(frozen=True)
class Facts:
    """What a finished training recorded. steps: by moment."""

    parameters: int
    batch_size: int
    steps: dict[float, int]


@dataclass(frozen=True)
class Trained:
    """A contender with the weights of one moment.

    process, reverse: its network in our terms, for the shared sampler. own: (indices (B,), seed) -> samples of its own sampler,
    (B, 1, 28, 28) in [−1, 1]. own_evaluations: of the network, for one sample. classes: (indices, seed) -> the class of each
    sample of the shared sampler, int64 (B,), in the proportions of the data; None for an unconditional network.
    """

    process: GaussianDiffusion
    reverse: ReverseProcess
    own: Callable[[Tensor, int], Tensor]
    own_evaluations: int
    classes: Callable[[Tensor, int], Tensor | None] = lambda indices, seed: None


class Contender(ABC):
    """One recipe of one library. It keeps all its files in `folder` and does not repeat what is finished there."""

    requires: str | None = None  # the package that has to be installed

    @abstractmethod
    def train(self, folder: Path, budget: Budget) -> Facts:
        """Train until the budget is used, unless that has been done."""

    @abstractmethod
    def at(self, folder: Path, moment: float, budget: Budget, num_steps: int) -> AbstractContextManager[Trained]:
        """With its weights when that share of the budget was used; its own sampler takes `num_steps` steps if it can."""
