import math
from itertools import pairwise

import pytest
import torch

from diffusion_lab.diffusion import (
    ContinuousBound,
    CosineSchedule,
    EDMSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDecoder,
    GaussianDiffusion,
    LevelDecoder,
    LinearSchedule,
    LogSNRSchedule,
    LowDiscrepancyTimesteps,
    PredictEDM,
    PredictFlow,
    Prediction,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    RectifiedSchedule,
    ReverseProcess,
    VariationalBound,
    variational_bound,
)

from .oracles import ExactNetwork, GaussianData, OptimalVariance, SigmaPoints

DATA = GaussianData(0.0, 0.5)
ENDS = {"log_snr_max": 8.0, "log_snr_min": -6.0}


class ShownTime(PredictEDM):
    """EDM's output of a network that sees x_t and t − 1, as the exact one does."""

    inputs = Prediction.inputs


REAL = [
    LogSNRSchedule(100, **ENDS),
    LogSNRSchedule(3, **ENDS),
    RectifiedSchedule(100, **ENDS),
    EDMSchedule(100, sigma_min=math.exp(-4), sigma_max=math.exp(3)),
    CosineSchedule(100, **ENDS),
    LinearSchedule(100, **ENDS),
]
PREDICTIONS = [PredictNoise(), PredictStart(), PredictVelocity(), PredictFlow(), ShownTime(0.3)]


NOISE, LEVELS = PredictNoise(), LevelDecoder()


def continuous(schedule, prediction=NOISE, decoder=LEVELS, believed=DATA, num_t=9900):
    """The mean of the objective over (x_0, ε), exactly, and over t, by the midpoint rule between whole t; in bits/dim."""
    variance = FixedSmall() if isinstance(decoder, LevelDecoder) else OptimalVariance(DATA)
    reverse = ReverseProcess(ExactNetwork(believed, schedule, prediction), prediction, variance)
    points = SigmaPoints.x_0(DATA)
    t = 1 + (torch.arange(num_t, dtype=torch.float64) + 0.5) / num_t * (schedule.num_timesteps - 1)
    x_0, eps = points.repeat(num_t, 1), SigmaPoints()(0, points).repeat(num_t, 1)
    objective = ContinuousBound(num_levels=None, decoder=decoder)
    return float(objective(schedule, reverse, x_0, t.repeat_interleave(4), eps)["loss"].mean())


def information(snr):
    """I(x_0; x_t), bits."""
    return 0.5 * math.log2(1 + DATA.std**2 * snr)


def prior_bits(schedule):
    return float(GaussianDiffusion(schedule).prior_kl(SigmaPoints.x_0(DATA)).mean()) / math.log(2)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("schedule", REAL, ids=str)
def test_with_the_exact_denoiser_it_is_the_information(schedule, prediction):
    """With the exact denoiser it is the information between the ends whatever schedule and prediction."""
    between = information(math.exp(8)) - information(math.exp(-6))
    last_step = 0.5 * math.log2(2 * math.pi * math.e * math.exp(-8))  # the density N(x_0; x_1/α_1, σ_1²/α_1²)
    expected = between + last_step + prior_bits(schedule)
    assert continuous(schedule, prediction) == pytest.approx(expected, abs=2e-4)


def test_with_the_exact_last_step_the_bound():
    """With the exact last step the bound is the entropy and what the prior misses.

    H(x_0) + KL(q(x_T) ‖ p(x_T)): the gap between L_T and this KL is I(x_0; x_T).
    """
    schedule = REAL[0]
    bound = continuous(schedule, decoder=GaussianDecoder())
    missed = prior_bits(schedule) - information(math.exp(-6))
    assert bound == pytest.approx(DATA.entropy_bits + missed, abs=2e-4)


@pytest.mark.parametrize("believed", [GaussianData(0.2, 0.3), GaussianData(0.0, 1.5)], ids=str)
def test_a_wrong_denoiser_costs_the_same(believed):
    """A wrong denoiser costs the same on every schedule between the same ends. VDM, section 5.1."""
    costs = [continuous(schedule, believed=believed) - prior_bits(schedule) for schedule in REAL]
    assert min(costs) > continuous(REAL[0]) - prior_bits(REAL[0]) + 0.01
    assert costs == pytest.approx([costs[0]] * len(costs), abs=5e-4)


