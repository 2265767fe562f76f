"""How a diffusion model draws samples, what that takes, and its way between images and latents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from diffusion_lab.diffusion import (
    DDIMSampler,
    EvenSpacing,
    GaussianDiffusion,
    GuidedReverse,
    ReverseProcess,
    Rounding,
    SampleNoise,
    Sampler,
    Start,
)
from diffusion_lab.diffusion.samplers import last
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.networks.cost import count_flops

_MOST_LATENT_STEPS = 50  # between an image and its latent


class DrawnDiffusion(GenerativeModel):
    """A diffusion model has a process, a reverse process, unguided and guided, a sampler, a start and a rounding."""

    reverse: ReverseProcess
    guided: GuidedReverse
    sampler: Sampler
    start: Start
    rounding: Rounding

    @property
    @abstractmethod
    def process(self) -> GaussianDiffusion:
        """q(x_t|x_0)."""

    def sample(self, indices: Tensor, seed: int, y: Tensor | None = None, x_T: Tensor | None = None) -> Tensor:
        """x_T: (B, *shape), what each sample starts from, in place of noise of its own."""
        return self._finished(last(self._walk(indices, seed, y, x_T)))

    def _finished(self, x_0: Tensor) -> Tensor:
        return self.rounding(self.reverse.clipping.in_range(x_0))  # a classifier may push the last mean beyond

    def latents(self, indices: Tensor, seed: int) -> Tensor:
        return SampleNoise(seed, indices).initial(self.shape)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """x_T = z -> x_0 by the deterministic sampler, along the steps of the model's own if these are few enough.

        The inverse of `encode`, so it is unguided too, and only the image is clipped, not each x̂_0: what was encoded comes back.
        """
        x_0 = self._deterministic(self.process, self.reverse.without_clipping(), z, self._network_labels(y))
        return self.reverse.clipping.in_range(x_0)

    def encode(self, x_0: Tensor, y: Tensor | None = None) -> Tensor:
        """Unguided and without clipping, so that `decode` brings x_0 back up to an error of first order in the stride."""
        return self._deterministic.encode(self.process, self.reverse.without_clipping(), x_0, self._network_labels(y))

    def _network_labels(self, y: Tensor | None) -> Tensor | None:
        """The classes, for a network that takes them: those of a guiding classifier are not its own."""
        return None if self.reverse.null_class is None else y

    @property
    def _deterministic(self) -> DDIMSampler:
        """For pictures of latents, which are not scored: few steps, also where the model's own sampler takes many."""
        own = self.sampler.spacing
        few = len(own(self.process)) <= _MOST_LATENT_STEPS
        return DDIMSampler(own if few else EvenSpacing(_MOST_LATENT_STEPS))

    def trajectory(
        self, indices: Tensor, seed: int, y: Tensor | None = None, x_T: Tensor | None = None
    ) -> Iterator[Tensor]:
        for _, x_t in self._walk(indices, seed, y, x_T):
            yield x_t

    def _walk(self, indices: Tensor, seed: int, y: Tensor | None, x_T: Tensor | None) -> Iterator[tuple[float, Tensor]]:
        noise, chain = SampleNoise(seed, indices), self._chain
        x_T = self.start.draw(chain, noise.initial(self.shape), y) if x_T is None else x_T
        return self.sampler.walk(chain, self.guided, x_T, y, noise)

    @property
    def nfe(self) -> int:
        """What the sampler's evaluations take, both branches of a guided one counted; a guiding classifier's gradients are not."""
        return sum(self.guided.guidance.evaluations(here, step) for here, step in self._evaluations())

    def sampling_flops(self) -> int:
        """Of all networks that the sampler evaluates: also those that guide, and a head for the variance.

        Counted at one t where the guidance acts and at one where it does not.
        """
        by_guidance: dict[bool, list[tuple[GaussianDiffusion, Tensor]]] = {}
        for here, step in self._evaluations():
            by_guidance.setdefault(self.guided.guidance.acts(here, step).anywhere, []).append((here, step))
        x_t = torch.zeros(1, *self.shape, device=self.device)
        y = None if self.num_classes is None else torch.zeros(1, dtype=torch.int64, device=self.device)
        return sum(
            (1 + len(alike)) * count_flops(partial(self.guided, here, x_t, step, y))
            for (here, step), *alike in by_guidance.values()
        )

    def _evaluations(self) -> Iterator[tuple[GaussianDiffusion, Tensor]]:
        """The chain and t (1,) of each evaluation of the reverse process, in order, t known without waiting for a GPU."""
        chain = self._chain
        for t in self.sampler.evaluation_times(chain.num_timesteps):
            step = torch.tensor([t], device=self.device)
            yield chain.at(step, shared_t=t), step

    @property
    def _chain(self) -> GaussianDiffusion:
        """The chain that the sampler walks along."""
        return self.process.respace(self.sampler.spacing(self.process))
