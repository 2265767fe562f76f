"""Guidance: identities of classifier-free guidance, and a mixture whose classifier is exact."""

import math

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    LearnedRange,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
    variational_bound,
)
from diffusion_lab.sampling import (
    AncestralSampler,
    ClassifierFree,
    ClassifierGuidance,
    DDIMSampler,
    EvenSpacing,
    Unguided,
)

PREDICTIONS = [PredictNoise(), PredictStart(), PredictVelocity()]
NULL = 3
X_T = SampleNoise(5, torch.arange(6)).initial((2,)).double()
Y = torch.tensor([0, 1, 2, 0, 1, 2])
T_6 = torch.tensor([1, 2, 10, 30, 49, 50])


class Labelled:
    """A network whose outputs, mean half and variance half, depend on x_t, t and the label in no simple way."""

    def __init__(self):
        self.rows = []

    def __call__(self, x_t, timesteps, y):
        self.rows.append(len(x_t))
        code = (1.0 + y.double() + timesteps.double() / 50)[:, None]
        return torch.cat([torch.tanh(x_t * code) + 0.3 * code, torch.sin(code * x_t)], dim=1)


def labelled(prediction, clip=False):
    network = Labelled()
    return network, ReverseProcess(network, prediction, LearnedRange(), clip_x_0=clip, null=NULL)


PROCESS = GaussianDiffusion(CosineSchedule(50))


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
@pytest.mark.parametrize("clip", [False, True])
def test_scale_1_is_the_conditional_model(prediction, clip):
    """Scale 1 is the conditional model and 0 the unconditional one with one evaluation."""
    network, reverse = labelled(prediction, clip)
    for scale, y in ((1.0, Y), (0.0, torch.full_like(Y, NULL))):
        network.rows.clear()
        guided = ClassifierFree(scale).around(reverse)(PROCESS, X_T, T_6, Y)
        assert network.rows == [6]
        plain = reverse(PROCESS, X_T, T_6, y)
        for name in ("x_0", "eps", "output"):
            assert torch.equal(getattr(guided, name), getattr(plain, name))
        assert torch.equal(guided.distribution.mean, plain.distribution.mean)
        assert torch.equal(guided.distribution.log_variance, plain.distribution.log_variance)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
def test_combining_outputs_is_combining_eps(prediction):
    """Combining outputs is combining eps and x 0 whatever the network predicts."""
    _, reverse = labelled(prediction)
    conditional = reverse(PROCESS, X_T, T_6, Y)
    unconditional = reverse(PROCESS, X_T, T_6, torch.full_like(Y, NULL))
    for scale in (0.5, 3.0):
        guided = ClassifierFree(scale).around(reverse)(PROCESS, X_T, T_6, Y)
        for name in ("eps", "x_0"):
            towards, away = getattr(conditional, name), getattr(unconditional, name)
            torch.testing.assert_close(getattr(guided, name), away + scale * (towards - away), rtol=1e-9, atol=1e-9)


def test_guidance_acts_on_the_mean_half():
    """Guidance acts on the mean half and leaves the variance of the conditional branch."""
    _, reverse = labelled(PredictVelocity())
    conditional = reverse(PROCESS, X_T, T_6, Y).distribution
    guided = ClassifierFree(4.0).around(reverse)(PROCESS, X_T, T_6, Y).distribution
    assert torch.equal(guided.log_variance, conditional.log_variance)
    assert float((guided.mean - conditional.mean).abs().min()) > 1e-4


def test_both_branches_are_one_batched_call():
    network, reverse = labelled(PredictVelocity())
    ClassifierFree(2.0).around(reverse)(PROCESS, X_T, T_6, Y)
    assert network.rows == [12]


