"""What every contender does: train for a budget, then sample with its weights at the end and at earlier moments.
The shared sampler is ours, around anybody's network.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from contenders.images import DATA, Images
from diffusion_lab.diffusion import FixedSmall, GaussianDiffusion, Prediction, ReverseProcess, SampleNoise, Schedule
from diffusion_lab.sampling import DDIMSampler, EvenSpacing

END = 1.0  # the moment at which the budget is used


@dataclass(frozen=True)
class Budget:
    """How long to train: seconds, or `steps` where they are given, which are the same on a busy machine as on an idle one.

    moments: shares of that at which weights are kept, besides the end. threads: of the one process. data: what to train on.
    """

    seconds: float
    moments: tuple[float, ...]
    seed: int
    threads: int
    device: str
    steps: int | None = None
    data: Images = DATA["fashion_mnist"]

    def used(self, seconds: float, steps: int) -> float:
        """The share that is used after so many seconds and steps."""
        return steps / self.steps if self.steps else seconds / self.seconds

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
    (B, C, H, W) in [−1, 1]. own_evaluations: of the network, for one sample. classes: (indices, seed) -> the class of each
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


@dataclass(frozen=True)
class Table(Schedule):
    """Somebody else's ᾱ: alphas_cumprod[k] of step k = 0 … T − 1."""

    alphas_cumprod: tuple[float, ...] = field(repr=False, default=())

    def alpha_bar(self) -> Tensor:
        return torch.tensor([1.0, *self.alphas_cumprod], dtype=torch.float64)


def in_our_terms(
    network: Callable[[Tensor, Tensor], Tensor], alphas_cumprod: Tensor, prediction: Prediction
) -> tuple[GaussianDiffusion, ReverseProcess]:
    """network: (x_t, k) -> its prediction, x_0 in [−1, 1]; k int64 (B,), from 0."""
    table = Table(len(alphas_cumprod), tuple(alphas_cumprod.double().tolist()))
    reverse = ReverseProcess(lambda x_t, steps, y: network(x_t, steps), prediction, FixedSmall(), clip_x_0=True)
    return GaussianDiffusion(table), reverse


def draw(
    process: GaussianDiffusion,
    reverse: ReverseProcess,
    noise: SampleNoise,
    shape: tuple[int, ...],
    num_steps: int,
    y: Tensor | None = None,
) -> Tensor:
    """DDIM with evenly spaced steps, x̂_0 clipped: it reads no variance, so it is the same rule for every network."""
    x_0 = DDIMSampler(EvenSpacing(num_steps))(process, reverse, noise.initial(shape), y, noise=noise)
    return reverse.clip_x_0.in_range(x_0)
