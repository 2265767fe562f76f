"""Rules for testing after each seed, beside simulations and closed forms."""

import numpy as np
import pytest
from scipy import stats

from diffusion_lab.sweeps.stopping import Bounded, Open, any_rejection, level_of_looks


def t_values(differences):
    """t_n of (samples, n) differences for n = 3, 4, …: (samples, n − 2), term by term."""
    found = [differences[:, :n] for n in range(3, differences.shape[1] + 1)]
    return np.stack([d.mean(1) / (d.std(1, ddof=1) / d.shape[1] ** 0.5) for d in found], 1)


def ever(rule, t):
    """The share of samples in which the rule decides at any look."""
    bounds = [rule.t_after(n) for n in range(3, t.shape[1] + 3)]
    return (np.abs(t) >= bounds).any(1).mean()


def binomial_error(share, samples):
    return (share * (1 - share) / samples) ** 0.5


@pytest.mark.parametrize("error", [0.05, 0.05 / 10])
@pytest.mark.parametrize("most_seeds", [5, 8, 10])
def test_bounded_looks_have_their_error_together(most_seeds, error):
    samples = 200_000 if error < 0.05 else 60_000
    t = t_values(np.random.default_rng(most_seeds).standard_normal((samples, most_seeds)))
    share = ever(Bounded(error, most_seeds), t)
    assert abs(share - error) < 2.5 * binomial_error(error, samples)


@pytest.mark.parametrize("level", [1e-4, 0.01, 0.05, 0.5])
def test_one_look_rejects_as_often_as_its_level(level):
    assert any_rejection(3, level) == pytest.approx(level, rel=1e-9)
    assert level_of_looks(3, level) == level


def test_looks_together_reject_more_but_within_union():
    level = 0.01
    shares = [any_rejection(most, level) for most in range(3, 11)]
    assert np.all(np.diff(shares) > 0)
    assert np.all(np.diff(shares)[1:] < np.diff(shares)[:-1])  # later looks add less and less
    assert all(level < share < looks * level for looks, share in enumerate(shares[1:], 2))
    assert np.all(np.diff([any_rejection(8, level) for level in (1e-4, 1e-3, 0.01, 0.1, 0.5)]) > 0)


@pytest.mark.parametrize(("most_seeds", "error"), [(4, 0.2), (8, 0.05), (12, 0.05 / 28)])
def test_the_level_inverts_the_chance_of_rejection(most_seeds, error):
    level = level_of_looks(most_seeds, error)
    assert error / (most_seeds - 2) < level < error
    assert any_rejection(most_seeds, level) == pytest.approx(error, rel=1e-5)


def test_two_looks_beside_a_plain_integral():
    """P(no rejection after 3 or 4 seeds): r_3 is uniform, and so is the direction of (d_1, …, d_4), a midpoint sum over both."""
    level = 0.1
    first, second = (stats.t.isf(level / 2, nu) for nu in (2, 3))
    r = (np.arange(1000) + 0.5)[:, None] / 1000 * 3**0.5
    angle = ((np.arange(1000) + 0.5) / 1000 - 0.5) * np.pi  # w = sin φ, p(w) dw ∝ (1 − w²)^{1/2} dw = cos²φ dφ
    after = np.cos(angle) * r + np.sin(angle)
    t_3, t_4 = r * 2**0.5 / np.sqrt(3 - r**2), np.abs(after) * 3**0.5 / np.sqrt(4 - after**2)
    kept = ((t_3 < first) * (t_4 < second) * np.cos(angle) ** 2).sum() / (1000 * (np.cos(angle) ** 2).sum())
    assert any_rejection(4, level) == pytest.approx(1 - kept, abs=3e-4)


def test_bounded_looks_are_student_tests_and_end():
    rule = Bounded(0.05, 6)
    p = rule.level
    assert rule.t_after(3) == pytest.approx(
        (1 - p) * (2 / (p * (2 - p))) ** 0.5
    )  # Student's law has a closed form for ν = 2
    assert [rule.t_after(n) for n in (4, 5, 6)] == pytest.approx([stats.t.isf(p / 2, n - 1) for n in (4, 5, 6)])
    assert rule.t_after(7) == np.inf


@pytest.mark.parametrize("error", [0.05, 0.05 / 6])
@pytest.mark.parametrize("n", [5, 10, 40])
def test_the_open_rule_decides_at_e_of_one_by_error(n, error):
    """E_n is the ratio of the densities of t_n, with effects d/σ drawn from N(0, 4) and without one."""
    t = Open(error).t_after(n)
    effects = np.linspace(-10, 10, 2001)
    weights = stats.norm.pdf(effects, scale=2)
    with_effect = (weights * stats.nct.pdf(t, n - 1, effects * n**0.5)).sum() / weights.sum()
    assert with_effect / stats.t.pdf(t, n - 1) == pytest.approx(1 / error, rel=1e-3)


@pytest.mark.parametrize(("error", "first"), [(0.05, 4), (0.05 / 6, 5), (0.8, 3)])
def test_the_open_rule_decides_only_where_e_can_reach(error, first):
    """E_n grows with |t_n| up to (1 + ng)^{(n−1)/2}."""
    assert [np.isfinite(Open(error).t_after(n)) for n in (3, 4, 5)] == [n >= first for n in (3, 4, 5)]
    assert all(((1 + 4 * n) ** ((n - 1) / 2) > 1 / error) == (n >= first) for n in (3, 4, 5))


def test_the_open_rule_is_seldom_false_in_500_seeds():
    samples, error = 6000, 0.05
    d = np.random.default_rng(2).standard_normal((samples, 500))
    n, total = np.arange(3, 501), d.cumsum(1)[:, 2:]
    t = total / np.sqrt(n * ((d**2).cumsum(1)[:, 2:] - total**2 / n) / (n - 1))
    early, late = ever(Open(error), t[:, :40]), ever(Open(error), t)
    assert 0.01 < early < late <= error + 2 * binomial_error(error, samples)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(("rule", "exact"), [(Bounded(0.1, 8), True), (Open(0.1), False)])
def test_intervals_hold_the_difference_at_all_looks(rule, exact, spread):
    """The share of sequences of which any interval misses the mean, which is not zero."""
    samples, mean = 30_000, 0.7
    d = mean + spread * np.random.default_rng(3).standard_normal((samples, 8))
    missed = np.zeros(samples, bool)
    for n in range(3, 9):
        margin = rule.t_after(n) * d[:, :n].std(1, ddof=1) / n**0.5
        missed |= np.abs(d[:, :n].mean(1) - mean) > margin
    within = 2.5 * binomial_error(0.1, samples)
    assert missed.mean() < 0.1 + within
    assert not exact or missed.mean() > 0.1 - within
