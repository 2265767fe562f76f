"""Averages along powers of time: their profiles in closed form, and one built of others."""

import numpy as np
import pytest

from diffusion_lab.training.profiles import LONGEST, Profile, combination, wanted_length


def weights_of(sigma_rel: float, steps: int) -> np.ndarray:
    """What each step weighs in the average after so many, by its recursion."""
    profile, weights = Profile(1, sigma_rel), np.zeros(steps)
    for step in range(1, steps + 1):
        beta = profile.decay(step)
        weights *= beta
        weights[step - 1] = 1 - beta
    return weights


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_that_of_the_paper(sigma_rel, gamma):
    assert Profile(1, sigma_rel).gamma == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.13, 0.25, 0.28])
def test_gamma_is_the_root_of_its_length(sigma_rel):
    g = Profile(1, sigma_rel).gamma
    assert g >= 0
    assert np.sqrt((g + 1) / (g + 3)) / (g + 2) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_the_recursion_weighs_steps_as_the_closed_form_says(sigma_rel):
    steps, power = 1000, Profile(1, sigma_rel).gamma + 1
    i = np.arange(1, steps + 1) / steps
    expected = i**power - (i - 1 / steps) ** power
    found = weights_of(sigma_rel, steps)
    assert found == pytest.approx(expected, rel=1e-9)
    mean = found @ i
    assert np.sqrt(found @ (i - mean) ** 2) == pytest.approx(sigma_rel, rel=2e-3)


def test_overlap_is_the_integral_of_the_product():
    short, long = Profile(0.4, 0.1), Profile(1.0, 0.05)
    tau = (np.arange(200_000) + 0.5) / 200_000
    p = [(q.gamma + 1) * tau**q.gamma / q.steps ** (q.gamma + 1) * (tau <= q.steps) for q in (short, long)]
    assert short.overlap(long) == pytest.approx((p[0] * p[1]).mean(), rel=1e-4) == long.overlap(short)


def kept(moments: int, steps: int) -> list[Profile]:
    return [Profile(steps * i / moments, sigma) for i in range(1, moments + 1) for sigma in (0.05, 0.10)]


def test_a_kept_average_is_itself():
    x, error = combination(kept(8, 1000), Profile(1000, 0.10))
    assert x == pytest.approx([0.0] * 15 + [1.0], abs=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize(("sigma_rel", "error"), [(0.04, 0.035), (0.07, 0.015), (0.13, 0.02), (0.2, 0.085)])
def test_a_third_average_is_built_of_two_that_were_kept(sigma_rel, error):
    """Of a random walk, whose averages differ: built within 5 % of its distance from the average twice as long."""
    steps = 2000
    x, found = combination(kept(8, steps), Profile(steps, sigma_rel))
    assert x.sum() == pytest.approx(1.0)
    assert found < error
    walk = np.random.default_rng(0).standard_normal((steps, 256)).cumsum(axis=0)
    parts = [weights_of(p.sigma_rel, round(p.steps)) @ walk[: round(p.steps)] for p in kept(8, steps)]
    direct = weights_of(sigma_rel, steps) @ walk
    other = weights_of(min(2 * sigma_rel, 0.28), steps) @ walk
    assert np.linalg.norm(x @ parts - direct) < 0.05 * np.linalg.norm(other - direct)


def test_a_length_that_was_hardly_kept_has_a_large_error():
    assert combination(kept(1, 1000), Profile(1000, 0.2))[1] > 0.3
    assert combination(kept(8, 1000), Profile(1000, 0.02))[1] > 0.2


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, LONGEST, 0.5])
def test_no_average_is_as_long(sigma_rel):
    with pytest.raises(ValueError, match=rf"σ_rel={sigma_rel:g} must lie between 0 and 0.289"):
        Profile(1, sigma_rel)


def test_names():
    assert wanted_length("ema_rel_0.07") == 0.07
    assert [wanted_length(name) for name in ("ema_0.999", "raw", "ema_rel_", "ema_rel_-1", "at_0.1")] == [None] * 5