def test_the_bound_of_more_and_more_steps_falls_to_it():
    def discrete(num_timesteps):
        process = GaussianDiffusion(LogSNRSchedule(num_timesteps, **ENDS))
        reverse = ReverseProcess(
            ExactNetwork(DATA, process, PredictNoise()), PredictNoise(), FixedSmall(), clip_x_0=False
        )
        bound = variational_bound(
            process, reverse, SigmaPoints.x_0(DATA), None, None, noise=SigmaPoints(), decoder=LevelDecoder()
        )
        return float(bound.bits_per_dim.mean())

    gaps = [discrete(steps) - continuous(REAL[0]) for steps in (10, 40, 160)]
    assert all(0 < after < before for before, after in pairwise(gaps))
    assert gaps[-2] / gaps[-1] == pytest.approx(4, rel=0.15)  # of first order in the step


def test_it_is_l_vlb_of_many_steps_for_any_network():
    """It is l vlb of many steps for any network and for data with levels."""
    schedule = LogSNRSchedule(2000, log_snr_max=6.0, log_snr_min=-6.0)
    process = GaussianDiffusion(schedule)
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 4).double()
    reverse = ReverseProcess(lambda x_t, t, y: network(x_t), PredictVelocity(), FixedLarge(), clip_x_0=False)
    t = torch.arange(1, 2001)
    x_0 = (torch.randint(0, 17, (1, 4)) / 8 - 1).double().expand(2000, -1)
    eps = torch.randn(2000, 4, dtype=torch.float64)
    with torch.no_grad():
        limit = ContinuousBound(17)(schedule, reverse, x_0, t.double(), eps)["vlb"].mean()
        steps = VariationalBound(17, LevelDecoder())(process, reverse, x_0, t, eps)["vlb"].mean()
        # L_0 of the sum is that of one ε, of the integral that of all: compare with the same. The sum has no L_T.
        first, prior = variational_l_0(process, x_0, eps), process.prior_kl(x_0).mean() / math.log(2)
    assert float(limit - prior - first.mean()) == pytest.approx(float(steps - first[0]), rel=0.01)


def variational_l_0(process, x_0, eps):
    first = torch.ones(len(x_0), dtype=torch.int64)
    x_1 = process.q_sample(x_0, first, eps)
    return -LevelDecoder().log_prob(process, None, x_0, x_1, 17).mean(dim=1) / math.log(2)


@pytest.mark.parametrize(
    ("decoder", "looks"), [(LevelDecoder(), 1), (GaussianDecoder(), 2)], ids=["levels", "gaussian"]
)
def test_only_a_decoder_with_parameters_looks_a_second(decoder, looks):
    """Only a decoder with parameters looks a second time and reads the variance."""
    network = ExactNetwork(DATA, REAL[0], PredictNoise())
    objective = ContinuousBound(17, decoder)
    x_0 = SigmaPoints.x_0(DATA)
    objective(REAL[0], ReverseProcess(network, PredictNoise(), FixedSmall()), x_0, torch.full((4,), 7.5).double(), x_0)
    assert len(network.seen) == looks
    assert objective.reads_variance == (looks == 2)
    assert not objective.trains_variance


@pytest.mark.parametrize("schedule", REAL, ids=str)
def test_the_slope_of_log_snr_is_its_difference_quotient(schedule):
    t, h = torch.linspace(1.1, schedule.num_timesteps - 0.1, 9).double(), 1e-4
    with torch.inference_mode():  # as in validation
        slope = schedule.log_snr_slope(t.clone())
    expected = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)


def test_a_batch_of_low_discrepancy_is_an_even_grid():
    """A batch of low discrepancy is an even grid with one random number."""
    generator = torch.Generator().manual_seed(0)
    sampler = LowDiscrepancyTimesteps(101, real=True)
    shifts = []
    for _ in range(3):
        t, w = sampler(8, generator)
        assert bool((w == 1).all())
        ordered = t.sort().values
        torch.testing.assert_close(ordered.diff(), torch.full((7,), 12.5, dtype=torch.float64))
        assert not torch.equal(ordered, t)
        shifts.append(float(ordered[0]))
    assert len(set(shifts)) == 3
    assert all(1 <= shift < 13.5 for shift in shifts)
    whole, _ = LowDiscrepancyTimesteps(8)(8, generator)
    assert sorted(whole.tolist()) == list(range(1, 9))
