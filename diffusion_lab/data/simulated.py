"""Simulated series and volumes with known statistics, to try one and three spatial axes."""

import math

import numpy as np

from diffusion_lab.data.checks import at_least, require
from diffusion_lab.data.densities import Density


class Oscillators(Density):
    """Two coupled damped oscillators, observed from a random moment: series (2, length), in the order of time.

        x_1, x_2 = s(t) ± a(t),    s(t) = e^{−γt}·A_s cos(ω_s t + φ_s), and so a(t), with ω_a² = ω_s² + coupling·ω_s²

    The normal modes of two equal oscillators joined by a spring. ω_s is uniform between cycles[0] and cycles[1] turns per series,
    γ = damping/length. A cos φ is normal, with variance `together` for s and 1 − together for a; so, for any frequency,

        E x = 0,    Var x_i(t) = e^{−2γt},    Corr(x_1, x_2) = 2·together − 1

    batch_size, seed, num_train, num_test, data_seed: as in `Density`.
    """

    name = "series"
    num_classes = None

    def __init__(
        self,
        batch_size: int,
        seed: int,
        length: int = 64,
        cycles: tuple[float, float] = (1.5, 4.0),
        coupling: float = 1.5,
        damping: float = 1.0,
        together: float = 0.75,
        num_train: int = 20_000,
        num_test: int = 2_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_train, num_test, data_seed)
        at_least(2, length=length)
        at_least(0, coupling=coupling, damping=damping)
        require(0 <= together <= 1, f"data.together={together} must lie between 0 and 1.")
        self.length, self.cycles, self.coupling = length, tuple(cycles), coupling
        self.damping, self.together = damping, together

    def _draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, None]:
        time = np.arange(self.length) / self.length
        omega = 2 * math.pi * random.uniform(self.cycles[0], self.cycles[1], size=(size, 1))
        modes = []
        for share, rate in ((self.together, omega), (1 - self.together, omega * math.sqrt(1 + self.coupling))):
            cosine, sine = math.sqrt(share) * random.standard_normal((2, size, 1))
            modes.append(np.exp(-self.damping * time) * (cosine * np.cos(rate * time) + sine * np.sin(rate * time)))
        return np.stack([modes[0] + modes[1], modes[0] - modes[1]], axis=1), None


class Ellipsoids(Density):
    """One ellipsoid in each volume (1, side, side, side): 1 inside, −1 outside, with an edge of about a voxel.

    Half-axes uniform between radii[0] and radii[1] voxels, a random rotation, a centre uniform where the whole fits. The expected
    share of voxels above 0 is 4π/3·E[r]³/side³. batch_size, seed, num_train, num_test, data_seed: as in `Density`.
    """

    name = "volume"
    num_classes = None

    def __init__(
        self,
        batch_size: int,
        seed: int,
        side: int = 16,
        radii: tuple[float, float] = (2.5, 6.0),
        num_train: int = 3_000,
        num_test: int = 500,
        data_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_train, num_test, data_seed)
        fits = 0 < radii[0] <= radii[1] <= side / 2
        require(
            fits, f"data.radii={list(radii)} must be two numbers in ascending order, above 0 and up to data.side/2."
        )
        self.side, self.radii = side, tuple(radii)

    def _draw(self, size: int, random: np.random.Generator) -> tuple[np.ndarray, None]:
        radii = random.uniform(self.radii[0], self.radii[1], size=(size, 3))
        centre = random.uniform(self.radii[1] - 0.5, self.side - self.radii[1] - 0.5, size=(size, 3, 1))
        rotation, _ = np.linalg.qr(random.standard_normal((size, 3, 3)))
        voxels = np.indices((self.side,) * 3).reshape(3, -1)
        volumes = np.empty((size, self.side**3), np.float32)
        for first in range(0, size, 256):  # blocks in float64
            some = slice(first, first + 256)
            along = rotation[some] @ (voxels - centre[some]) / radii[some, :, None]
            radius = np.sqrt((along**2).sum(1))
            volumes[some] = np.tanh(2 * (1 - radius) * radii[some].mean(1, keepdims=True))
        return volumes.reshape(size, 1, *(self.side,) * 3), None
