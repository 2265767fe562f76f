import math
import weakref
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffusion_lab.data.densities import GaussianField
from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    LinearSchedule,
    LogSNRSchedule,
    PredictNoise,
    PredictStart,
    ReverseProcess,
    SampleNoise,
    SigmoidSchedule,
    variational_bound,
)
from diffusion_lab.diffusion.forward import per_sample
from diffusion_lab.sampling import AllSteps, EvenSpacing, QuadraticSpacing

from .oracles import ExactNetwork, GaussianData, OptimalVariance, SigmaPoints

DATA = GaussianData(0.0, 0.5)


def exact_bound(schedule, spacing, variance, data=DATA) -> float:
    """E over x_0 and ε of the bound, in closed form: every term is quadratic in (x_0, ε), density for L_0."""
    process = GaussianDiffusion(schedule)
    reverse = ReverseProcess(ExactNetwork(data, process, PredictNoise()), PredictNoise(), variance, clip_x_0=False)
    strided = process.respace(spacing(process.num_timesteps))
    bound = variational_bound(strided, reverse, SigmaPoints.x_0(data), num_levels=None, noise=SigmaPoints())
    return float(bound.bits_per_dim.mean())


def prior_gap(schedule, data=DATA) -> float:
    """KL(q(x_T) ‖ N(0, 1)) in bits."""
    alpha_bar = float(schedule.alpha_bar()[-1])
    variance = alpha_bar * data.std**2 + 1 - alpha_bar
    return 0.5 * (variance + alpha_bar * data.mean**2 - 1 - math.log(variance)) / math.log(2)


@pytest.mark.parametrize("schedule", [LinearSchedule(1000), CosineSchedule(1000), SigmoidSchedule(1000)], ids=str)
@pytest.mark.parametrize("spacing", [EvenSpacing, QuadraticSpacing], ids=lambda s: s.__name__)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_with_the_optimal_variance_the_bound(schedule, spacing, num_steps):
    """With the optimal variance the bound is the entropy for every subset of steps."""
    value = exact_bound(schedule, spacing(num_steps), OptimalVariance(DATA))
    assert value == pytest.approx(DATA.entropy_bits + prior_gap(schedule), abs=1e-6)
    assert value == pytest.approx(1.04710, abs=1e-4)


def test_with_the_optimal_variance_the_full_chain_too():
    """With the optimal variance the full chain too has the entropy."""
    value = exact_bound(CosineSchedule(400), AllSteps(), OptimalVariance(DATA))
    assert value == pytest.approx(DATA.entropy_bits + prior_gap(CosineSchedule(400)), abs=1e-6)


@pytest.mark.parametrize("data", [GaussianData(0.4, 0.1), GaussianData(-1.0, 2.0)], ids=str)
def test_the_optimal_bound_is_the_entropy(data):
    """The optimal bound is the entropy of other gaussians too."""
    schedule = LinearSchedule(200)
    value = exact_bound(schedule, EvenSpacing(9), OptimalVariance(data), data)
    assert value == pytest.approx(data.entropy_bits + prior_gap(schedule, data), abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "figures"),
    [
        (LinearSchedule(1000), {10: 1.19458, 25: 1.10909, 50: 1.07852, 100: 1.06361}),
        (CosineSchedule(1000), {10: 1.13736, 25: 1.08286, 50: 1.06505, 100: 1.05723}),
        pytest.param(LinearSchedule(1000), {1000: 1.21253}, marks=pytest.mark.thorough),
        pytest.param(CosineSchedule(1000), {1000: 1.23230}, marks=pytest.mark.thorough),
    ],
    ids=["linear", "cosine", "linear, all steps", "cosine, all steps"],
)
def test_the_bound_of_fixed_large(schedule, figures):
    for num_steps, expected in figures.items():
        assert exact_bound(schedule, EvenSpacing(num_steps), FixedLarge()) == pytest.approx(expected, abs=1e-5)


def test_no_variance_beats_the_optimal_one():
    """No variance beats the optimal one and small is worse than large at few steps."""
    schedule = CosineSchedule(1000)
    for num_steps in (5, 10, 100):
        best = exact_bound(schedule, EvenSpacing(num_steps), OptimalVariance(DATA))
        small = exact_bound(schedule, EvenSpacing(num_steps), FixedSmall())
        large = exact_bound(schedule, EvenSpacing(num_steps), FixedLarge())
        assert best < large < small


