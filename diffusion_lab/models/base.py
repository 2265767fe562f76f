"""What every family is to the rest of the package: something that draws samples and, if it can, states a likelihood.

Evaluation, sweeps and report use only what is declared here and never depend on the family. Randomness is keyed, not
carried: row i of a sample depends on (weights, seed, indices[i], y[i]) and on nothing else, so neither the batch size
nor the number of devices changes an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from diffusion_lab.analysis import NetworkStatistics, ScheduleAdvice
from diffusion_lab.diffusion import DataMoments, Variance
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.sampling import Spacing, slerp


@dataclass(frozen=True)
class Likelihood:
    """-log2 p(x_0) / D of a batch of B images, or a bound on it, and what it is made of.

    bits_per_dim    (B,) float64, bits per dimension
    kind            what the number is: bound of the full chain, bound of a strided chain, ELBO, exact density, ...
    parts           named summands of bits_per_dim, each (B,) float64
    curve           by term, or None. A 1-D entry (K,) says which the K terms are (e.g. "timesteps") and is the same for
                    every batch; a 2-D entry (B, K) holds a quantity per image and term
    beside          other statements about the same images in bits/dim, by name, each (B,) float64: no summands
    standard_error  of this batch's mean, from the randomness of the estimate (noise, choice of terms) alone and
                    independent between batches; None where it was not estimated or nothing is random
    """

    bits_per_dim: Tensor
    kind: str
    parts: dict[str, Tensor]
    curve: dict[str, Tensor] | None = None
    standard_error: float | None = None
    beside: dict[str, Tensor] = field(default_factory=dict)


class Denoised(NamedTuple):
    """x_t = signal·x_0 + noise·ε, and x̂_0, both shaped like x_0. y: the classes that the network knew, or None."""

    x_t: Tensor
    signal: float
    noise: float
    x_0: Tensor
    y: Tensor | None


class GenerativeModel(TrainableModel, ABC):
    """A family's LightningModule. A subclass sets the facts of the data it was built for and fills in the methods.

    Training uses none of the methods declared here.
    """

    num_levels: int | None  # data levels that [-1, 1] is divided into; None: continuous data
    needs_label: bool = False  # it cannot draw where y is None

    @abstractmethod
    def sample(self, indices: Tensor, seed: int, y: Tensor | None = None) -> Tensor:
        """Samples number `indices` (int64 (B,)) of the stream `seed`: (B, *shape) float32 in [-1, 1].

        y: int64 (B,) class indices, or None.
        """

    @abstractmethod
    def latents(self, indices: Tensor, seed: int) -> Tensor:
        """z ~ N(0, I) of samples `indices` of the stream `seed`: (B, …) float32."""

    @abstractmethod
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The image of each latent, without further randomness: (B, *shape) float32 in [-1, 1]."""

    def encode(self, x_0: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Latents whose images x_0 (B, *shape) are, or are close to; None for a family without an encoder."""
        return None

    def reconstruct(self, x_0: Tensor, y: Tensor | None = None) -> Tensor | None:
        """The images of the latents of x_0; None for a family without an encoder."""
        z = self.encode(x_0, y)
        return None if z is None else self.decode(z, y)

    def interpolate(self, first: Tensor, second: Tensor, weight: Tensor, seed: int, y: Tensor | None = None) -> Tensor:
        """The point at `weight` (B,) in [0, 1] of the way from sample first[i] to sample second[i] of a stream: the images of the
        latents on the arc between theirs."""
        return self.decode(slerp(self.latents(first, seed), self.latents(second, seed), weight), y)

    def trajectory(self, indices: Tensor, seed: int, y: Tensor | None = None) -> Iterator[Tensor] | None:
        """x_T, …, x_0 of the samples that `sample` draws; None for a family that draws in one step."""
        return None

    @property
    def moments(self) -> tuple[float | str, ...]:
        """Earlier moments of its own training, whose weights sampling uses too."""
        return ()

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Network evaluations that one sample takes."""

    def sampling_flops(self) -> int:
        """Floating-point operations of one sample, a multiply-add counted as 2."""
        return self.nfe * self.cost().forward_flops

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What decides samples and likelihood beside the weights (sampler, spacing, variance, clipping), as plain JSON."""

    def sampling_protocol(self) -> dict[str, Any]:
        """The part of `protocol` that decides samples: models of equal weights that agree in it draw the same images."""
        return self.protocol()

    def likelihood(
        self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, max_terms: int | None
    ) -> Likelihood | None:
        """The likelihood of the images x_0 (B, *shape), or None for a family that has none.

        Row i depends on (weights, seed, indices[i], x_0[i], y[i]) only. A sum of more than max_terms terms is estimated
        without bias from max_terms of them; None: all terms.
        """
        return None

    def measure(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """Statistics of the network from which choices of scoring follow: name -> (B, T) float64, to be averaged over images.

        For a family with a chain. Row i depends on (weights, seed, indices[i], x_0[i], y[i]) only.
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics")

    def measure_dimensions(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """Statistics by dimension: name -> (1, T, *shape) float64, sums over the images. For a family with `measure`.

        ValueError where they would be too many.
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics")

    @property
    def needs_last_steps(self) -> bool:
        """Whether a choice needs the result of `measure_last_steps` too."""
        return False

    def log_snrs(self, count: int) -> list[float] | None:
        """`count` log SNRs of its chain, evenly from its clean end to its noisy one; None for a family without a noisy chain."""
        return None

    def advise(self, x_0: Tensor, y: Tensor | None) -> ScheduleAdvice:
        """The steps, their number and their ends that would have the lowest bound on the images x_0 of the measurement.

        For a family with `log_snrs`, once its last steps were measured. ValueError, in one sentence, where no table says it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no noisy chain")

    def chain_bits(
        self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, spacings: Sequence[Spacing]
    ) -> Tensor:
        """Bounds of the unguided ancestral chain over the whole steps of each spacing, by image: (B, C), bits per dimension.

        As in `likelihood`, with the same noise. For a family with `log_snrs`; spacings that need costs work once its last
        steps were measured.
        """
        raise NotImplementedError(f"{type(self).__name__} has no noisy chain")

    def redraw(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, log_snr: float) -> Tensor:
        """Images noised to a log SNR, and sampled from there, as samples are from noise. For a family with `log_snrs`."""
        raise NotImplementedError(f"{type(self).__name__} has no noisy chain")

    def denoise(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, log_snr: float) -> Denoised:
        """Images noised to a log SNR, and their estimate by one unguided network evaluation. For a family with `log_snrs`."""
        raise NotImplementedError(f"{type(self).__name__} has no noisy chain")

    @property
    def needs_data_moments(self) -> bool:
        """Whether a choice that was made follows from moments of the training images: `use_data_moments`."""
        return False

    def use_data_moments(self, moments: DataMoments) -> None:
        """From here on draw and score with these. For a family that needs them."""
        raise NotImplementedError(f"{type(self).__name__} needs no moments of the data")

    def measure_last_steps(self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor) -> dict[str, Tensor]:
        """As `measure`, of the decoder: "bits" (B, F, G), as `last_step_bits` says. For a family that needs it."""
        raise NotImplementedError(f"{type(self).__name__} has no last step")

    def use_measured(
        self, statistics: NetworkStatistics, last_steps: Tensor | None, variance: Callable[..., Variance] | None
    ) -> None:
        """From here on draw and score with what was measured of these weights. For a family that measures.

        statistics, last_steps: means of what `measure` and, if it is needed, `measure_last_steps` say. variance: given the
        statistics and outputs_per_channel, those of the network, makes one; None: the variance stays.
        """
        raise NotImplementedError(f"{type(self).__name__} has no variance to choose")

    def use_head(self, head: Callable[..., Tensor], variance: Variance) -> None:
        """From here on draw and score with the variance that a head says: (image and output, timesteps) -> v."""
        raise NotImplementedError(f"{type(self).__name__} has no variance to choose")

    def classes_in_turn(self, indices: Tensor) -> Tensor | None:
        """Class indices[i] mod num_classes for sample i, so that a picture shows all of them; None without classes."""
        return None if self.num_classes is None else indices.remainder(self.num_classes)
