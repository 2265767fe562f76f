import numpy as np
import pytest
from scipy import stats

from diffusion_lab.report.comparison import (
    LEVEL,
    MOST_SEEDS,
    POWER,
    Difference,
    Measured,
    difference,
    holm,
    power,
    same,
)
from diffusion_lab.sweeps.stopping import Bounded


def seeds(values, first=1):
    return Measured({str(seed): value for seed, value in enumerate(values, first)})


A, B = [3.1, 3.4, 2.9, 3.3], [3.3, 3.7, 3.05, 3.5]


def test_shared_seeds_are_paired_with_students_interval():
    found = difference(seeds(A), seeds(B))
    low, high = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(A) - np.mean(B))
    assert (found.mean - found.margin, found.mean + found.margin) == pytest.approx((low, high))
    assert found.beyond_its_uncertainty


def test_other_seeds_are_welchs():
    found = difference(seeds(A), seeds(B, first=5))
    low, high = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert (found.mean - found.margin, found.mean + found.margin) == pytest.approx((low, high))


def test_the_error_of_a_row():
    assert seeds(A).error == pytest.approx(stats.sem(A))
    assert seeds(A).error_over == "seeds"
    assert seeds([1.0]).error is None
    assert difference(seeds([2.0]), seeds([2.2])) is None
    assert difference(seeds(A), seeds([2.2])) is None


def test_one_seed_each_of_two_trainings_is_unknown():
    blocks = {"samples": list(np.random.default_rng(0).standard_normal(50))}
    a, b, c = (
        Measured({"1": value}, {"1": blocks}, {"1": training})
        for value, training in ((1.0, "first"), (9.0, "second"), (9.0, "first"))
    )
    assert difference(a, b) is None
    assert difference(a, c).beyond_its_uncertainty


def test_p_is_students_and_holm_stops_at_the_first():
    found = difference(seeds(A), seeds(B))
    assert found.p == pytest.approx(stats.ttest_rel(A, B).pvalue, rel=1e-4)
    assert difference(seeds([1.0, 2.0, 4.0]), seeds([1.0, 2.0, 4.0])).p == 1.0
    assert holm([0.04, 0.001, 0.03, 0.02]) == [False, True, False, False]
    assert holm([0.04, 0.001, 0.02, 0.015]) == [True, True, True, True]
    assert holm([]) == []


def test_equal_for_every_seed_is_the_same():
    assert same(seeds([1.0, 2.0]), seeds([1.0, 2.0]))
    assert same(seeds([1.0, 2.0]), seeds([1.0 + 1e-9, 2.0]))
    assert not same(seeds([1.0, 2.0]), seeds([2.0, 1.0]))


def of_blocks(value, samples, real=(1.0, -1.0), seed="1"):
    return Measured({seed: value}, {seed: {"samples": samples, "real images": list(real)}})


def test_the_error_of_one_seed_is_that_of_all_sources():
    row = of_blocks(3.0, [3.0, -3.0])
    assert row.parts == pytest.approx({"samples": 3.0, "real images": 1.0})
    assert row.error == pytest.approx(10**0.5)
    assert row.error_over == "samples and real images"


def test_what_the_same_noise_and_the_same_images_do_to_both_cancels():
    shared = np.random.default_rng(0).standard_normal(50)
    own = 0.01 * np.random.default_rng(1).standard_normal(50)
    a, b = (of_blocks(value, list(each), list(shared)) for value, each in ((3.0, shared), (3.1, shared + own)))
    found = difference(a, b)
    assert found.margin == pytest.approx(stats.t.ppf(0.975, 49) * stats.sem(own), rel=1e-6)
    assert found.beyond_its_uncertainty
    unlike = of_blocks(3.1, list(np.random.default_rng(2).standard_normal(50)), list(shared))
    assert not difference(a, unlike).beyond_its_uncertainty


