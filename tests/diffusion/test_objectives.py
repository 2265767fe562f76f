import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from diffusion_lab.diffusion import (
    ContinuousBound,
    CosineSchedule,
    EDMSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDecoder,
    GaussianDiffusion,
    Hybrid,
    LearnedRange,
    LevelDecoder,
    LinearSchedule,
    LogSNRSchedule,
    LossAwareTimesteps,
    PredictEDM,
    PredictFlow,
    Prediction,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    RectifiedSchedule,
    ReverseProcess,
    SampleNoise,
    Simple,
    StratifiedTimesteps,
    UniformTimesteps,
    VariationalBound,
    bound,
    variational_bound,
)

from .oracles import ExactNetwork, GaussianData, OptimalVariance, SigmaPoints, steps

PROCESS = GaussianDiffusion(CosineSchedule(20))


class TwoHeads(nn.Module):
    """A mean head and a variance head that share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.v = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()

    def forward(self, x_t, timesteps, y):
        return torch.cat([self.mean(x_t), self.v(x_t)], dim=1)


def batch(size=8):
    generator = torch.Generator().manual_seed(0)
    x_0 = (torch.randint(0, 17, (size, 2), generator=generator) / 8 - 1).double()
    eps = torch.randn(size, 2, dtype=torch.float64, generator=generator)
    return x_0, torch.arange(size) % 20 + 1, eps


def gradients(objective):
    network = TwoHeads()
    x_0, t, eps = batch()
    objective(PROCESS, ReverseProcess(network, PredictNoise(), LearnedRange()), x_0, t, eps)["loss"].mean().backward()
    size = lambda head: 0.0 if head.weight.grad is None else float(head.weight.grad.abs().sum())  # noqa: E731
    return size(network.mean), size(network.v)


def test_l_simple_gives_the_variance_half_no_gradient():
    mean, v = gradients(Simple())
    assert mean > 0
    assert v == 0


def test_the_bound_trains_both_halves():
    mean, v = gradients(VariationalBound(num_levels=17))
    assert mean > 0
    assert v > 0


def test_hybrids_bound_term_gives_the_mean_half_no_gradient():
    torch.manual_seed(0)
    network = TwoHeads()
    reverse = ReverseProcess(network, PredictNoise(), LearnedRange())
    x_0, t, eps = batch()
    terms = Hybrid(num_levels=17)(PROCESS, reverse, x_0, t, eps)
    terms["vlb"].mean().backward(retain_graph=True)
    assert network.mean.weight.grad is None or not network.mean.weight.grad.any()
    assert float(network.v.weight.grad.abs().sum()) > 0
    network.zero_grad()
    terms["loss"].mean().backward()
    of_hybrid = network.mean.weight.grad.clone()
    network.zero_grad()
    Simple()(PROCESS, reverse, x_0, t, eps)["loss"].mean().backward()
    torch.testing.assert_close(of_hybrid, network.mean.weight.grad)


def test_hybrid_is_simple_plus_a_thousandth_of_the_bound():
    x_0, t, eps = batch()
    reverse = ReverseProcess(TwoHeads(), PredictNoise(), LearnedRange())
    terms = Hybrid(num_levels=17)(PROCESS, reverse, x_0, t, eps)
    torch.testing.assert_close(terms["loss"], terms["mse"] + 0.001 * terms["vlb"])
    bound = VariationalBound(num_levels=17)(PROCESS, reverse, x_0, t, eps)
    torch.testing.assert_close(terms["vlb"], bound["loss"])


def test_l_simple_is_the_mean_square_error_a_dimension():
    x_0, t, eps = batch()
    zero = lambda x_t, timesteps, y: torch.zeros_like(x_t)  # noqa: E731
    terms = Simple()(PROCESS, ReverseProcess(zero, PredictNoise(), FixedSmall()), x_0, t, eps)
    torch.testing.assert_close(terms["mse"], eps.square().mean(dim=1))
    terms = Simple()(PROCESS, ReverseProcess(zero, PredictStart(), FixedSmall()), x_0, t, eps)
    torch.testing.assert_close(terms["loss"], x_0.square().mean(dim=1))


@pytest.mark.parametrize("objective", [Simple(), Hybrid(17), VariationalBound(17)], ids=lambda o: type(o).__name__)
def test_objectives_ignore_clipping(objective):
    x_0, t, eps = batch()
    network = lambda x_t, timesteps, y: torch.cat([x_t - 3, 0.1 * x_t], dim=1)  # noqa: E731
    losses = [
        objective(PROCESS, ReverseProcess(network, PredictNoise(), LearnedRange(), clip_x_0=clip), x_0, t, eps)
        for clip in (True, False)
    ]
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name])


def test_the_bound_term_is_the_papers_equation_8():
    """For Σ = σ²: L_{t−1} = ‖μ̃ − μ_θ‖²/(2σ²) + what does not depend on θ, times T and in bits."""
    x_0, _, eps = batch()
    t = steps(7, 8)
    x_t = PROCESS.q_sample(x_0, t, eps)
    network = ExactNetwork(GaussianData(), PROCESS, PredictNoise())
    reverse = ReverseProcess(network, PredictNoise(), FixedSmall(), clip_x_0=False)
    terms = VariationalBound(num_levels=17)(PROCESS, reverse, x_0, t, eps)
    gap = PROCESS.q_posterior(x_0, x_t, t).mean - reverse(PROCESS, x_t, t).distribution.mean
    sigma_2 = PROCESS.beta_tilde(t)[:, None]
    torch.testing.assert_close(
        terms["vlb"], 20 * (gap.square() / (2 * sigma_2)).mean(1) / math.log(2), rtol=1e-6, atol=0
    )
    alpha_bar, beta = PROCESS.alpha_bar(t)[:, None], PROCESS.beta(t)[:, None]
    of_eps = beta**2 / (2 * sigma_2 * (1 - beta) * (1 - alpha_bar))  # equation 12's weight
    expected = 20 * (of_eps * (eps - network(x_t, t - 1, None)).square()).mean(1) / math.log(2)
    torch.testing.assert_close(terms["vlb"], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("decoder", [GaussianDecoder(), LevelDecoder()], ids=repr)
def test_a_batch_of_mixed_t_has_l_0_where_t_is_1(decoder, every_row, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: every_row)  # then as on a GPU
    x_0, t, eps = batch(30)
    network = TwoHeads()
    reverse = ReverseProcess(network, PredictNoise(), LearnedRange())
    x_0 = 100 * x_0  # far out, where masses are 0
    loss = VariationalBound(17, decoder)(PROCESS, reverse, x_0, t, eps)["loss"]
    loss.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    for rows in (t == 1, t > 1):
        alone = VariationalBound(17, decoder)(PROCESS, reverse, x_0[rows], t[rows], eps[rows])["loss"]
        torch.testing.assert_close(loss[rows], alone)
    x_t, one = PROCESS.q_sample(x_0, t, eps)[t == 1], t[t == 1]
    step = reverse.without_clipping()(PROCESS, x_t, one).distribution
    l_0 = bound.last_term(PROCESS, step, x_0[t == 1], x_t, 17, decoder)
    torch.testing.assert_close(loss[t == 1], 20 * l_0)


def exhaustive(process, reverse, x_0):
    bound = variational_bound(
        process, reverse, x_0, num_levels=17, num_draws=10, noise=SampleNoise(5, torch.arange(len(x_0)))
    )
    return float(bound.terms.sum(dim=1).mean()), float(bound.standard_error.square().mean().sqrt()) / len(x_0) ** 0.5


@pytest.fixture(scope="module")
def chain():
    """A reverse process, data, and the exhaustive sum with its error."""
    network = ExactNetwork(GaussianData(), PROCESS, PredictNoise())
    reverse = ReverseProcess(network, PredictNoise(), FixedLarge(), clip_x_0=False)
    x_0 = (torch.randint(0, 17, (20, 2), generator=torch.Generator().manual_seed(0)) / 8 - 1).double()
    return reverse, x_0, *exhaustive(PROCESS, reverse, x_0)


@pytest.mark.parametrize("kind", [UniformTimesteps, StratifiedTimesteps, LossAwareTimesteps], ids=lambda k: k.__name__)
def test_the_mean_over_drawn_t_is_the_exhaustive_sum(kind, chain):
    """E_t[w·T·L_{t−1}] = Σ_t L_{t−1}: the units of L_vlb, and unbiased weights, importance-sampled too."""
    reverse, x_0, expected, expected_error = chain
    sampler = kind(20)
    objective = VariationalBound(num_levels=17)
    generator = torch.Generator().manual_seed(1)
    if sampler.learns_from_losses:
        for _ in range(10):
            t = torch.arange(1, 21)
            eps = torch.randn(20, 2, dtype=torch.float64, generator=generator)
            sampler.update(t, objective(PROCESS, reverse, x_0, t, eps)["loss"])
        assert float(sampler.probabilities.max()) > 3 / 20  # importance sampling is on
    batches = 600
    t, w = (torch.cat(parts) for parts in zip(*[sampler(20, generator) for _ in range(batches)], strict=True))
    eps = torch.randn(20 * batches, 2, dtype=torch.float64, generator=generator)
    loss = objective(PROCESS, reverse, x_0.repeat(batches, 1), t, eps)["loss"]
    means = (w * loss).reshape(batches, 20).mean(dim=1)
    error = math.sqrt(float(means.var()) / len(means) + expected_error**2)
    assert abs(float(means.mean()) - expected) < 4 * error
    assert error < 0.05 * expected  # tight enough for a factor to show


def test_what_objectives_say_of_themselves():
    assert [(o.reads_variance, o.trains_variance) for o in (Simple, Hybrid, VariationalBound)] == [
        (False, False),
        (True, True),
        (True, True),
    ]


@pytest.mark.parametrize("objective", [Simple(), Hybrid(num_levels=None), VariationalBound(num_levels=None)])
def test_missing_values_add_nothing_to_a_loss(objective):
    """Whatever stands in their place, no network output there has a gradient, and the rest is the mean over all dimensions."""
    x_0, t, eps = batch()
    known = torch.ones_like(x_0)
    known[::2, 1] = 0
    output = torch.randn(len(x_0), 4, dtype=torch.float64, requires_grad=True)
    reverse = ReverseProcess(lambda x_t, timesteps, y: output, PredictStart(), LearnedRange())
    terms = objective(PROCESS, reverse, x_0, t, eps, None, known)
    terms["loss"].sum().backward()
    assert not output.grad[::2, [1, 3]].any()
    assert output.grad[:, 0].all()
    first = objective(PROCESS, reverse, x_0, t, eps, None, known * torch.tensor([1.0, 0.0]))
    rest = objective(PROCESS, reverse, x_0, t, eps, None, known * torch.tensor([0.0, 1.0]))
    for name, term in terms.items():
        torch.testing.assert_close(term, first[name] + rest[name])
    whole = objective(PROCESS, reverse, x_0, t, eps)["loss"]
    torch.testing.assert_close(terms["loss"][1::2], whole[1::2])


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
