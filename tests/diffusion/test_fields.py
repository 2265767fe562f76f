"""The bound of Gaussian random fields, along one, two and three axes, with their exact denoiser: it is their entropy."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diffusion_lab.data.densities import GaussianField
from diffusion_lab.diffusion import (
    CosineSchedule,
    GaussianDiffusion,
    LogSNRSchedule,
    PredictStart,
    ReverseProcess,
    variational_bound,
)
from diffusion_lab.diffusion.forward import per_sample
from diffusion_lab.sampling import EvenSpacing, QuadraticSpacing

from .oracles import GaussianData, OptimalVariance, SigmaPoints

FIELDS = {
    shape: GaussianField(4, 0, shape=shape, length=length)
    for shape, length in [((1, 64), 3.0), ((1, 16, 16), 2.0), ((1, 4, 8), 1.0), ((1, 8, 8, 8), 1.5)]
}


def hartley(x: Tensor) -> Tensor:
    """The orthonormal basis of real waves cos + sin, its own inverse, in which the pixels of a field are independent."""
    transformed = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho")
    return transformed.real - transformed.imag


class ExactDenoiser:
    """E[x_0|x_t] of a field, in pixels: every Fourier mode times λ·α_t/(α_t²·λ + σ_t²)."""

    def __init__(self, field: GaussianField, process: GaussianDiffusion) -> None:
        self.spectrum, self.schedule = field.spectrum(), process.schedule

    def __call__(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        signal, noise = (per_sample(part, x_t) for part in self.schedule.pair(timesteps.double() + 1))
        gain = self.spectrum * signal / (signal.square() * self.spectrum + noise.square())
        axes = tuple(range(2, x_t.ndim))
        return torch.fft.ifftn(gain * torch.fft.fftn(x_t, dim=axes), dim=axes).real


def prior_gap(schedule, spectrum: Tensor) -> float:
    """KL(q(x_T) ‖ N(0, I)) in bits per dimension."""
    variance = schedule.alpha_bar()[-1] * spectrum + 1 - schedule.alpha_bar()[-1]
    return float((variance - 1 - variance.log()).mean()) / (2 * math.log(2))


@pytest.mark.parametrize("spacing", [EvenSpacing(1), EvenSpacing(7), QuadraticSpacing(20)], ids=str)
@pytest.mark.parametrize("field", FIELDS.values(), ids=map(str, FIELDS))
def test_the_bound_of_a_field_is_its_entropy(field, spacing):
    """For every subset of steps, if the variance of a step is that of each mode: here the chain runs in the basis of the modes."""
    process, spectrum = GaussianDiffusion(CosineSchedule(100)), field.spectrum()
    denoise, modes = ExactDenoiser(field, process), GaussianData(0.0, spectrum.sqrt().flatten())

    def network(x_t, timesteps, y):
        return hartley(denoise(hartley(x_t.unflatten(1, field.shape)), timesteps, y)).flatten(1)

    reverse = ReverseProcess(network, PredictStart(), OptimalVariance(modes), clip_x_0=False)
    strided = process.respace(spacing(process.num_timesteps))
    bound = variational_bound(strided, reverse, SigmaPoints.x_0(modes), num_levels=None, noise=SigmaPoints())
    expected = field.entropy_bits() + prior_gap(process.schedule, spectrum)
    assert float(bound.bits_per_dim.mean()) == pytest.approx(expected, abs=1e-6)


class WavesOfOne(SigmaPoints):
    """Noise whose modes are ±1."""

    def __call__(self, t: int, like: Tensor) -> Tensor:
        return hartley(super().__call__(t, like.flatten(1)).reshape(like.shape))


@dataclass(frozen=True)
class OneVariance(OptimalVariance):
    """The best variance that is the same for all pixels, and so for all modes."""

    def log_variance(self, process, x_t, t, v):
        return per_sample(super().log_variance(process, x_t.flatten(1), t, v).exp().mean(1).log(), x_t)


@pytest.mark.parametrize("shape", [(1, 64), (1, 8, 8, 8)], ids=str)
def test_in_pixels_the_bound_falls_to_the_entropy(shape):
    """One variance for all modes is too little at few steps; the more steps, the less it matters: the gap falls as 1/K."""
    field = FIELDS[shape]
    modes = GaussianData(0.0, field.spectrum().sqrt().flatten())
    x_0 = hartley(SigmaPoints.x_0(modes).reshape(-1, *field.shape))
    gaps = []
    for num_steps in (20, 40, 80):
        process = GaussianDiffusion(LogSNRSchedule(num_steps, log_snr_max=14.0, log_snr_min=-14.0))
        reverse = ReverseProcess(ExactDenoiser(field, process), PredictStart(), OneVariance(modes), clip_x_0=False)
        bound = variational_bound(process, reverse, x_0, num_levels=None, noise=WavesOfOne())
        gaps.append(
            float(bound.bits_per_dim.mean()) - field.entropy_bits() - prior_gap(process.schedule, field.spectrum())
        )
    assert 0 < gaps[2] < 0.6 * gaps[1] < 0.4 * gaps[0]
    assert 2 * gaps[2] - gaps[1] == pytest.approx(0, abs=0.01)  # extrapolated to no step at all