def test_seeds_and_what_all_seeds_share_are_added():
    random = np.random.default_rng(3)
    a, b = (
        Measured(dict(zip("12", values, strict=True)), {s: {"samples": list(random.standard_normal(20))} for s in "12"})
        for values in ((3.0, 3.2), (3.1, 3.31))
    )
    found, seeds_alone = difference(a, b), difference(Measured(a.by_seed), Measured(b.by_seed))
    assert found.margin > seeds_alone.margin
    mean = [np.mean([m.sources[s]["samples"] for s in "12"], axis=0) for m in (a, b)]
    images = stats.t.ppf(0.975, 19) * stats.sem(mean[0] - mean[1])
    assert found.margin == pytest.approx(np.hypot(seeds_alone.margin, images))
    assert (found.seeds, len(found.parts)) == (2, 2)


def test_old_scores_without_blocks_are_compared_as_before():
    assert difference(of_blocks(3.0, [1.0, -1.0]), seeds([2.0])) is None
    both = difference(of_blocks(3.0, [1.0, -1.0]), of_blocks(2.0, [1.0, 0.0, -1.0]))
    assert len(both.parts) == 1, "another number of blocks is another number of samples"


@pytest.mark.parametrize(("n", "mean"), [(2, 5.0), (3, 2.0), (5, 1.0), (12, 0.9), (12, -0.9), (60, 0.3)])
@pytest.mark.parametrize("level", [LEVEL, LEVEL / 6])
def test_power_is_that_of_the_noncentral_t(n, mean, level):
    spread = 1.3
    reach, shift = stats.t.ppf(1 - level / 2, n - 1), mean / spread * n**0.5
    exact = stats.nct.sf(reach, n - 1, shift) + stats.nct.cdf(-reach, n - 1, shift)
    assert power(n, mean, spread, level) == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("shared", [0.0, 0.4])
def test_as_many_seeds_as_are_named_show_the_difference(shared):
    """By simulation, with and without an error that all seeds share; one seed fewer is too few."""
    random, mean, spread, level = np.random.default_rng(0), 1.0, 1.2, LEVEL / 2
    reach = stats.t.ppf(1 - level / 2, 19)
    found = Difference(mean, [(spread / 2, 3), *([(shared / reach, 19)] if shared else [])], seeds=4)
    n = found.seeds_to_show(level)
    for count, enough in ((n, True), (n - 1, False)):
        draws = mean + spread * random.standard_normal((40_000, count))
        needed = stats.t.ppf(1 - level / 2, count - 1) * draws.std(1, ddof=1) / count**0.5
        share = np.mean(abs(draws.mean(1)) > np.hypot(needed, shared))
        assert (share >= POWER - 0.01) if enough else (share < POWER + 0.01)


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_a_sweep_of_the_named_size_decides_the_difference(spread):
    """By simulation of the rule; looking early adds some power to that of the last look."""
    random = np.random.default_rng(0)
    n = Difference(1.0, [(spread / 2, 3)], seeds=4).most_seeds(LEVEL)
    rule = Bounded(LEVEL, n)
    draws = 1.0 + spread * random.standard_normal((20_000, n))
    looks = [
        abs(draws[:, :k].mean(1)) > rule.t_after(k) * draws[:, :k].std(1, ddof=1) / k**0.5 for k in range(3, n + 1)
    ]
    assert POWER - 0.01 <= np.mean(np.any(looks, axis=0)) <= POWER + 0.15


def test_seeds_are_named_only_where_seeds_can_show_it():
    assert Difference(0.01, [(1.0, 2)], seeds=3).seeds_to_show(LEVEL) is None, f"more than {MOST_SEEDS}"
    assert Difference(5.0, [(0.1, 2), (4.0, 19)], seeds=3).seeds_to_show(LEVEL) is None, "the shared error hides it"
    assert Difference(5.0, [(0.1, 19)]).seeds_to_show(LEVEL) is None, "not paired over seeds"
    assert Difference(5.0, [(0.0, 2)], seeds=3).seeds_to_show(LEVEL) == 2
