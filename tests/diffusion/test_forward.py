"""q(x_t|x_0), q(x_t|x_s) and q(x_s|x_t, x_0) follow from the pair (α_t, σ_t) and agree with one another."""

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    GaussianDiffusion,
    LinearSchedule,
    LogSNRSchedule,
    RectifiedSchedule,
    SigmoidSchedule,
)
from diffusion_lab.sampling import EvenSpacing

from .oracles import steps

PROCESSES = [GaussianDiffusion(s) for s in (LinearSchedule(50), CosineSchedule(50), SigmoidSchedule(50))]
RESPACED = [*PROCESSES, *[p.respace(EvenSpacing(7)(50)) for p in PROCESSES]]
IDS = ["linear", "cosine", "sigmoid", "linear respaced", "cosine respaced", "sigmoid respaced"]


@pytest.mark.parametrize("process", RESPACED, ids=IDS)
def test_iterating_q_step_gives_the_closed_forms_moments(process):
    """x_t is affine in (x_0, ε_1 … ε_t): one row a basis vector gives mean and variance without sampling."""
    K = process.num_timesteps
    x = torch.eye(K + 1, dtype=torch.float64)[:, :1]  # row 0 carries x_0 = 1, row s carries ε_s = 1
    for t in range(1, K + 1):
        eps = torch.eye(K + 1, dtype=torch.float64)[:, t : t + 1]
        x = process.q_step(x, steps(t, K + 1), eps)
        alpha_bar = float(process.alpha_bar(steps(t, 1)))
        assert float(x[0]) == pytest.approx(alpha_bar**0.5, rel=1e-12)
        assert float(x[1:].square().sum()) == pytest.approx(1 - alpha_bar, rel=1e-10)
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        assert float(process.q_sample(one, steps(t, 1), zero)) == pytest.approx(alpha_bar**0.5, rel=1e-12)
        assert float(process.q_sample(zero, steps(t, 1), one)) ** 2 == pytest.approx(1 - alpha_bar, rel=1e-12)
        marginal = process.q_marginal(one, steps(t, 1))
        assert float(marginal.mean) == pytest.approx(alpha_bar**0.5, rel=1e-12)
        assert float(marginal.log_variance.exp()) == pytest.approx(1 - alpha_bar, rel=1e-12)


