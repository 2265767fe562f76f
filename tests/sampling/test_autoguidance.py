"""Guidance away from a worse model: what it makes of two Gaussians is known, look by look and sample by sample."""

import math
from dataclasses import replace

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
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
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    DDIMSampler,
    EvenSpacing,
    HeunSampler,
    Worse,
)

PROCESS = GaussianDiffusion(CosineSchedule(1000))
PREDICTIONS = [PredictNoise(), PredictStart(), PredictVelocity()]
MEAN, STD, WORSE_STD = 0.3, 0.5, 0.8  # of the data; what the model and the worse model take for its standard deviation
T = torch.tensor([1, 10, 300, 500, 990, 1000])
X_T = SampleNoise(5, torch.arange(6)).initial((2,)).double()


def x_0_of(std, process, x_t, t):
    """E[x_0|x_t] where x_0 ~ N(MEAN, std²)."""
    signal, noise = process.signal(t)[:, None], process.sigma(t)[:, None]
    return MEAN + signal * std**2 * (x_t - signal * MEAN) / (signal**2 * std**2 + noise**2)


class Exact:
    """The network that is exact for N(MEAN, std²), in the terms of a prediction; it remembers the labels that it was told."""

    def __init__(self, std, prediction):
        self.std, self.prediction, self.told = std, prediction, []

    def __call__(self, x_t, timesteps, y):
        self.told.append(None if y is None else y.tolist())
        t = timesteps + 1
        x_0 = x_0_of(self.std, PROCESS, x_t, t)
        eps = (x_t - PROCESS.signal(t)[:, None] * x_0) / PROCESS.sigma(t)[:, None]
        return self.prediction.target(PROCESS, x_0, eps, t)


def exact(std, prediction=None, clip=False, null=None):
    prediction = prediction or PredictVelocity()
    return ReverseProcess(Exact(std, prediction), prediction, FixedLarge(), clip_x_0=clip, null=null)


def autoguided(scale, reverse=None, worse=None, **where):
    guidance = Autoguidance(Worse(reverse=worse or exact(WORSE_STD), name="worse"), scale, **where)
    return guidance.around(reverse or exact(STD))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
