"""benchmarks/stopping.py: its fast rules are those of the package, and no equal cells are called different too often."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.store.measures import LOW, Measure
from diffusion_lab.sweeps.decide import Outcome, Question, standings

QUESTION = Question("fd", 10, 0.05, "bounded", "axes", None, 1)
SIGN = {Outcome.BETTER: -1, Outcome.WORSE: 1}


@pytest.fixture
def stopping(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import stopping

    yield stopping
    for name in ("stopping", "stopping_scores"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("rule", ["bounded", "open"])
@pytest.mark.parametrize("sweep", ["two cells", "axes", "cells"])
def test_many_sweeps_at_once_are_the_standings_of_each(stopping, sweep, rule):
    """Decisions, seeds and trainings of 150 sweeps with a difference, so that losers close pairs."""
    design = stopping.DESIGNS[sweep]
    x = next(stopping.simulated(sweep, "normal", 150, 10)) + design.better_first(1.5)
    question = replace(QUESTION, rule=rule)
    found = stopping.decisions(design, question.rule_of(len(design.pairs)), stopping.t_values(design, x))
    for scores, *one in zip(x.tolist(), *found, strict=True):
        rounds = [dict(zip(design.keys, row, strict=True)) for row in scores]
        expected = standings(question, Measure("fd", "FD", better=LOW), design.pairs, rounds)
        needed = [
            standings(question, Measure("fd", "FD", better=LOW), design.pairs, rounds[:n]).needed for n in range(10)
        ]
        assert one[0].tolist() == [SIGN.get(pair.outcome, 0) for pair in expected.pairs]
        assert one[1:] == [expected.rounds, sum(map(len, needed))]


@pytest.mark.parametrize("sweep", ["axes", "cells"])
def test_equal_cells_are_as_seldom_different_as_stated(stopping, sweep, monkeypatch):
    """Also: p < 0.05 at each look is three times the error, as it should be in a test that can fail."""
    monkeypatch.setattr(stopping, "RULES", [rule for rule in stopping.RULES if rule[2] <= 10])
    sweeps = 20_000
    rows = stopping.rows_of(sweep, "normal", 0, lambda seeds: stopping.simulated(sweep, "normal", sweeps, seeds))
    shares = {row[3:5]: float(row[6]) for row in rows}
    assert shares.pop(("p < 0.05/pairs at each look", "10")) > 0.15
    assert len(shares) == 5
    assert max(shares.values()) <= 0.05 + 2 * (0.05 * 0.95 / sweeps) ** 0.5
    assert min(shares[name, most] for name, most in shares if name == "bounded") > 0.045


def test_differences_are_in_their_standard_deviations(stopping):
    for design in stopping.DESIGNS.values():
        x = next(stopping.simulated("two cells" if len(design.keys) == 2 else "axes", "normal", 4000, 10))
        d = (x + design.better_first(2)) @ design.contrasts[0]
        assert d.mean() / d.std() == pytest.approx(-2, abs=0.05)


def test_scores_are_drawn_without_replacement(stopping):
    import stopping_scores

    values = np.arange(60.0)
    (x,) = stopping_scores.resampled(values, "cells", 50, 10)
    assert x.shape == (50, 10, 4)
    assert all(len(set(one.ravel())) == 40 for one in x)
    assert not [*stopping_scores.resampled(values, "cells", 50, 100)]