def test_the_prior_term_is_the_papers():
    """Linear, T = 1000, E[x²] = 0.25: L_T = 7.28e-6 bits a dimension."""
    process = GaussianDiffusion(LinearSchedule(1000))
    reverse = ReverseProcess(ExactNetwork(DATA, process, PredictNoise()), PredictNoise(), FixedSmall())
    strided = process.respace(torch.tensor([1000]))
    bound = variational_bound(strided, reverse, SigmaPoints.x_0(DATA), num_levels=None, noise=SigmaPoints())
    assert float(bound.prior.mean()) == pytest.approx(7.28e-6, rel=2e-3)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_the_bound_of_a_uniform_model_is_log2_of_the_levels(num_levels):
    """A one-step chain whose p(x_0|x_1) is nearly flat *over bins of equal mass* exists for two levels; for more, the average of
    2^−bits over all levels is 1/num_levels for every decoder, since masses sum to 1: the same statement without a flat decoder."""
    process = GaussianDiffusion(CosineSchedule(1))
    zero = lambda x_t, timesteps, y: torch.zeros_like(x_t)  # noqa: E731
    reverse = ReverseProcess(zero, PredictStart(), FixedLarge())
    x_0 = torch.linspace(-1, 1, num_levels, dtype=torch.float64)[:, None]
    bound = variational_bound(
        process, reverse, x_0, num_levels=num_levels, noise=SampleNoise(0, torch.arange(num_levels))
    )
    assert float(torch.exp2(-bound.terms[:, 0]).mean()) == pytest.approx(1 / num_levels, rel=1e-9)
    if num_levels == 2:
        torch.testing.assert_close(bound.terms[:, 0], torch.ones(2, dtype=torch.float64))


def small_problem(num_timesteps=40):
    process = GaussianDiffusion(CosineSchedule(num_timesteps))
    reverse = ReverseProcess(ExactNetwork(DATA, process, PredictNoise()), PredictNoise(), FixedLarge())
    x_0 = (torch.randint(0, 17, (6, 5), generator=torch.Generator().manual_seed(0)) / 8 - 1).double()
    return process, reverse, x_0


def test_a_subset_of_terms_is_unbiased_and_keeps_l_0():
    process, reverse, x_0 = small_problem()
    draws = 400
    x_0 = x_0[:1].repeat(draws, 1)
    whole = variational_bound(process, reverse, x_0, num_levels=17, noise=SampleNoise(0, torch.arange(draws)))
    part = variational_bound(
        process, reverse, x_0, num_levels=17, noise=SampleNoise(1, torch.arange(draws)), max_terms=6
    )
    assert part.terms.shape == (draws, 6)
    assert (part.t[:, 0] == 1).all()
    assert part.weights.sum() == 40
    spread = math.sqrt(float(part.bits_per_dim.var() + whole.bits_per_dim.var()) / draws)
    assert abs(float(part.bits_per_dim.mean() - whole.bits_per_dim.mean())) < 4 * spread
    runs = [(float(low) + 1, float(high)) for low, high in pairwise([0, *part.weights.cumsum(0).tolist()])]
    for column, (low, high) in enumerate(runs):
        visited = part.t[:, column]
        assert low <= int(visited.min()) <= int(visited.max()) <= high
        assert len(visited.unique()) == high - low + 1  # every step of the run has its chance


def test_chains_share_the_noise_of_each_original_t():
    process, reverse, x_0 = small_problem()
    noise, kept = SampleNoise(7, torch.arange(len(x_0))), torch.tensor([2, 5, process.num_timesteps])
    whole = variational_bound(process, reverse, x_0, num_levels=17, noise=noise)
    strided = variational_bound(process.respace(kept), reverse, x_0, num_levels=17, noise=noise)
    torch.testing.assert_close(strided.eps_mse, whole.eps_mse[:, kept - 1], rtol=1e-9, atol=0)
    some = variational_bound(process, reverse, x_0, num_levels=17, noise=noise, max_terms=5)
    torch.testing.assert_close(some.eps_mse, whole.eps_mse.gather(1, some.t - 1), rtol=1e-9, atol=0)


