"""Guidance: identities of classifier-free guidance, an exact classifier of a mixture, and two Gaussians, one of which is worse."""

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


# ---- away from a worse model: what it makes of two Gaussians is known --------------------------------------------------

LONG = GaussianDiffusion(CosineSchedule(1000))
CENTRE, WIDTH, WORSE_WIDTH = (
    0.3,
    0.5,
    0.8,
)  # of the data; what the model and the worse model take for its standard deviation
T_LONG = torch.tensor([1, 10, 300, 500, 990, 1000])


def x_0_of(std, process, x_t, t):
    """E[x_0|x_t] where x_0 ~ N(CENTRE, std²)."""
    signal, noise = process.signal(t)[:, None], process.sigma(t)[:, None]
    return CENTRE + signal * std**2 * (x_t - signal * CENTRE) / (signal**2 * std**2 + noise**2)


class Exact:
    """The network that is exact for N(CENTRE, std²), in the terms of a prediction; it remembers the labels that it was told."""

    def __init__(self, std, prediction):
        self.std, self.prediction, self.told = std, prediction, []

    def __call__(self, x_t, timesteps, y):
        self.told.append(None if y is None else y.tolist())
        t = timesteps + 1
        x_0 = x_0_of(self.std, LONG, x_t, t)
        eps = (x_t - LONG.signal(t)[:, None] * x_0) / LONG.sigma(t)[:, None]
        return self.prediction.target(LONG, x_0, eps, t)


def exact(std, prediction=None, clip=False, null=None):
    prediction = prediction or PredictVelocity()
    return ReverseProcess(Exact(std, prediction), prediction, FixedLarge(), clip_x_0=clip, null=null)


def autoguided(scale, reverse=None, worse=None, **where):
    guidance = Autoguidance(Worse(reverse=worse or exact(WORSE_WIDTH), name="worse"), scale, **where)
    return guidance.around(reverse or exact(WIDTH))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
@pytest.mark.parametrize("of_worse", PREDICTIONS, ids=repr)
def test_the_guided_x_0_goes_from_the_worse_ones_past(scale, prediction, of_worse):
    """The guided x 0 goes from the worse ones past ones own whatever either predicts."""
    look = autoguided(scale, exact(WIDTH, prediction), exact(WORSE_WIDTH, of_worse))(LONG, X_T, T_LONG)
    own, worse = x_0_of(WIDTH, LONG, X_T, T_LONG), x_0_of(WORSE_WIDTH, LONG, X_T, T_LONG)
    expected = worse + scale * (own - worse)
    torch.testing.assert_close(look.x_0, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(LONG.q_sample(look.x_0, T_LONG, look.eps), X_T, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        look.distribution.mean, LONG.q_posterior(expected, X_T, T_LONG).mean, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("sampler", "scale"),
    [(HeunSampler(EvenSpacing(150)), 3.0), (DDIMSampler(EvenSpacing(250)), 2.0)],
    ids=str,
)
def test_samples_are_spread_as_the_two_spreads(sampler, scale):
    """Samples are spread as the two spreads extrapolated on a log scale.

    dx/dσ = (x − x̂_0)/σ from x ~ N(CENTRE, σ²) on, σ → ∞, ends in N(CENTRE, (s^w·s_worse^(1−w))²): narrower than the data, since the
    worse model is wider."""
    noise = SampleNoise(0, torch.arange(4))
    x_T = torch.tensor([[-1.0], [0.0], [0.5], [2.0]], dtype=torch.float64)
    x_0 = sampler(LONG, autoguided(scale), x_T, noise=noise)[:, 0]
    slope = float((x_0[3] - x_0[0]) / 3)
    assert slope == pytest.approx(WIDTH**scale * WORSE_WIDTH ** (1 - scale), rel=0.01)
    assert float(x_0[1]) == pytest.approx(CENTRE, abs=0.01)


def test_the_bound_is_worse_the_further_the_chain():
    """The bound is worse the further the chain is led from the data.

    Where the model is exact, nothing can be gained.
    """
    x_0 = CENTRE + WIDTH * SampleNoise(2, torch.arange(300)).initial((1,)).double()
    chain, bits = LONG.respace(EvenSpacing(50)(1000)), []
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
        reverse, worse = exact(WIDTH, null=3), exact(WORSE_WIDTH, null=null)
        autoguided(2.0, reverse, worse)(LONG, X_T, T_LONG, y)
        assert reverse.network.told == [y.tolist()]
        assert worse.network.told == [told]


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0])
def test_with_classifier_free_guidance_the_worse_model(scale):
    """With classifier free guidance the worse model stands for the one without a label."""
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    reverse, worse = exact(WIDTH, null=3), exact(WORSE_WIDTH, PredictNoise(), null=5)
    guidance = ClassifierFree(scale, worse=Worse(reverse=worse, name="worse"))
    look = guidance.around(reverse)(LONG, X_T, T_LONG, y)
    assert (reverse.network.told, worse.network.told) == ([y.tolist()], [[5] * 6])
    own, away = x_0_of(WIDTH, LONG, X_T, T_LONG), x_0_of(WORSE_WIDTH, LONG, X_T, T_LONG)
    torch.testing.assert_close(look.x_0, away + scale * (own - away), rtol=1e-7, atol=1e-7)
    assert guidance.evaluations(LONG, int(T_LONG[0])) == 2
    assert ClassifierFree(1.0, worse=guidance.worse).evaluations(LONG, int(T_LONG[0])) == 1