def test_clipping_comes_after_the_combination():
    _, reverse = labelled(PredictVelocity(), clip=True)
    free = ClassifierFree(3.0).around(reverse.without_clipping())(PROCESS, X_T, T_6, Y).x_0
    clipped = ClassifierFree(3.0).around(reverse)(PROCESS, X_T, T_6, Y).x_0
    assert float(free.abs().max()) > 1
    torch.testing.assert_close(clipped, free.clamp(-1, 1))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_an_interval_is_of_the_original_t(scale):
    """An interval is of the original t and the conditional model is what is outside."""
    network, reverse = labelled(PredictNoise())
    strided = PROCESS.respace(torch.tensor([1, 10, 20, 30, 50]))
    t = torch.tensor([1, 2, 3, 4, 5, 3])  # 1, 10, 20, 30, 50, 20 of the original chain
    somewhere = ClassifierFree(scale, interval=[10, 30]).around(reverse)(strided, X_T, t, Y).output
    everywhere = ClassifierFree(scale).around(reverse)(strided, X_T, t, Y).output
    conditional = reverse(strided, X_T, t, Y).output
    inside = torch.tensor([False, True, True, True, False, True])
    assert torch.equal(somewhere[inside], everywhere[inside])
    assert torch.equal(somewhere[~inside], conditional[~inside])
    network.rows.clear()
    guided = ClassifierFree(3.0, interval=[10, 30]).around(reverse)
    for step, rows in ((1, 6), (2, 12), (5, 6)):
        t = torch.full((6,), step)
        network.rows.clear()
        alone = guided.at_step(strided, step)(strided, X_T, t, Y)
        assert network.rows == [rows]
        assert torch.equal(alone.output, guided(strided, X_T, t, Y).output)


def test_without_labels_nothing_is_guided():
    network = lambda x_t, timesteps, y: torch.zeros(len(x_t), 4) if y is None else 1 / 0  # noqa: E731
    reverse = ReverseProcess(network, PredictNoise(), LearnedRange(), null=NULL)
    assert ClassifierFree(3.0).around(reverse)(PROCESS, X_T.float(), T_6).output.shape == (6, 2)
    classifier = ClassifierGuidance(lambda x, timesteps: 1 / 0, num_classes=3)
    assert classifier.around(reverse)(PROCESS, X_T.float(), T_6).output.shape == (6, 2)


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_impossible_scales_and_intervals_are_refused(scale):
    with pytest.raises(ValueError, match=r"guidance.scale"):
        ClassifierFree(scale)
    with pytest.raises(ValueError, match=r"guidance.scale"):
        ClassifierGuidance(lambda x, timesteps: x, num_classes=2, scale=scale)
    for interval in ([0, 5], [6, 5], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"guidance.interval=.*lo ≤ hi"):
            ClassifierFree(2.0, interval)


# ---- a mixture of two Gaussians on the line: the network, Σ and the classifier are all exact ---------------------------

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


@pytest.mark.parametrize("family", ["classifier_free", "classifier"])
def test_the_bound_spares_what_lies_outside_an_interval(family):
    """Outside the interval nothing that guides is evaluated, and the prediction is the model's to the bit."""
    network, reverse = labelled(PredictNoise(), clip=True)
    calls = []

    def classifier(x, timesteps):
        calls.append(len(x))
        return x.flatten(1) @ torch.full((2, 3), torch.nan, dtype=x.dtype)

    interval = [10, 30]
    guidance = (
        ClassifierFree(3.0, interval=interval)
        if family == "classifier_free"
        else ClassifierGuidance(classifier, 3, 2.0, interval=interval)
    )
    guided = guidance.around(reverse)
    outside = torch.full((6,), 40)
    plain = reverse(PROCESS, X_T, outside, Y)
    network.rows.clear()
    found = guided(PROCESS, X_T, outside, Y)
    assert network.rows == [6]
    assert calls == []
    assert torch.equal(found.x_0, plain.x_0)
    assert torch.equal(found.distribution.mean, plain.distribution.mean)
    if family == "classifier":
        mixed = guided(PROCESS, X_T, T_6, Y)
        acts = guidance.acts_at(PROCESS, T_6)
        alone = reverse(PROCESS, X_T, T_6, Y)
        assert torch.equal(mixed.x_0[~acts], alone.x_0[~acts])
        assert bool(mixed.x_0[acts].isnan().all())
