"""Where curves cross: known crossings are found, and stated only where all seeds agree."""

import math
import re

import pytest
from scipy import stats

from diffusion_lab.report.curves import TRAINING as MINUTES
from diffusion_lab.report.curves import Race, in_words, is_certain, race


def power(scale: float, exponent: float, costs=(1, 2, 5, 10, 30, 60)) -> list[tuple[float, float]]:
    """A straight line on logarithmic axes."""
    return [(float(cost), scale * cost**-exponent) for cost in costs]


def test_two_power_laws_cross_where_they_are_equal():
    falling, flat = power(8, 0.7), power(2, 0.2, costs=(1, 3, 20, 60))
    found = race(falling, flat, lower_is_better=True)
    assert found.better == 0
    assert found.crossings == pytest.approx([4 ** (1 / 0.5)])
    assert race(flat, falling, lower_is_better=True).better == 1
    assert race(falling, flat, lower_is_better=False).better == 1


def test_only_what_both_were_measured_at_counts():
    early, late = power(8, 0.7, costs=(1, 2, 5)), power(1, 0.1, costs=(4, 60))
    found = race(early, late, lower_is_better=True)
    assert (found.better, found.crossings) == (1, ())
    assert race(early, power(1, 0.1, costs=(6, 60)), lower_is_better=True) is None
    assert race(early, early, lower_is_better=True) is None


def test_values_that_are_not_above_0_are_compared_as_they_are():
    rising, falling = [(1.0, -1.0), (100.0, 1.0)], [(1.0, 1.0), (100.0, -1.0)]
    assert race(rising, falling, lower_is_better=True).crossings == pytest.approx([10.0])


def crossing(*times, better=0, by=1.0):
    """A curve that is better after each of these times, in turn."""
    return Race(better, times, (-by, by) if better == 0 else (by, -by))


def test_a_crossing_that_all_seeds_have_is_stated_with_its_spread():
    said = in_words(("diffusion", "gan"), [crossing(12.0), crossing(14.0), crossing(17.0)], MINUTES)
    assert round(math.exp(sum(map(math.log, (12, 14, 17))) / 3)) == 14
    assert re.findall(r"diffusion|gan|\d+", said) == ["diffusion", "gan", "14", "12", "17"]
    said = in_words(("diffusion", "gan"), [crossing(12.0, better=1)] * 3, MINUTES)
    assert re.findall(r"diffusion|gan|\d+", said) == ["gan", "diffusion", "12"]


def test_a_crossing_is_certain_at_both_ends_or_not():
    seeds = [crossing(10.0, by=by) for by in (0.1, 0.9, 0.2)]
    level = stats.ttest_1samp([0.1, 0.9, 0.2], 0).pvalue
    assert is_certain(seeds, level * 1.001)
    assert not is_certain(seeds, level * 0.999)


@pytest.mark.parametrize(
    "last",
    [
        Race(0, (), (1.0, 1.0)),
        crossing(12.0, better=1),
        crossing(2.0, 3.0, 4.0),
        None,
    ],
    ids=["never", "the other way", "to and fro", "two seeds"],
)
def test_what_seeds_do_not_agree_on_is_not_certain(last):
    assert is_certain([crossing(12.0)] * 3, 0.05)
    assert not is_certain([crossing(12.0), crossing(12.0), *([] if last is None else [last])], 0.05)