def test_rows_do_not_depend_on_the_batch_they_are_scored_in():
    process, reverse, x_0 = small_problem()
    for max_terms in (None, 5):
        at_once = variational_bound(
            process, reverse, x_0, num_levels=17, noise=SampleNoise(7, torch.arange(6)), max_terms=max_terms
        )
        for i in range(6):
            alone = variational_bound(
                process,
                reverse,
                x_0[i : i + 1],
                num_levels=17,
                noise=SampleNoise(7, torch.tensor([i])),
                max_terms=max_terms,
            )
            torch.testing.assert_close(alone.bits_per_dim[0], at_once.bits_per_dim[i], rtol=1e-12, atol=0)


def test_the_standard_error_over_draws_is_the_spread():
    """The standard error over draws is the spread it claims."""
    process, reverse, x_0 = small_problem(10)
    x_0 = x_0[:1].repeat(300, 1)
    bound = variational_bound(
        process, reverse, x_0, num_levels=17, num_draws=8, noise=SampleNoise(3, torch.arange(300))
    )
    claimed = float(bound.standard_error.square().mean().sqrt())
    assert float(bound.bits_per_dim.std()) == pytest.approx(claimed, rel=0.15)
    single = variational_bound(process, reverse, x_0, num_levels=17, noise=SampleNoise(3, torch.arange(300)))
    assert torch.isnan(single.standard_error).all()


def test_errors_of_a_perfect_guess_are_zero():
    process = GaussianDiffusion(CosineSchedule(10))
    x_0 = torch.full((2, 3), 0.25, dtype=torch.float64)
    reverse = ReverseProcess(lambda x_t, timesteps, y: x_0, PredictStart(), FixedSmall())
    bound = variational_bound(process, reverse, x_0, num_levels=17)
    assert float(bound.x_0_mse.abs().max()) == 0
    assert float(bound.eps_mse.max()) < 1e-20
    assert float(bound.terms[:, 1:].abs().max()) < 1e-12


def test_no_image_is_kept_for_every_step():
    """Memory does not grow with T: when the network sees an x_t, those of earlier steps are gone."""
    process, reverse, _ = small_problem(200)
    seen: list[weakref.ref] = []
    alive: list[int] = []

    def network(x_t, timesteps, y):
        seen.append(weakref.ref(x_t))
        alive.append(sum(1 for ref in seen if ref() is not None))
        return reverse.network(x_t, timesteps, y)

    watched = ReverseProcess(network, PredictNoise(), FixedLarge())
    variational_bound(process, watched, torch.zeros(2, 8, dtype=torch.float64), num_levels=17)
    assert len(alive) == 200
    assert max(alive) <= 2


def test_one_term_is_too_few():
    process, reverse, x_0 = small_problem()
    with pytest.raises(ValueError, match="max_terms = 1"):
        variational_bound(process, reverse, x_0, num_levels=17, max_terms=1)


def test_the_bound_holds_in_expectation():
    """The bound holds in expectation and not for one draw.

    With the exact Σ the expectation is −log₂ p(x_0) on average over x_0: about half of single draws lie below it.
    """
    process = GaussianDiffusion(CosineSchedule(50))
    reverse = ReverseProcess(ExactNetwork(DATA, process, PredictNoise()), PredictNoise(), OptimalVariance(DATA), False)
    noise = SampleNoise(0, torch.arange(2000))
    x_0 = DATA.std * SampleNoise(1, torch.arange(2000)).initial((1,)).double()
    log_p = torch.distributions.Normal(0.0, DATA.std).log_prob(x_0)[:, 0] / math.log(2)
    gap = variational_bound(process, reverse, x_0, num_levels=None, noise=noise).bits_per_dim + log_p
    assert 0.3 < float((gap < 0).double().mean()) < 0.7
    assert float(gap.mean()) == pytest.approx(0, abs=4 * float(gap.std()) / 2000**0.5 + 1e-4)
    assert "≤ E[bits_per_dim]" in variational_bound.__doc__


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


def prior_gap_of_modes(schedule, spectrum: Tensor) -> float:
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
    expected = field.entropy_bits() + prior_gap_of_modes(process.schedule, spectrum)
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
            float(bound.bits_per_dim.mean())
            - field.entropy_bits()
            - prior_gap_of_modes(process.schedule, field.spectrum())
        )
    assert 0 < gaps[2] < 0.6 * gaps[1] < 0.4 * gaps[0]
    assert 2 * gaps[2] - gaps[1] == pytest.approx(0, abs=0.01)  # extrapolated to no step at all
