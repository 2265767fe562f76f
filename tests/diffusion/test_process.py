import pytest
import torch

from diffusion_lab.diffusion import CosineSchedule, EvenSpacing, GaussianDiffusion, LinearSchedule, SigmoidSchedule

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


def test_at_the_first_step_the_posterior_is_x_0_with_the_second_steps_variance():
    process = GaussianDiffusion(LinearSchedule(1000))
    x_0, x_t = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    posterior = process.q_posterior(x_0, x_t, steps(1, 2))
    torch.testing.assert_close(posterior.mean, x_0)
    assert process.beta_tilde(steps(1, 1)) == 0
    assert float(posterior.log_variance[0]) == pytest.approx(float(process.beta_tilde(steps(2, 1)).log()), rel=1e-12)
    assert float(posterior.log_variance[0]) == pytest.approx(-9.817, abs=5e-4)


def test_a_chain_of_one_step_has_beta_for_its_clipped_variance():
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


def test_a_respaced_stride_has_the_variance_of_all_the_steps_it_covers():
    process = GaussianDiffusion(LinearSchedule(50))
    strided = process.respace(torch.tensor([10, 50]))
    kept = 1 - process.beta(torch.arange(11, 51))
    assert float(strided.beta(steps(2, 1))) == pytest.approx(1 - float(kept.prod()), rel=1e-12)
    assert float(strided.beta(steps(1, 1))) == pytest.approx(1 - float(process.alpha_bar(steps(10, 1))), rel=1e-12)


@pytest.mark.parametrize("kept", [[], [0, 3], [3, 3], [5, 4], [1, 51]])
def test_an_impossible_subsequence_is_refused(kept):
    with pytest.raises(ValueError, match=r"strictly increasing within 1 … 50"):
        PROCESSES[0].respace(torch.tensor(kept, dtype=torch.int64))


def test_shapes_and_dtypes_are_checked_and_images_keep_theirs():
    process = PROCESSES[0]
    x_0 = torch.zeros(2, 3, 4, 4)
    assert process.q_sample(x_0, torch.tensor([1, 50]), torch.ones_like(x_0)).dtype == torch.float32
    assert process.alpha_bar(torch.tensor([0, 50])).dtype == torch.float64
    with pytest.raises(Exception, match="Type-check error"):
        process.q_sample(x_0, torch.tensor([1, 2, 3]), x_0)
