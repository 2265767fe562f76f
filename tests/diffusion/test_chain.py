from dataclasses import dataclass

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    GaussianDiffusion,
    LinearSchedule,
    LogSNRSchedule,
    RectifiedSchedule,
    Schedule,
    SigmoidSchedule,
)
from diffusion_lab.sampling import EvenSpacing

from .oracles import CountOps, steps

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


def test_at_the_first_step_the_posterior_is_x_0():
    """At the first step the posterior is x 0 with the second steps variance."""
    process = GaussianDiffusion(LinearSchedule(1000))
    x_0, x_t = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    posterior = process.q_posterior(x_0, x_t, steps(1, 2))
    torch.testing.assert_close(posterior.mean, x_0)
    assert process.beta_tilde(steps(1, 1)) == 0
    assert float(posterior.log_variance[0]) == pytest.approx(float(process.beta_tilde(steps(2, 1)).log()), rel=1e-12)
    assert float(posterior.log_variance[0]) == pytest.approx(-9.817, abs=5e-4)


def test_a_chain_of_one_step_has_beta_for_its_clipped():
    """A chain of one step has beta for its clipped variance."""
    process = GaussianDiffusion(CosineSchedule(10)).respace(torch.tensor([10]))
    assert float(process.log_beta_tilde(steps(1, 1))) == pytest.approx(float(process.beta(steps(1, 1)).log()))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS[:3])
def test_respacing_to_all_steps_is_the_identity(process):
    same = process.respace(torch.arange(1, 51))
    t = torch.arange(1, 51)
    assert torch.equal(same.timesteps, process.timesteps)
    assert torch.equal(same.beta(t), process.beta(t))
    assert torch.equal(same.alpha_bar(t), process.alpha_bar(t))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS[:3])
def test_respaced_twice_equals_respaced_once(process):
    twice = process.respace(torch.tensor([2, 3, 10, 31, 40, 50])).respace(torch.tensor([1, 4, 6]))
    once = process.respace(torch.tensor([2, 31, 50]))
    t = torch.arange(1, 4)
    assert torch.equal(twice.timesteps, torch.tensor([1, 30, 49]))  # 0-based original indices
    assert torch.equal(twice.timesteps, once.timesteps)
    assert torch.equal(twice.alpha_bar(t), once.alpha_bar(t))
    assert torch.equal(twice.beta_tilde(t), once.beta_tilde(t))


def test_a_respaced_stride_has_the_variance():
    """A respaced stride has the variance of all the steps it covers."""
    process = GaussianDiffusion(LinearSchedule(50))
    strided = process.respace(torch.tensor([10, 50]))
    kept = 1 - process.beta(torch.arange(11, 51))
    assert float(strided.beta(steps(2, 1))) == pytest.approx(1 - float(kept.prod()), rel=1e-12)
    assert float(strided.beta(steps(1, 1))) == pytest.approx(1 - float(process.alpha_bar(steps(10, 1))), rel=1e-12)


@pytest.mark.parametrize("kept", [[], [0, 3], [3, 3], [5, 4], [1, 51]])
def test_an_impossible_subsequence_is_refused(kept):
    with pytest.raises(ValueError, match=r"strictly increasing within 1 … 50"):
        PROCESSES[0].respace(torch.tensor(kept, dtype=torch.int64))


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


def test_the_names_of_the_papers_follow_from_the_pair():
    process = GaussianDiffusion(CosineSchedule(60)).respace(EvenSpacing(9)(60))
    t = torch.arange(1, 10)
    alpha_bar, before = process.alpha_bar(t), process.alpha_bar(t - 1)
    torch.testing.assert_close(process.signal(t).square(), alpha_bar)
    torch.testing.assert_close(process.sigma(t).square(), 1 - alpha_bar)
    torch.testing.assert_close(process.beta(t), 1 - alpha_bar / before, rtol=1e-11, atol=0)
    torch.testing.assert_close(process.beta_tilde(t), (1 - before) / (1 - alpha_bar) * process.beta(t))
    torch.testing.assert_close(process.log_snr(t), (alpha_bar / (1 - alpha_bar)).log())


