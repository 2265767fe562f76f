"""Densities of points and of random fields, with which a model can be compared exactly.

Samples are drawn once, by `data_seed`, into a training and a test split that do not depend on the seed of a run.
"""

import hashlib
import inspect
import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.checks import at_least, require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.diffusion.bound import in_bits


class Density(InMemoryDataModule):
    """Points x float32 (N, D), or fields (N, C, *spatial), drawn from a density.

    A subclass implements the draw, and log density and entropy if they are known. batch_size, seed: as in `DataModule`. num_train,
    num_test: sizes of the splits. data_seed: of the draw of both.
    """

    num_levels = None

    def __init__(self, batch_size: int, seed: int, num_train: int, num_test: int, data_seed: int) -> None:
        super().__init__(batch_size, seed)
        at_least(1, num_train=num_train, num_test=num_test)
        at_least(0, data_seed=data_seed)
        self.num_train, self.num_test, self.data_seed = num_train, num_test, data_seed

    @abstractmethod
    def _draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """`size` points, float64 (size, D), or fields, and their classes, int64 (size,), or None."""

    def _parameters(self) -> dict[str, Any]:
        """Everything that determines the density: the options that only this class has, by name."""
        own = inspect.signature(type(self)).parameters.keys() - inspect.signature(Density).parameters.keys()
        return {name: getattr(self, name) for name in own}

    def _read(self) -> tuple[Split, Split]:
        return self._drawn(self.num_train, 0), self._drawn(self.num_test, 1)

    def _drawn(self, size: int, number: int) -> Split:
        points, classes = self._draw(size, np.random.default_rng([self.data_seed, number]))
        return Split(torch.from_numpy(points).float(), None if classes is None else torch.from_numpy(classes))

    def _identify(self, train: Split, test: Split) -> str:
        """The SHA-256 of the definition, because drawn points may differ between machines in the last bit."""
        definition = {
            "class": type(self).__name__,
            "parameters": self._parameters(),
            "sizes": [self.num_train, self.num_test],
            "data_seed": self.data_seed,
        }
        return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


class GaussianDensity(Density):
    """x ~ N(m, s²) in each of `dim` dimensions: everything about its diffusion is known in closed form.

    mean, std: m and s. batch_size, seed, num_train, num_test, data_seed: as in `Density`.
    """

    name = "gaussian"
    num_classes = None

    def __init__(
        self,
        batch_size: int,
        seed: int,
        dim: int = 1,
        mean: float = 0.0,
        std: float = 0.5,
        num_train: int = 50_000,
        num_test: int = 10_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_train, num_test, data_seed)
        at_least(1, dim=dim)
        require(std > 0, f"data.std={std} must be above 0.")
        self.dim, self.mean, self.std = dim, mean, std

    def _draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, None]:
        return self.mean + self.std * random.standard_normal((size, self.dim)), None

    def log_prob(self, x: Tensor) -> Tensor:
        """Σ_d −((x_d − m)/s)²/2 − log s − log(2π)/2, nats, float64 (B,)."""
        return -(((x.double() - self.mean) / self.std) ** 2 / 2 + math.log(self.std * math.sqrt(2 * math.pi))).sum(1)

    def entropy_bits(self) -> float:
        """log2(2π e s²)/2, bits per dimension."""
        return math.log2(2 * math.pi * math.e * self.std**2) / 2


class GaussianField(Density):
    """Periodic Gaussian random fields of `shape` (C, *spatial), mean 0, whose Fourier modes are independent:

        E|x̂_ω|² = λ(ω) ∝ (1 + (ℓ|ω|)²)^(−a/2),    ω the angular frequency per pixel, x̂ the orthonormal Fourier transform of x

    A power law with exponent a beyond the frequency 1/ℓ, flat below it: the Matérn covariance. Channels are independent.
    length: ℓ, in pixels. exponent: a. std: of every pixel. batch_size, seed, num_train, num_test, data_seed: as in `Density`.
    """

    name = "gaussian_field"
    num_classes = None

    def __init__(
        self,
        batch_size: int,
        seed: int,
        shape: Sequence[int] = (1, 16, 16),
        length: float = 2.0,
        exponent: float = 3.0,
        std: float = 0.5,
        num_train: int = 20_000,
        num_test: int = 5_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_train, num_test, data_seed)
        fits = 2 <= len(shape) <= 4 and all(isinstance(side, int) and side > 0 for side in shape)
        require(fits, f"data.shape={list(shape)} must be the number of channels and the lengths of one to three axes.")
        at_least(0, length=length, exponent=exponent)
        require(std > 0, f"data.std={std} must be above 0.")
        self.shape = tuple(shape)
        self.length, self.exponent, self.std = length, exponent, std

    def spectrum(self) -> Tensor:
        """λ at each frequency of the Fourier transform, float64 (*spatial): the eigenvalues of the covariance, of mean std²."""
        frequencies = (2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64) for side in self.shape[1:])
        squares = sum(axis.square() for axis in torch.meshgrid(*frequencies, indexing="ij"))
        unscaled = (1 + self.length**2 * squares) ** (-self.exponent / 2)
        return self.std**2 * unscaled / unscaled.mean()

    def modes(self, x: Tensor) -> Tensor:
        """|x̂_ω|², float64 (B, C, *spatial), of fields x (B, C, *spatial)."""
        axes = tuple(range(2, x.ndim))
        return torch.fft.fftn(x.double(), dim=axes, norm="ortho").abs().square()

    def _draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, None]:
        axes = tuple(range(2, 1 + len(self.shape)))
        white = np.fft.fftn(random.standard_normal((size, *self.shape)), axes=axes)
        return np.fft.ifftn(white * self.spectrum().sqrt().numpy(), axes=axes).real, None

    def log_prob(self, x: Tensor) -> Tensor:
        """−Σ_ω (|x̂_ω|²/λ(ω) + log 2πλ(ω))/2 over all channels, nats, float64 (B,)."""
        spectrum = self.spectrum()
        return -(self.modes(x) / spectrum + (2 * math.pi * spectrum).log()).flatten(1).sum(1) / 2

    def entropy_bits(self) -> float:
        """The mean of log2(2π e λ(ω))/2 over frequencies, bits per dimension."""
        return float((2 * math.pi * math.e * self.spectrum()).log2().mean()) / 2