@pytest.mark.parametrize("process", RESPACED, ids=IDS)
def test_the_posterior_is_bayes_rule(process):
    """q(x_{t−1}|x_t, x_0) ∝ q(x_t|x_{t−1})·q(x_{t−1}|x_0): precisions add, and means weigh by precision."""
    generator = torch.Generator().manual_seed(0)
    for t in range(2, process.num_timesteps + 1):
        x_0 = torch.randn(3, 2, dtype=torch.float64, generator=generator)
        x_t = torch.randn(3, 2, dtype=torch.float64, generator=generator)
        beta, alpha_bar_prev = process.beta(steps(t, 1)), process.alpha_bar(steps(t - 1, 1))
        likelihood, prior = (1 - beta) / beta, 1 / (1 - alpha_bar_prev)  # precisions of x_{t−1}
        precision = likelihood + prior
        mean = (likelihood * x_t / (1 - beta).sqrt() + prior * alpha_bar_prev.sqrt() * x_0) / precision
        posterior = process.q_posterior(x_0, x_t, steps(t, 3))
        torch.testing.assert_close(posterior.mean, mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(posterior.log_variance.exp().flatten(), (1 / precision).expand(3), rtol=1e-9, atol=0)
        torch.testing.assert_close(process.beta_tilde(steps(t, 1)), 1 / precision, rtol=1e-9, atol=0)


def test_shapes_and_dtypes_are_checked():
    """Shapes and dtypes are checked and images keep theirs."""
    process = PROCESSES[0]
    x_0 = torch.zeros(2, 3, 4, 4)
    assert process.q_sample(x_0, torch.tensor([1, 50]), torch.ones_like(x_0)).dtype == torch.float32
    assert process.alpha_bar(torch.tensor([0, 50])).dtype == torch.float64
    with pytest.raises(Exception, match="Type-check error"):
        process.q_sample(x_0, torch.tensor([1, 2, 3]), x_0)


PAIRS = [CosineSchedule(60), LogSNRSchedule(60), RectifiedSchedule(60), EDMSchedule(60)]


@pytest.mark.parametrize("schedule", PAIRS, ids=lambda s: type(s).__name__)
def test_iterated_steps_and_the_posterior(schedule):
    """Iterated steps and the posterior between any two times follow from the pair.

    x_t = α_ts·x_s + σ_ts·ε lands on q(x_t|x_0), and q(x_s|x_t, x_0) is Bayes' rule: precisions add.
    """
    process = GaussianDiffusion(schedule)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    mean, variance = one, zero
    for t in range(1, 61):
        mean = process.q_step(mean, steps(t, 1), zero)
        variance = process.q_step(variance.sqrt(), steps(t, 1), zero).square() + process.beta(steps(t, 1))
        assert float(mean) == pytest.approx(float(process.signal(steps(t, 1))), rel=1e-9)
        assert float(variance) == pytest.approx(float(process.sigma(steps(t, 1))) ** 2, rel=1e-8)
    generator = torch.Generator().manual_seed(0)
    x_0, x_t = (torch.randn(3, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    for s, t in ((1, 2), (7, 30), (30, 60)):
        (a_s, n_s), (a_t, n_t) = (tuple(float(v) for v in process.pair(steps(i, 1))) for i in (s, t))
        a_ts, v_ts = a_t / a_s, n_t**2 - (a_t / a_s * n_s) ** 2
        precision = a_ts**2 / v_ts + 1 / n_s**2
        posterior = process.q_posterior(x_0, x_t, steps(t, 3), steps(s, 3))
        torch.testing.assert_close(posterior.mean, (a_ts / v_ts * x_t + a_s / n_s**2 * x_0) / precision)
        torch.testing.assert_close(posterior.log_variance.exp(), torch.full((3, 1), 1 / precision).double())
        # A chain over the two times knows it as its own last step.
        own = process.respace(torch.tensor([s, t])).q_posterior(x_0, x_t, steps(2, 3))
        torch.testing.assert_close(own.mean, posterior.mean)
        torch.testing.assert_close(own.log_variance, posterior.log_variance)


def test_the_prior_is_as_wide_as_the_noise_at_the_end():
    process = GaussianDiffusion(EDMSchedule(20))
    assert process.prior_std == 80
    x_0 = torch.full((2, 3), 0.5, dtype=torch.float64)
    expected = 0.5 * (0.5 / 80) ** 2  # KL(N(x_0, 80²) ‖ N(0, 80²))
    torch.testing.assert_close(process.prior_kl(x_0), torch.full_like(x_0, expected))


@pytest.mark.parametrize("schedule", PAIRS, ids=lambda s: type(s).__name__)
def test_a_schedule_has_steps_between_real_times(schedule):
    """A step from any s to t ends at q(x_t|x_0), and equals that of the chain over the two times."""
    s, t = torch.tensor([1.0, 7.5, 30.25]).double(), torch.tensor([2.0, 30.25, 60.0]).double()
    x_0, eps, eps_s = torch.randn(3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    zero = torch.zeros_like(x_0)
    torch.testing.assert_close(
        schedule.q_step(schedule.q_sample(x_0, s, zero), t, zero, s), schedule.q_sample(x_0, t, zero)
    )
    spread = schedule.q_step(schedule.q_sample(zero, s, zero + 1), t, zero, s), schedule.q_step(zero, t, zero + 1, s)
    torch.testing.assert_close(spread[0].square() + spread[1].square(), schedule.q_sample(zero, t, zero + 1).square())
    chain = GaussianDiffusion(schedule, torch.stack([s, t], dim=1))
    x_s = schedule.q_sample(x_0, s, eps_s)
    x_t = schedule.q_step(x_s, t, eps, s)
    torch.testing.assert_close(chain.q_step(x_s, steps(2, 3), eps), x_t)
    own, general = chain.q_posterior(x_0, x_t, steps(2, 3)), schedule.q_posterior(x_0, x_t, t, s)
    torch.testing.assert_close(own.mean, general.mean)
    torch.testing.assert_close(own.log_variance, general.log_variance)
    whole = torch.tensor([2.0, 31.0, 60.0]).double()
    before = schedule.q_posterior(x_0, x_t, whole)  # by default s = t − 1
    torch.testing.assert_close(before.mean, GaussianDiffusion(schedule).q_posterior(x_0, x_t, whole.long()).mean)
