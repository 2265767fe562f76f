"""Pairs of choices, and their standing while seeds are added."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from diffusion_lab.store.measures import HIGH, LOW, Measure
from diffusion_lab.sweeps.decide import Outcome, Pair, Question, pairs_of, standings
from diffusion_lab.sweeps.stopping import level_of_looks

LOWER, HIGHER = Measure("fd", "FD", better=LOW), Measure("accuracy", "Accuracy", better=HIGH)
QUESTION = Question("fd", 8, 0.05, "bounded", "axes", None, 1)
AXES = {"loss": ("a", "b"), "steps": ("10", "50")}
FOUR = [*product(*AXES.values())]
THREE = [(choice,) for choice in "abc"]
DECIDED = (Outcome.BETTER, Outcome.WORSE)


def rounds_of(keys, scores):
    """scores: (rounds, cells)."""
    return [dict(zip(keys, row, strict=True)) for row in np.asarray(scores, float).tolist()]


def equal_cells(random, rounds, cells):
    """Scores of equal cells: what the seed does to all, and noise of each."""
    return random.standard_normal((rounds, 1)) + random.standard_normal((rounds, cells))


def pairs(keys=FOUR, axes=AXES, kind="axes"):
    return pairs_of(keys, axes, kind)


def outcomes(found):
    return {(one.pair.first, one.pair.second): one.outcome for one in found.pairs}


def of_three(*means, rounds=8, spread=0.1, question=QUESTION, measure=LOWER):
    """The standings of three choices of one axis with these mean scores."""
    scores = np.array(means) + spread * np.random.default_rng(0).standard_normal((rounds, 3))
    return standings(question, measure, pairs(THREE, {"loss": "abc"}), rounds_of(THREE, scores))


# --- pairs ---


def test_two_axes_ask_two_averaged_pairs():
    first, second = pairs()
    assert (first.axis, first.first, first.second) == ("loss", "a", "b")
    assert first.cells == ((("a", "10"), ("b", "10")), (("a", "50"), ("b", "50")))
    assert second.cells == ((("a", "10"), ("a", "50")), (("b", "10"), ("b", "50")))
    scores = {("a", "10"): 1.0, ("a", "50"): 5.0, ("b", "10"): 2.0, ("b", "50"): 10.0}
    assert [one.difference(scores) for one in (first, second)] == [3 - 6, 1.5 - 7.5]


def test_pairs_average_only_cells_that_have_both():
    """ddpm has no eta, and ddim without noise does not exist with 50 steps."""
    axes = {"sampler": ("ddpm", "ddim"), "eta": ("0", "1"), "steps": ("10", "50")}
    keys = [("ddpm", None, "10"), ("ddpm", None, "50"), ("ddim", "0", "10"), ("ddim", "1", "10"), ("ddim", "1", "50")]
    found = {(one.axis, one.first, one.second): one.cells for one in pairs_of(keys, axes, "axes")}
    assert found == {
        ("eta", "0", "1"): ((("ddim", "0", "10"), ("ddim", "1", "10")),),
        ("steps", "10", "50"): (
            (("ddpm", None, "10"), ("ddpm", None, "50")),
            (("ddim", "1", "10"), ("ddim", "1", "50")),
        ),
    }


def test_cells_ask_every_pair_of_cells():
    keys = [*FOUR, ("c", None)]
    found = pairs(keys, kind="cells")
    assert [one.cells for one in found] == [(two,) for two in combinations(keys, 2)]
    assert (found[0].axis, found[0].first, found[0].second) == ("", "a · 10", "a · 50")
    assert found[-1].second == "c"


# --- one pair ---


@pytest.mark.parametrize(("measure", "outcome"), [(LOWER, Outcome.BETTER), (HIGHER, Outcome.WORSE)])
def test_the_better_choice_follows_the_measure(measure, outcome):
    for means, expected in (((1, 2), outcome), ((2, 1), {Outcome.BETTER, Outcome.WORSE}.difference({outcome}).pop())):
        scores = np.array(means) + 0.01 * np.random.default_rng(0).standard_normal((3, 2))
        found = standings(QUESTION, measure, pairs(["a", "b"], {"": "ab"}, "cells"), rounds_of(["a", "b"], scores))
        assert outcomes(found) == {("a", "b"): expected}


@pytest.mark.parametrize("kind", ["axes", "cells"])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_pairs_are_decided_at_their_first_small_p(kind, shift):
    """By Student's test of scipy at the level of the error divided by the number of pairs, where no choice has lost before."""
    random, question = np.random.default_rng(5), replace(QUESTION, error=0.3)  # large, so that many are decided
    level, compared = level_of_looks(8, 0.3 / len(pairs(kind=kind))), 0
    for _ in range(20):
        scores = equal_cells(random, 8, 4) + np.array([0, 0, 0, shift])
        rounds = rounds_of(FOUR, scores)
        for one in standings(question, LOWER, pairs(kind=kind), rounds).pairs:
            d = [one.pair.difference(scores) for scores in rounds]
            p = [stats.ttest_1samp(d[:n], 0).pvalue for n in range(3, 9)]
            first = next((n for n, value in enumerate(p, 3) if value <= level), None)
            if one.outcome in (*DECIDED, Outcome.UNDECIDED):
                assert len(one.differences) == (first or 8)
                assert one.outcome is (Outcome.UNDECIDED if first is None else DECIDED[int(np.mean(d[:first]) > 0)])
                compared += first is not None
            else:
                assert one.outcome is Outcome.LOST
                assert first is None or len(one.differences) < first
    assert compared >= 5


