"""Where curves cross: known crossings are found, and what seeds do not agree on is said."""

import math
import re

import pytest
from scipy import stats

from diffusion_lab.report.curves import SAMPLING, Race, in_sentences, in_words, is_certain, race
from diffusion_lab.report.curves import TRAINING as MINUTES


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
    assert (found.better, found.crossings, found.low, found.high) == (1, (), 4, 5)
    assert race(early, power(1, 0.1, costs=(6, 60)), lower_is_better=True) is None
    assert race(early, early, lower_is_better=True) is None


def test_values_that_are_not_above_0_are_compared_as_they_are():
    rising, falling = [(1.0, -1.0), (100.0, 1.0)], [(1.0, 1.0), (100.0, -1.0)]
    assert race(rising, falling, lower_is_better=True).crossings == pytest.approx([10.0])


def test_a_crossing_that_all_seeds_have_is_said_with_its_spread():
    races = {str(seed): Race(0, (time,), 1, 60) for seed, time in enumerate((12.0, 14.0, 17.0))}
    middle = math.exp(sum(map(math.log, (12, 14, 17))) / 3)
    assert round(middle) == 14
    said = in_words(("diffusion", "gan"), races, MINUTES, sure=True)
    assert facts(said) == ["diffusion", "gan", "14", "12", "17", "3", "3"]
    one = in_words(("gan", "vae"), {"": Race(1, (14.3,), 1, 60)}, MINUTES, sure=False)
    assert facts(one) == ["gan", "vae", "vae", "gan", "14"]


def test_every_pair_with_an_order_is_a_sentence():
    compared = [
        (("gan", "vae"), by_seeds(0, (), 2, 55)),
        (("diffusion", "gan"), by_seeds(0, (19.0,), 2, 55)),
        (("gan", "noise"), by_seeds(0, (), 1, 60, seeds="12")),
        (("gan", "kernel"), {**by_seeds(0, (), 1, 60), "4": Race(1, (), 1, 60, (-1.0, -1.0))}),
    ]
    crossing = (["diffusion", "gan", "19", "3", "3"], True)
    assert [(facts(said), sure) for said, sure in in_sentences(compared, MINUTES, 1)] == [
        (["gan", "vae", "2", "55", "3", "3"], True),
        crossing,
        (["gan", "noise", "gan", "kernel"], False),
    ]
    assert [(facts(said), sure) for said, sure in in_sentences(compared, SAMPLING, 1)] == [crossing]


def facts(said):
    """The curves and numbers of a sentence, in turn."""
    return re.findall(r"\b(?:diffusion|gan|vae|flow|late|noise|kernel|[\d.]+)\b", said)


def by_seeds(better, crossings, low, high, seeds="123"):
    """Races whose differences hardly differ between seeds."""
    first = (1 if better == 0 else -1) * (-1) ** len(crossings)
    by = (first, first * (-1) ** len(crossings))
    return {s: Race(better, crossings, low, high, tuple(a * (1 + 1e-3 * int(s)) for a in by)) for s in seeds}


def test_a_difference_is_certain_at_every_cost_or_not():
    differences = [(1.0, 0.1), (1.1, 0.9), (0.9, 0.2)]
    races = {str(seed): Race(0, (), 1, 60, by) for seed, by in enumerate(differences)}
    assert not is_certain(races, 0.05)
    assert is_certain(races, stats.ttest_1samp([0.1, 0.9, 0.2], 0).pvalue * 1.001)


def test_what_seeds_do_not_agree_on_is_not_certain():
    races = {"1": Race(0, (12.0,), 1, 60), "2": Race(1, (), 1, 60), "3": Race(0, (20.0,), 1, 60)}
    said = in_words(("diffusion", "gan"), races, MINUTES, sure=False)
    assert facts(said) == [
        *("diffusion", "gan"),
        *("diffusion", "gan", "15", "12", "20", "2", "3"),
        *("gan", "diffusion", "1", "60", "1", "3"),
    ]
    to_and_fro = {"1": Race(0, (2.0, 3.0), 1, 60), "2": Race(1, (2.0, 3.0, 4.0), 1, 60)}
    assert facts(in_words(("gan", "vae"), to_and_fro, MINUTES, sure=False)) == ["gan", "vae", "2", "2"]
