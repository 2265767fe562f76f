"""Against a linear Gaussian model, x = a·z + s·ε, where p(x) and p(z|x) are known in closed form."""

import math

import pytest
import torch

from diffusion_lab.diffusion import Gaussian
from diffusion_lab.families.flow.couplings import standard_normal_log_prob
from diffusion_lab.families.vae.elbo import importance_weighted, log_weight, paid_rate, rate

A, S = 1.5, 0.4  # of p(x|z) = N(a·z, s²); so p(x) = N(0, a² + s²)
X = torch.tensor([[0.3], [-1.7], [2.4], [0.0]], dtype=torch.float64)


def gaussian(mean, std):
    return Gaussian(mean, torch.full_like(mean, 2 * math.log(std)))


def optimal():
    """p(z|x) = N(a·x/(a² + s²), s²/(a² + s²))."""
    return gaussian(A * X / (A**2 + S**2), S / math.sqrt(A**2 + S**2))


def log_p():
    return gaussian(torch.zeros_like(X), math.sqrt(A**2 + S**2)).log_prob(X)[:, 0]


def elbo(posterior):
    """−rate − distortion in closed form: E_q (x − a·z)² = (x − a·μ)² + a²·σ²."""
    error = (X - A * posterior.mean).square() + A**2 * posterior.log_variance.exp()
    distortion = 0.5 * (math.log(2 * math.pi * S**2) + error / S**2)
    return -(rate(posterior) + distortion)[:, 0]


def bound_of(posterior, num_draws, repeats=1):
    """(repeats, 4): so many independent bounds for each x."""
    repeated = Gaussian(*(part.repeat(repeats, 1) for part in (posterior.mean, posterior.log_variance)))
    generator, log_weights = torch.Generator().manual_seed(0), []
    for _ in range(num_draws):
        z = repeated.sample(torch.randn(repeated.mean.shape, generator=generator, dtype=X.dtype))
        prior = standard_normal_log_prob(z)
        log_weights.append(log_weight(repeated, z, prior, gaussian(A * z, S).log_prob(X.repeat(repeats, 1))[:, 0]))
    return importance_weighted(torch.stack(log_weights)).view(repeats, len(X))


def test_the_rate_is_the_kl_to_the_standard_normal():
    posterior = Gaussian(torch.randn(3, 5), torch.randn(3, 5))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )
    torch.testing.assert_close(rate(posterior), expected)
    assert not rate(Gaussian(torch.zeros(3, 5), torch.zeros(3, 5))).any()


def test_with_the_optimal_posterior_every_bound_is_log_p():
    torch.testing.assert_close(elbo(optimal()), log_p())
    for num_draws in (1, 7):
        torch.testing.assert_close(bound_of(optimal(), num_draws)[0], log_p())


@pytest.mark.parametrize("std", [0.2, 0.5])
def test_elbo_below_importance_weighted_below_log_p(std):
    """Elbo below importance weighted below log p and it converges. The optimal standard deviation is 0.26."""
    posterior = gaussian(optimal().mean + 0.1, std)
    bounds = [bound_of(posterior, num_draws, repeats=20_000) for num_draws in (1, 4, 32)]
    errors = [bound.std(0) / math.sqrt(len(bound)) for bound in bounds]
    assert ((bounds[0].mean(0) - elbo(posterior)).abs() < 4 * errors[0]).all()
    gaps = [log_p() - elbo(posterior), *(log_p() - bound.mean(0) for bound in bounds[1:])]
    assert (gaps[0] > 2 * gaps[1]).all()
    assert (gaps[1] > 2 * gaps[2]).all()
    assert (gaps[2] > -4 * errors[2]).all()
    torch.testing.assert_close(bound_of(posterior, 4_000)[0], log_p(), rtol=0, atol=0.05)


def test_the_bound_is_highest_at_the_optimal_posterior():
    mean = torch.zeros_like(X, requires_grad=True)
    log_variance = torch.zeros_like(X, requires_grad=True)
    optimizer = torch.optim.LBFGS([mean, log_variance], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -elbo(Gaussian(mean, log_variance)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(mean.detach(), optimal().mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_variance.detach(), optimal().log_variance, rtol=1e-4, atol=1e-5)


def test_the_first_bits_of_a_dimension_are_free():
    """Dimension 0 passes the floor and pays all; dimension 1 costs the floor and gets no gradient."""
    rates = torch.tensor([[0.5, 0.0], [1.5, 0.2]], requires_grad=True)
    paid = paid_rate(rates, 0.25)
    assert float(paid.detach()) == pytest.approx(1.0 + 0.25)
    paid.backward()
    assert rates.grad.tolist() == [[0.5, 0.0], [0.5, 0.0]]
    assert float(paid_rate(rates.detach(), 0.0)) == pytest.approx(float(rates.detach().mean(0).sum()))
    assert float(paid_rate(-torch.ones(4, 1), 0.0)) == -1


def test_ranks_together_pay_what_one_would():
    """Value where a dimension pays, and gradient everywhere, are means over ranks of those of the whole batch."""
    rates = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    whole = rates.clone().requires_grad_()
    paid_rate(whole, 0.5).backward()
    parts = rates.clone().requires_grad_()
    for rank in range(2):
        (paid_rate(parts[4 * rank : 4 * rank + 4], 0.5, rates.mean(0)) / 2).backward()
    assert 0 < int((whole.grad == 0).sum()) < whole.numel()
    torch.testing.assert_close(parts.grad, whole.grad)