def test_intervals_exclude_zero_exactly_where_decided():
    found = of_three(1, 1.2, 1.25)
    for one in found.pairs:
        assert [look.n for look in one.looks] == [*range(3, len(one.differences) + 1)]
        assert [abs(look.mean) > look.margin for look in one.looks[:-1]] == [False] * (len(one.looks) - 1)
        assert (abs(one.looks[-1].mean) > one.looks[-1].margin) == (one.outcome in DECIDED)
    assert {Outcome.BETTER} < {*outcomes(found).values()}


def test_standings_do_not_depend_on_units_or_offsets():
    random = np.random.default_rng(1)
    for _ in range(20):
        scores = equal_cells(random, 8, 4) + np.array([0, 0, 2, 0])
        plain, other = (
            standings(QUESTION, LOWER, pairs(), rounds_of(FOUR, one)) for one in (scores, 1e6 * scores + 300)
        )
        assert outcomes(plain) == outcomes(other)
        margins = [[look.margin for one in found.pairs for look in one.looks] for found in (plain, other)]
        np.testing.assert_allclose(1e6 * np.array(margins[0]), margins[1], rtol=1e-6)


def test_nothing_is_decided_after_two_seeds():
    found = of_three(1, 2, 3, rounds=2, spread=1e-9)
    assert {*outcomes(found).values()} == {Outcome.OPEN}
    assert not any(one.looks for one in found.pairs)
    assert of_three(1, 2, 3, rounds=3, spread=1e-9).over


@pytest.mark.parametrize("rule", ["bounded", "open"])
def test_equal_to_the_bit_is_no_difference(rule):
    pair = [Pair("", "a", "b", (("a", "b"),))]
    rounds = rounds_of(["a", "b"], [[1, 1], [5, 5], [2, 2], [7, 8]])
    found = standings(replace(QUESTION, rule=rule), LOWER, pair, rounds)
    assert (outcomes(found)["a", "b"], found.rounds) == (Outcome.SAME, 3)
    assert outcomes(standings(replace(QUESTION, rule=rule), LOWER, pair, rounds[1:])) == {("a", "b"): Outcome.OPEN}