@pytest.mark.parametrize("schedule", [RectifiedSchedule(10), CosineSchedule(10), LinearSchedule(30)], ids=str)
def test_a_chain_over_real_times(schedule):
    real = torch.tensor([1.0, 2.5, 10.0], dtype=torch.float64)
    process = GaussianDiffusion(schedule)
    chain = process.respace(real)
    torch.testing.assert_close(chain.sigma(torch.arange(1, 4)), schedule.sigma(real))
    assert chain.network_time(torch.arange(1, 4)).tolist() == [0.0, 1.5, 9.0] == chain.timesteps.tolist()
    assert process.network_time(torch.arange(1, 4)).tolist() == [0, 1, 2]
    beyond = schedule.num_timesteps + 0.5
    with pytest.raises(ValueError, match=r"strictly increasing within 1 … "):
        process.respace(torch.tensor([2.0, beyond], dtype=torch.float64))


def test_one_step_is_looked_up_once():
    """One look-up serves all that is computed at one t; another tensor is looked up anew."""
    process = GaussianDiffusion(CosineSchedule(50))
    t, other = torch.tensor([3, 50]), torch.tensor([4, 2])
    with CountOps() as count:
        for of in (
            process.signal,
            process.sigma,
            process.beta,
            process.log_beta_tilde,
            process.beta_tilde,
            process.snr,
        ):
            of(t)
        process.q_posterior(torch.zeros(2, 1).double(), torch.zeros(2, 1).double(), t)
    assert count.gathers == 1
    for _ in range(2):
        assert process.beta(other).tolist() == [process.numbers(int(step)).beta for step in other]
        other += 1


def test_where_log_snr_does_not_fall():
    """Where log snr does not fall there is no gaussian step."""

    @dataclass(frozen=True)
    class Rising(Schedule):
        def alpha_bar(self):
            return torch.tensor([1.0, 0.5, 0.6], dtype=torch.float64)

    with pytest.raises(ValueError, match="log SNR does not decrease at step 2, so the step is not Gaussian"):
        GaussianDiffusion(Rising(2))


def test_the_prior_is_as_wide_as_the_noise_at_the_end():
    process = GaussianDiffusion(EDMSchedule(20))
    assert process.prior_std == 80
    x_0 = torch.full((2, 3), 0.5, dtype=torch.float64)
    expected = 0.5 * (0.5 / 80) ** 2  # KL(N(x_0, 80²) ‖ N(0, 80²))
    torch.testing.assert_close(process.prior_kl(x_0), torch.full_like(x_0, expected))


def test_a_step_changed_in_place_is_looked_up_anew():
    process = GaussianDiffusion(CosineSchedule(10))
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            t = torch.full((2,), 5)
            process.alpha_bar(t)
            t -= 4
            assert torch.equal(process.alpha_bar(t), process.alpha_bar(torch.tensor([1, 1])))


def test_what_inference_looked_up_is_not_kept_for_training():
    process, t = GaussianDiffusion(CosineSchedule(10)), torch.tensor([3, 7])
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        process.q_sample(torch.zeros(2, 3), t, torch.zeros(2, 3))
    process.q_sample(x, t, torch.zeros(2, 3, dtype=torch.float64)).sum().backward()


def test_chains_of_each_sample_have_no_step_before_the_first():
    process = GaussianDiffusion(CosineSchedule(10), torch.tensor([[1, 5], [2, 9]]))
    assert process.network_time(torch.tensor([1, 2])).tolist() == [0, 8]
    for wrong in (torch.tensor([0, 1]), torch.tensor([1, 3])):
        with pytest.raises(ValueError, match="is not within"):
            process.network_time(wrong)