def test_the_variance_is_ones_own_and_clipping_comes_after():
    def network(x_t, timesteps, y):
        return torch.cat([3 * x_t, torch.sin(x_t)], dim=1)

    reverse = ReverseProcess(network, PredictVelocity(), LearnedRange(), clip_x_0=True)
    worse = exact(WORSE_WIDTH, clip=True)
    look, free = (autoguided(2.0, each, worse)(LONG, X_T, T_LONG) for each in (reverse, reverse.without_clipping()))
    assert torch.equal(look.distribution.log_variance, reverse(LONG, X_T, T_LONG).distribution.log_variance)
    assert float(free.x_0.abs().max()) > 1
    torch.testing.assert_close(look.x_0, free.x_0.clamp(-1, 1))
    own = reverse.without_clipping()(LONG, X_T, T_LONG).x_0
    worse_x_0 = x_0_of(WORSE_WIDTH, LONG, X_T, T_LONG)
    torch.testing.assert_close(free.x_0, worse_x_0 + 2 * (own - worse_x_0))


# ---- where it acts -------------------------------------------------------------------------------------------------------


def all_guidances(**where):
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    slope = lambda x, timesteps: torch.cat([x[:, :1], -x[:, :1]], dim=1)  # noqa: E731
    return [
        (autoguided(2.0, **where), y),
        (ClassifierFree(2.0, worse=Worse(reverse=exact(WORSE_WIDTH)), **where).around(exact(WIDTH, null=2)), y),
        (ClassifierGuidance(slope, num_classes=2, scale=2.0, **where).around(exact(WIDTH)), y),
    ]


def test_an_interval_in_log_snr_is_one_in_t():
    """An interval in log snr is one in t for every guidance."""
    chain = LONG.respace(torch.tensor([1, 10, 300, 500, 990, 1000]))
    t = torch.arange(1, 7)
    lo, hi = (float(LONG.log_snr(torch.tensor([step]))) for step in (500, 10))
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
    worse = exact(WORSE_WIDTH)
    for where in ({"interval": [2, 500]}, {"log_snr_interval": [-1.0, 5.0]}):
        guided = autoguided(2.0, worse=worse, **where)
        for t in (1, 100, 400, 700, 1000):
            worse.network.told.clear()
            guided.at_step(LONG, t)(LONG, X_T[:1], torch.tensor([t]))
            assert guided.guidance.evaluations(LONG, t) == 1 + len(worse.network.told)
            assert len(worse.network.told) == (1 if t in (100, 400) else 0)
    worse.network.told.clear()
    guided = autoguided(1.0, worse=worse)
    guided(LONG, X_T, T_LONG)
    assert (guided.guidance.evaluations(LONG, int(T_LONG[0])), worse.network.told) == (1, [])


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
            guidance.around(exact(WIDTH, null=2))(LONG, X_T, T_LONG, y)
        loaded = replace(guidance, worse=replace(guidance.worse, reverse=exact(WORSE_WIDTH)))
        found = loaded.around(exact(WIDTH, null=2))(LONG, X_T, T_LONG, y)
        assert torch.equal(found.x_0, autoguided(2.0)(LONG, X_T, T_LONG).x_0)
        assert repr(loaded.worse) == repr(guidance.worse) == "itself at 0.2 of its training"


def test_a_worse_model_is_another_one_or_of_another_moment():
    with pytest.raises(ValueError, match="needs a worse model"):
        Worse()
    for moment in (0, 1.0, -0.2, math.nan):
        with pytest.raises(ValueError, match=r"guidance.moment=.*between 0 and 1"):
            Worse(moment)