@pytest.mark.parametrize("rule", ["bounded", "open"])
def test_a_constant_difference_decides_nothing(rule):
    """No spread is known of it: three equal differences of a measure with few values are likely by chance."""
    for difference in (1.0, 0.1):  # 0.1 is not exact: s is 0 or a rounding error
        rounds = rounds_of(["a", "b"], [[difference * n, difference * (n + 1)] for n in range(8)])
        found = standings(replace(QUESTION, rule=rule), LOWER, [Pair("", "a", "b", (("a", "b"),))], rounds)
        assert outcomes(found)["a", "b"] is Outcome.UNDECIDED
        assert all(look.margin == np.inf for look in found.pairs[0].looks)


@pytest.mark.parametrize("rule", ["bounded", "open"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_decides_nothing(rule, value):
    scores = np.array([[1, 2 + 0.01 * n] for n in range(8)])
    scores[0, 1] = value
    found = standings(replace(QUESTION, rule=rule), LOWER, [Pair("", "a", "b", (("a", "b"),))], rounds_of("ab", scores))
    assert (outcomes(found)["a", "b"], found.rounds) == (Outcome.UNDECIDED, 8)


def test_close_where_the_interval_is_within_smallest():
    random = np.random.default_rng(0)
    d = 0.02 * random.standard_normal(8)
    rounds = rounds_of(["a", "b"], np.stack([d, np.zeros(8)], 1))
    pair = [Pair("", "a", "b", (("a", "b"),))]
    whole = standings(QUESTION, LOWER, pair, rounds).pairs[0]
    assert whole.outcome is Outcome.UNDECIDED
    ends = [abs(look.mean) + look.margin for look in whole.looks]
    for n, end in list(enumerate(ends, 3))[1:]:
        if end < min(ends[: n - 3]):
            found = standings(replace(QUESTION, smallest=end * 1.0001), LOWER, pair, rounds)
            assert (found.pairs[0].outcome, found.rounds) == (Outcome.CLOSE, n)
    shifted = rounds_of(["a", "b"], np.stack([d + 0.5, np.zeros(8)], 1))
    assert standings(replace(QUESTION, smallest=1.0), LOWER, pair, shifted).pairs[0].outcome is Outcome.WORSE


def test_undecided_only_after_the_last_round():
    scores = equal_cells(np.random.default_rng(3), 9, 4)
    for n in (5, 7, 8, 9):
        found = standings(QUESTION, LOWER, pairs(), rounds_of(FOUR, scores[:n]))
        assert {*outcomes(found).values()} == {Outcome.OPEN if n < 8 else Outcome.UNDECIDED}
        assert (found.rounds, found.over, found.needed) == (min(n, 8), n >= 8, {*FOUR} if n < 8 else set())


# --- rounds and losers ---


def test_pairs_of_a_loser_close_and_the_others_go_on():
    """c loses to a; b and c were still open, a and b are compared further."""
    random = np.random.default_rng(0)
    a = random.standard_normal(5)
    scores = np.stack([a, a + random.standard_normal(5), a + 5 + 0.01 * random.standard_normal(5)], 1)
    rounds = rounds_of(THREE, scores)
    found = standings(QUESTION, LOWER, pairs(THREE, {"loss": "abc"}), rounds)
    assert outcomes(found) == {("a", "b"): Outcome.OPEN, ("a", "c"): Outcome.BETTER, ("b", "c"): Outcome.LOST}
    assert [len(one.differences) for one in found.pairs] == [5, 3, 3]
    assert found.needed == {("a",), ("b",)}


def test_pairs_of_a_winner_stay_open():
    """a beats c at once, which does not say whether it beats b."""
    found = outcomes(of_three(1.0, 1.02, 3.0, rounds=4))
    assert (found["a", "b"], found["a", "c"]) == (Outcome.OPEN, Outcome.BETTER)
    found = outcomes(of_three(3.0, 1.02, 1.0, rounds=4))
    assert (found["b", "c"], found["a", "c"]) == (Outcome.OPEN, Outcome.WORSE)


def test_other_axes_still_need_the_cells_of_a_loser():
    """b loses, and the number of steps is still averaged over a and b."""
    random = np.random.default_rng(0)
    scores = equal_cells(random, 8, 4) + np.array([0, 0, 30, 30])
    found = standings(QUESTION, LOWER, pairs(), rounds_of(FOUR, scores[:5]))
    loss, steps = found.pairs
    assert (loss.outcome, steps.outcome, found.needed) == (Outcome.BETTER, Outcome.OPEN, {*FOUR})
    expected = (scores[:5, 0] + scores[:5, 2] - scores[:5, 1] - scores[:5, 3]) / 2
    np.testing.assert_allclose(steps.differences, expected)


def test_rounds_after_an_incomplete_one_are_not_used():
    scores = equal_cells(np.random.default_rng(0), 6, 4)
    rounds = rounds_of(FOUR, scores)
    whole = [standings(QUESTION, LOWER, pairs(), rounds[:n]) for n in range(7)]
    for n in range(6):
        torn = [*rounds[:n], {key: rounds[n][key] for key in FOUR[:3]}, *rounds[n + 1 :]]
        assert standings(QUESTION, LOWER, pairs(), torn) == whole[n]


def test_later_scores_do_not_change_a_standing():
    """Neither rounds after all pairs are closed, nor cells that no open pair reads."""
    over = of_three(1, 2, 3, rounds=3)
    assert over == of_three(1, 2, 3, rounds=8)
    scores = np.random.default_rng(0).standard_normal((6, 3)) * [0.1, 3, 0.1] + [0, 0, 9]
    axes = {"loss": "abc"}
    rounds = rounds_of(THREE, scores)
    all_scored = standings(QUESTION, LOWER, pairs(THREE, axes), rounds)
    needed = [standings(QUESTION, LOWER, pairs(THREE, axes), rounds[:n]).needed for n in range(6)]
    only = [{key: row[key] for key in keys} for row, keys in zip(rounds, needed, strict=True)]
    assert standings(QUESTION, LOWER, pairs(THREE, axes), only) == all_scored
    assert len(needed[-1]) == 2


def test_a_sweep_without_pairs_is_over():
    assert standings(QUESTION, LOWER, [], rounds_of(FOUR, np.ones((3, 4)))).over


# --- the error of the sweep ---

RULES = [("bounded", 5), ("bounded", 8), ("bounded", 10), ("open", 10)]


def share_with_a_false_decision(kind, rule, most_seeds, sweeps):
    question, random, some = replace(QUESTION, rule=rule, most_seeds=most_seeds), np.random.default_rng(most_seeds), 0
    for _ in range(sweeps):
        found = standings(question, LOWER, pairs(kind=kind), rounds_of(FOUR, equal_cells(random, most_seeds, 4)))
        some += any(one.outcome in DECIDED for one in found.pairs)
    return some / sweeps


@pytest.mark.parametrize("kind", ["axes", "cells"])
@pytest.mark.parametrize(("rule", "most_seeds"), RULES)
def test_few_sweeps_of_equal_cells_decide_anything(kind, rule, most_seeds):
    """200,000 sweeps in benchmarks/stopping.py, whose rules are these."""
    share = share_with_a_false_decision(kind, rule, most_seeds, 600)
    assert share <= 0.05 + 2 * (0.05 * 0.95 / 600) ** 0.5


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["axes", "cells"])
@pytest.mark.parametrize(("rule", "most_seeds"), RULES)
def test_any_false_decision_is_as_rare_as_the_error(kind, rule, most_seeds):
    share = share_with_a_false_decision(kind, rule, most_seeds, 2000)
    assert share <= 0.05 + 2 * (0.05 * 0.95 / 2000) ** 0.5