@pytest.mark.parametrize("of_worse", PREDICTIONS, ids=repr)
def test_the_guided_x_0_goes_from_the_worse_ones_past(scale, prediction, of_worse):
    """The guided x 0 goes from the worse ones past ones own whatever either predicts."""
    look = autoguided(scale, exact(STD, prediction), exact(WORSE_STD, of_worse))(PROCESS, X_T, T)
    own, worse = x_0_of(STD, PROCESS, X_T, T), x_0_of(WORSE_STD, PROCESS, X_T, T)
    expected = worse + scale * (own - worse)
    torch.testing.assert_close(look.x_0, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(PROCESS.q_sample(look.x_0, T, look.eps), X_T, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(look.distribution.mean, PROCESS.q_posterior(expected, X_T, T).mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "scale"),
    [(HeunSampler(EvenSpacing(150)), 3.0), (DDIMSampler(EvenSpacing(250)), 2.0)],
    ids=str,
)
def test_samples_are_spread_as_the_two_spreads(sampler, scale):
    """Samples are spread as the two spreads extrapolated on a log scale.

    dx/dσ = (x − x̂_0)/σ from x ~ N(MEAN, σ²) on, σ → ∞, ends in N(MEAN, (s^w·s_worse^(1−w))²): narrower than the data, since the
    worse model is wider."""
    noise = SampleNoise(0, torch.arange(4))
    x_T = torch.tensor([[-1.0], [0.0], [0.5], [2.0]], dtype=torch.float64)
    x_0 = sampler(PROCESS, autoguided(scale), x_T, noise=noise)[:, 0]
    slope = float((x_0[3] - x_0[0]) / 3)
    assert slope == pytest.approx(STD**scale * WORSE_STD ** (1 - scale), rel=0.01)
    assert float(x_0[1]) == pytest.approx(MEAN, abs=0.01)


def test_the_bound_is_worse_the_further_the_chain():
    """The bound is worse the further the chain is led from the data.

    Where the model is exact, nothing can be gained.
    """
    x_0 = MEAN + STD * SampleNoise(2, torch.arange(300)).initial((1,)).double()
    chain, bits = PROCESS.respace(EvenSpacing(50)(1000)), []
    for scale in (1.0, 1.5, 3.0):
        noise = SampleNoise(3, torch.arange(300))
        bound = variational_bound(chain, autoguided(scale), x_0, num_levels=None, noise=noise)
        bits.append(float(bound.bits_per_dim.mean()))
    assert bits == sorted(bits)
    assert bits[2] > bits[0] + 0.05


def test_the_worse_model_is_told_the_same_label():
    """The worse model is told the same label if it knows labels at all."""
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    for null, told in ((3, y.tolist()), (None, None)):
        reverse, worse = exact(STD, null=3), exact(WORSE_STD, null=null)
        autoguided(2.0, reverse, worse)(PROCESS, X_T, T, y)
        assert reverse.network.told == [y.tolist()]
        assert worse.network.told == [told]


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
def test_with_classifier_free_guidance_the_worse_model(scale):
    """With classifier free guidance the worse model stands for the one without a label."""
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    reverse, worse = exact(STD, null=3), exact(WORSE_STD, PredictNoise(), null=5)
    guidance = ClassifierFree(scale, worse=Worse(reverse=worse, name="worse"))
    look = guidance.around(reverse)(PROCESS, X_T, T, y)
    assert (reverse.network.told, worse.network.told) == ([y.tolist()], [[5] * 6])
    own, away = x_0_of(STD, PROCESS, X_T, T), x_0_of(WORSE_STD, PROCESS, X_T, T)
    torch.testing.assert_close(look.x_0, away + scale * (own - away), rtol=1e-7, atol=1e-7)
    assert guidance.evaluations(PROCESS, int(T[0])) == 2
    assert ClassifierFree(1.0, worse=guidance.worse).evaluations(PROCESS, int(T[0])) == 1


def test_the_variance_is_ones_own_and_clipping_comes_after():
    def network(x_t, timesteps, y):
        return torch.cat([3 * x_t, torch.sin(x_t)], dim=1)

    reverse = ReverseProcess(network, PredictVelocity(), LearnedRange(), clip_x_0=True)
    worse = exact(WORSE_STD, clip=True)
    guided = autoguided(2.0, reverse, worse)
    look, free = guided(PROCESS, X_T, T), guided.without_clipping()(PROCESS, X_T, T)
    assert torch.equal(look.distribution.log_variance, reverse(PROCESS, X_T, T).distribution.log_variance)
    assert float(free.x_0.abs().max()) > 1
    torch.testing.assert_close(look.x_0, free.x_0.clamp(-1, 1))
    own = reverse.without_clipping()(PROCESS, X_T, T).x_0
    worse_x_0 = x_0_of(WORSE_STD, PROCESS, X_T, T)
    torch.testing.assert_close(free.x_0, worse_x_0 + 2 * (own - worse_x_0))


# ---- where it acts -------------------------------------------------------------------------------------------------------


def all_guidances(**where):
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    slope = lambda x, timesteps: torch.cat([x[:, :1], -x[:, :1]], dim=1)  # noqa: E731
    return [
        (autoguided(2.0, **where), y),
        (ClassifierFree(2.0, worse=Worse(reverse=exact(WORSE_STD)), **where).around(exact(STD, null=2)), y),
        (ClassifierGuidance(slope, num_classes=2, scale=2.0, **where).around(exact(STD)), y),
    ]


def test_an_interval_in_log_snr_is_one_in_t():
    """An interval in log snr is one in t for every guidance."""
    chain = PROCESS.respace(torch.tensor([1, 10, 300, 500, 990, 1000]))
    t = torch.arange(1, 7)
    lo, hi = (float(PROCESS.log_snr(torch.tensor([step]))) for step in (500, 10))
    by_log_snr = all_guidances(log_snr_interval=[lo - 1e-9, hi + 1e-9])
    for (guided, y), (same, _), (everywhere, _) in zip(
        by_log_snr, all_guidances(interval=[10, 500]), all_guidances(), strict=True
    ):
        look = guided(chain, X_T, t, y)
        assert torch.equal(look.x_0, same(chain, X_T, t, y).x_0)
        inside = torch.tensor([False, True, True, True, False, False])
        plain = guided.reverse(chain, X_T, t, y)
        torch.testing.assert_close(look.x_0[~inside], plain.x_0[~inside])
        assert torch.equal(look.distribution.mean[~inside], plain.distribution.mean[~inside])
        assert torch.equal(look.x_0[inside], everywhere(chain, X_T, t, y).x_0[inside])
        assert float((look.x_0 - plain.x_0)[inside, 0].abs().min()) > 1e-6


def test_only_looks_inside_the_interval_take_a_second():
    """Only looks inside the interval take a second evaluation."""
    worse = exact(WORSE_STD)
    for where in ({"interval": [2, 500]}, {"log_snr_interval": [-1.0, 5.0]}):
        guided = autoguided(2.0, worse=worse, **where)
        for t in (1, 100, 400, 700, 1000):
            worse.network.told.clear()
            guided.at_step(PROCESS, t)(PROCESS, X_T[:1], torch.tensor([t]))
            assert guided.guidance.evaluations(PROCESS, t) == 1 + len(worse.network.told)
            assert len(worse.network.told) == (1 if t in (100, 400) else 0)
    worse.network.told.clear()
    guided = autoguided(1.0, worse=worse)
    guided(PROCESS, X_T, T)
    assert (guided.guidance.evaluations(PROCESS, int(T[0])), worse.network.told) == (1, [])


@pytest.mark.parametrize("guidance", [ClassifierFree, lambda **where: autoguided(2.0, **where)])
def test_an_interval_is_given_once_and_from_low_to_high(guidance):
    with pytest.raises(ValueError, match=r"guidance.interval and guidance.log_snr_interval .*: give one of them"):
        guidance(interval=[1, 5], log_snr_interval=[0, 1])
    for wrong in ([3.0, -3.0], [1.0], [0.0, math.nan]):
        with pytest.raises(ValueError, match=r"guidance.log_snr_interval=.*lo ≤ hi"):
            guidance(log_snr_interval=wrong)


# ---- an earlier moment of the model's own training -------------------------------------------------------------------------


def test_a_moment_guides_once_it_is_loaded():
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    for guidance in (Autoguidance(Worse(moment=0.2), 2.0), ClassifierFree(2.0, worse=Worse(moment=0.2))):
        with pytest.raises(ValueError, match=r"the weaker model \(itself at 0.2 of its training\) are not loaded"):
            guidance.around(exact(STD, null=2))(PROCESS, X_T, T, y)
        loaded = replace(guidance, worse=replace(guidance.worse, reverse=exact(WORSE_STD)))
        found = loaded.around(exact(STD, null=2))(PROCESS, X_T, T, y)
        assert torch.equal(found.x_0, autoguided(2.0)(PROCESS, X_T, T).x_0)
        assert (guidance.worse.own_moment, loaded.worse.own_moment) == (0.2, None)
        assert repr(loaded.worse) == repr(guidance.worse) == "itself at 0.2 of its training"


def test_a_worse_model_is_another_one_or_of_another_moment():
    with pytest.raises(ValueError, match="needs a worse model"):
        Autoguidance(Worse())
    assert ClassifierFree(2.0, worse=Worse()) == ClassifierFree(2.0)
    for moment in (0, 1.0, -0.2, math.nan):
        with pytest.raises(ValueError, match=r"guidance.moment=.*between 0 and 1"):
            Worse(moment)
