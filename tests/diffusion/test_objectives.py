import math

import pytest
import torch
from torch import nn

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    ErrorOf,
    FixedLarge,
    FixedSmall,
    GaussianDecoder,
    GaussianDiffusion,
    Hybrid,
    LearnedRange,
    LevelDecoder,
    LinearSchedule,
    LossAwareTimesteps,
    MinSNR,
    PredictEDM,
    PredictFlow,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    RectifiedSchedule,
    ReverseProcess,
    SampleNoise,
    SigmoidWeighting,
    Simple,
    StratifiedTimesteps,
    UniformTimesteps,
    VariationalBound,
    bound,
    variational_bound,
)

from .oracles import ExactNetwork, GaussianData, steps

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


@pytest.mark.parametrize(
    "prediction", [PredictNoise(), PredictStart(), PredictVelocity()], ids=lambda p: type(p).__name__
)
def test_min_snr_weighs_the_error_of_x_0(prediction):
    """Min snr weighs the error of x 0 the same for every prediction."""
    process = GaussianDiffusion(LinearSchedule(100))
    t = torch.arange(1, 101)
    x_0_weight = MinSNR(gamma=5.0).weight(process, prediction, t) * prediction.error_scale(process, t)
    torch.testing.assert_close(x_0_weight, process.snr(t).clamp(max=5.0))
    assert process.snr(t)[0] > 5 > process.snr(t)[-1]


def test_min_snr_of_a_noise_network():
    """Min snr of a noise network is one where there is more noise than gamma."""
    process = GaussianDiffusion(LinearSchedule(100))
    weight = MinSNR(gamma=5.0).weight(process, PredictNoise(), torch.tensor([1, 100]))
    assert float(weight[0]) == pytest.approx(5 / float(process.snr(torch.tensor([1]))))
    assert float(weight[1]) == 1.0


def test_edms_weighting_is_its_lambda():
    """Edms weighting is its lambda and one for its own prediction."""
    process, t = EDMSchedule(100), torch.linspace(1, 100, 30, dtype=torch.float64)
    sigma, weighting = process.sigma(t), ErrorOf(PredictEDM(0.5))
    expected = (sigma.square() + 0.25) / (0.5 * sigma).square()
    torch.testing.assert_close(weighting.weight(process, PredictStart(), t), expected)
    torch.testing.assert_close(weighting.weight(process, PredictEDM(0.5), t), torch.ones_like(sigma))


def test_the_sigmoid_weighting_is_on_the_error_of_eps():
    process, t = GaussianDiffusion(LinearSchedule(100)), torch.arange(1, 101)
    weight = SigmoidWeighting(bias=2.0).weight(process, PredictNoise(), t)
    torch.testing.assert_close(weight, 1 / (1 + (process.log_snr(t) - 2).exp()))


EVERY_PREDICTION = [PredictNoise(), PredictStart(), PredictVelocity(), PredictFlow(), PredictEDM(0.7)]


@pytest.mark.parametrize("schedule", [CosineSchedule(20), RectifiedSchedule(20), EDMSchedule(20)], ids=str)
@pytest.mark.parametrize("weighting", [MinSNR(), SigmoidWeighting(), ErrorOf(PredictEDM())], ids=str)
def test_networks_that_say_the_same_in_other_words(weighting, schedule):
    """Networks that say the same in other words have the same weighted loss.

    At whole and at real t: the network knows x_0 up to the same error and states it as what is asked of it.
    """
    x_0, whole, eps = batch()
    for process, t in ((GaussianDiffusion(schedule), whole), (schedule, whole.double().clamp(max=19) + 0.3)):
        guess = x_0 + 0.1 * x_0.roll(1, 0)
        x_t = process.q_sample(x_0, t, eps)
        signal, noise = (part[:, None] for part in process.pair(t))
        implied = (x_t - signal * guess) / noise
        losses = []
        for prediction in EVERY_PREDICTION:
            said = prediction.target(process, guess, implied, t)
            reverse = ReverseProcess(lambda image, timesteps, y, said=said: said, prediction, FixedSmall())
            losses.append(Simple(weighting)(process, reverse, x_0, t, eps)["loss"])
        expected = weighting.of_x_0(process, t) * (guess - x_0).square().mean(dim=1)
        for loss in losses:
            torch.testing.assert_close(loss, expected)


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
