import math

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
    variational_bound,
)
from diffusion_lab.sampling import AncestralSampler, ClassifierGuidance, DDIMSampler, EvenSpacing, Unguided

MEANS, STD, WEIGHTS = torch.tensor([-0.6, 0.5], dtype=torch.float64), 0.2, torch.tensor([0.3, 0.7], dtype=torch.float64)


FULL = GaussianDiffusion(CosineSchedule(200))


def log_joint(x_t, timesteps):
    """log π_k + log q(x_t|k), (B, 2): a component's x_t is N(√ᾱ·μ_k, ᾱ·s² + 1 − ᾱ)."""
    alpha_bar = FULL.alpha_bar(timesteps + 1)[:, None]
    variance = alpha_bar * STD**2 + 1 - alpha_bar
    return WEIGHTS.log() - 0.5 * ((x_t - alpha_bar.sqrt() * MEANS).square() / variance + variance.log())


def exact_network(x_t, timesteps, y):
    """E[ε|x_t] of the whole mixture."""
    alpha_bar = FULL.alpha_bar(timesteps + 1)[:, None]
    variance = alpha_bar * STD**2 + 1 - alpha_bar
    eps = (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * MEANS) / variance
    return (log_joint(x_t, timesteps).softmax(1) * eps).sum(1, keepdim=True)


def guided_samples(scale, sampler, variance=None, n=600):
    """x_0 of n samples of each class, float64 (2, n)."""
    reverse = ReverseProcess(exact_network, PredictNoise(), variance or FixedSmall(), clip_x_0=False)
    guidance = ClassifierGuidance(log_joint, num_classes=2, scale=scale)
    noise = SampleNoise(1, torch.arange(2 * n))
    y = torch.arange(2 * n) % 2
    with torch.no_grad():
        x_0 = sampler(FULL, guidance.around(reverse), noise.initial((1,)).double(), y, noise)[:, 0]
    return torch.stack([x_0[y == 0], x_0[y == 1]])


@pytest.mark.parametrize("sampler", [AncestralSampler(EvenSpacing(100)), DDIMSampler(EvenSpacing(100))], ids=str)
def test_an_exact_classifier_at_scale_1_gives_the_law(sampler):
    """An exact classifier at scale 1 gives the law of the class.

    Bayes' rule: frequencies, means and spreads are those of the component that was asked for.
    """
    samples = guided_samples(1.0, sampler)
    for k in range(2):
        right = (samples[k] - MEANS[k]).abs() < (samples[k] - MEANS[1 - k]).abs()
        assert float(right.double().mean()) > 0.98  # the components overlap by 0.3 %, and n = 600
        assert float(samples[k].mean()) == pytest.approx(float(MEANS[k]), abs=0.04)  # 5 standard errors of 0.2/√600
        assert float(samples[k].std()) == pytest.approx(STD, rel=0.12)


def test_without_the_classifier_the_law_is_the_mixtures():
    samples = guided_samples(0.0, DDIMSampler(EvenSpacing(100)))
    assert float((samples > 0).double().mean()) == pytest.approx(0.7, abs=0.07)
    assert float(samples.mean()) == pytest.approx(float(WEIGHTS @ MEANS), abs=0.08)


@pytest.mark.parametrize("sampler", [DDIMSampler(EvenSpacing(50))], ids=str)
def test_more_guidance_makes_the_classifier_surer(sampler):
    sure = []
    for scale in (0.0, 0.5, 1.0, 2.0):
        samples = guided_samples(scale, sampler, n=300)
        at_the_end = torch.zeros(300, dtype=torch.int64)
        log_p = [log_joint(samples[k][:, None], at_the_end).log_softmax(1)[:, k] for k in range(2)]
        sure.append(float(torch.stack(log_p).mean()))
    assert sure == sorted(sure)
    assert sure[-1] > sure[0] + 0.1


def test_a_classifier_shifts_the_mean_by_the_respaced():
    """A classifier shifts the mean by the respaced variance and eps by its noise level."""
    strided = FULL.respace(EvenSpacing(20)(200))
    seen = []

    def slope(x, timesteps):
        """log p(y|x) = ±x/2 − log(2 cosh(x/2)); the gradient at x = 0 is ±1/2."""
        seen.append(timesteps)
        return torch.cat([x / 2, -x / 2], dim=1)

    reverse = ReverseProcess(exact_network, PredictNoise(), FixedLarge(), clip_x_0=False)
    x, t, y = torch.zeros(2, 1, dtype=torch.float64), torch.tensor([10, 20]), torch.tensor([0, 1])
    plain = reverse(strided, x, t)
    guided = ClassifierGuidance(slope, num_classes=2, scale=3.0).around(reverse)(strided, x, t, y)
    gradient = torch.tensor([[0.5], [-0.5]], dtype=torch.float64)
    variance, alpha_bar = strided.beta(t)[:, None], strided.alpha_bar(t)[:, None]
    torch.testing.assert_close(guided.distribution.mean - plain.distribution.mean, 3 * variance * gradient)
    torch.testing.assert_close(guided.eps - plain.eps, -3 * (1 - alpha_bar).sqrt() * gradient)
    torch.testing.assert_close(
        alpha_bar.sqrt() * guided.x_0 + (1 - alpha_bar).sqrt() * guided.eps, x, rtol=0, atol=1e-12
    )
    assert seen[0].tolist() == (EvenSpacing(20)(200)[t - 1] - 1).tolist()


def test_a_classifier_keeps_images_in_range():
    """A classifier keeps images in range and needs no gradient outside."""
    classifier = ClassifierGuidance(lambda x, timesteps: torch.cat([9 * x, -9 * x], dim=1), num_classes=2, scale=50.0)
    reverse = ReverseProcess(exact_network, PredictNoise(), FixedSmall(), clip_x_0=True)
    with torch.no_grad():
        look = classifier.around(reverse)(FULL, torch.zeros(2, 1), torch.tensor([5, 200]), torch.tensor([0, 1]))
    assert float(look.x_0.abs().max()) <= 1
    assert not look.eps.requires_grad


def test_the_bound_of_a_guided_chain_knows_the_class():
    """The plain chain does not, and pays −log2 π_k for it: −log p(x_0) = −log p(x_0|y) − log π_k where classes are far apart."""
    reverse = ReverseProcess(exact_network, PredictNoise(), FixedLarge(), clip_x_0=False)
    x_0 = (MEANS[0] + STD * SampleNoise(2, torch.arange(400)).initial((1,))).double()
    y = torch.zeros(400, dtype=torch.int64)
    guidance = ClassifierGuidance(log_joint, num_classes=2)
    bits, chain = [], FULL.respace(EvenSpacing(50)(200))
    for p in (Unguided().around(reverse), guidance.around(reverse)):
        noise = SampleNoise(3, torch.arange(400))
        bits.append(variational_bound(chain, p, x_0, y, num_levels=None, noise=noise).bits_per_dim.mean())
    assert float(bits[0] - bits[1]) == pytest.approx(-math.log2(0.3), abs=0.15)