class RingMixture(Density):
    """K equal Gaussians N(μ_k, s²) in the plane, their means evenly spaced on a circle around 0; the class is the component.

    num_components: K. radius: of the circle. std: s. batch_size, seed, num_train, num_test, data_seed: as in `Density`.
    """

    name = "mixture"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_components: int = 8,
        radius: float = 0.75,
        std: float = 0.05,
        num_train: int = 50_000,
        num_test: int = 10_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_train, num_test, data_seed)
        at_least(1, num_components=num_components)
        at_least(0, radius=radius)
        require(std > 0, f"data.std={std} must be above 0.")
        self.num_classes = self.num_components = num_components
        self.radius, self.std = radius, std

    def means(self) -> Tensor:
        """μ_k = r·(cos 2πk/K, sin 2πk/K), float64 (K, 2)."""
        angle = 2 * math.pi * torch.arange(self.num_components, dtype=torch.float64) / self.num_components
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def _draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        component = random.integers(self.num_components, size=size)
        return self.means().numpy()[component] + self.std * random.standard_normal((size, 2)), component

    def log_prob(self, x: Tensor) -> Tensor:
        """log (1/K) Σ_k N(x; μ_k, s²), nats, float64 (B,)."""
        squares = ((x.double()[:, None] - self.means()) ** 2).sum(2)
        log_scale = math.log(2 * math.pi * self.std**2 * self.num_components)
        return torch.logsumexp(-squares / (2 * self.std**2), dim=1) - log_scale

    def entropy_bits(self) -> float:
        """−∫ N(x; μ_0, s²) log2 p(x) dx / 2, bits per dimension: by symmetry every component contributes the same.

        The trapezoid rule on a grid of step s/8 out to 10 s around μ_0; for a Gaussian its error falls
        exponentially with the step.
        """
        offset = torch.arange(-80, 81, dtype=torch.float64) / 8
        weight = torch.exp(-(offset**2) / 2) / (8 * math.sqrt(2 * math.pi))
        grid = self.means()[0] + self.std * torch.cartesian_prod(offset, offset)
        return in_bits(-float((weight[:, None] * weight).flatten() @ self.log_prob(grid)), num_dims=2)


class TwoMoons(Density):
    """Two interleaving half circles in the plane with Gaussian noise; the class is the moon. The density has no closed form.

    The half circles of scikit-learn's `make_moons`, (cos θ, sin θ) and (1 − cos θ, 1/2 − sin θ) with θ ~ U(0, π),
    centred and divided by 1.75, so that nearly all of them lies in [-1, 1]². noise: its standard deviation, before this division.
    batch_size, seed, num_train, num_test, data_seed: as in `Density`.
    """

    name = "two_moons"
    num_classes = 2

    def __init__(
        self,
        batch_size: int,
        seed: int,
        noise: float = 0.08,
        num_train: int = 50_000,
        num_test: int = 10_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_train, num_test, data_seed)
        at_least(0, noise=noise)
        self.noise = noise

    def _draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        moon = random.integers(2, size=size)
        theta = random.uniform(0, np.pi, size)
        upper = np.stack([np.cos(theta), np.sin(theta)], axis=1)
        points = np.where(moon[:, None] == 0, upper, [1.0, 0.5] - upper)
        return (points + self.noise * random.standard_normal((size, 2)) - [0.5, 0.25]) / 1.75, moon
