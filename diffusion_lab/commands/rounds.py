"""The rounds of `train -m`, each planned and run as a whole: an ordinary sweep has one, with sweep.decide there is one a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store import RunError, SweepDirectory
from diffusion_lab.sweeps.axes import Axis
from diffusion_lab.sweeps.decide import (
    SEED,
    Key,
    Outcome,
    Question,
    Standings,
    key_of,
    pairs_of,
    read_standings,
    said_of,
)
from diffusion_lab.sweeps.plan import Plan, sweep_content
from diffusion_lab.sweeps.stopping import FIRST_LOOK
from diffusion_lab.terminal import Terminal


class Round(NamedTuple):
    """axes: of the round. reads: the keys of its cells; None: all combinations."""

    axes: Sequence[Axis]
    reads: set[Key] | None = None


class OneRound:
    """The only round of an ordinary sweep.

    axes: of the sweep. directory: its folder. about: further entries of sweep.json. then: what the same command does when the jobs
    of a cluster are done.
    """

    then = "writes the report"

    def __init__(self, axes: Sequence[Axis], directory: SweepDirectory, about: Mapping[str, Any]) -> None:
        self.axes, self.directory, self.about = axes, directory, about
        self.swept = {axis.key: list(axis.overrides) for axis in axes if axis.swept}

    def __iter__(self) -> Iterator[Round]:
        """Each round, when the one before is done."""
        yield Round(self.axes)

    def announced(self, plan: Plan, notes: Sequence[str], requested: Sequence[str]) -> list[str]:
        """What is printed before a round. notes: on its plan. requested: of a cluster."""
        return [*plan.summary(), *notes, *requested, f"sweep {self.directory.path}"]

    def write(self, plan: Plan) -> None:
        """Write sweep.json before a round."""
        self.directory.write_sweep(sweep_content(plan, axes=self.swept, **self.about))


class SeedBySeed(OneRound):
    """A round for each seed until every pair is closed. The standings are read from the scores after each round.

    console: for what has been decided.
    """

    then = "goes on with the next seed, or writes the report"

    def __init__(self, question: Question, console: Terminal, *of_sweep: Any) -> None:
        super().__init__(*of_sweep)
        self.question, self.console = question, console
        self.cells: list[dict[str, Any]] = []  # of the rounds that this command has planned

    def __iter__(self) -> Iterator[Round]:
        before: Standings | None = None
        axes = [axis for axis in self.axes if axis.key != SEED]
        for number, seed in enumerate(self.question.seeds, 1):
            of_seed = Axis(SEED, {str(seed): f"{SEED}={seed}"})
            yield Round([*axes, of_seed], None if before is None else before.needed)
            now = read_standings(self.directory, number)
            if now is None:
                raise RunError(f"the scores of {self.directory.path} are gone: run the same command again")
            self._say(before, now)
            if now.over:
                return
            before = now

    def _say(self, before: Standings | None, now: Standings) -> None:
        """A line for each pair that the last round has closed."""
        new = [one for i, one in enumerate(now.pairs) if before is None or before.pairs[i].outcome is Outcome.OPEN]
        for one in sorted(new, key=lambda one: one.outcome is Outcome.LOST):
            if one.outcome is not Outcome.OPEN:
                self.console.print(said_of(one, now))

    def announced(self, plan: Plan, notes: Sequence[str], requested: Sequence[str]) -> list[str]:
        first = [] if self.cells else [*self._pairs(plan), f"sweep {self.directory.path}"]
        (seed,) = {cell.choices[SEED] for cell in plan.cells}
        of_seed = [f"seed {seed}: {'; '.join([*plan.summary(), *notes])}", *requested] if plan.jobs or first else []
        return [*first, *of_seed]

    def _pairs(self, plan: Plan) -> Iterator[str]:
        """The number of pairs, and the least and the most number of trainings. MistakeError without a pair."""
        question = self.question
        pairs = pairs_of([key_of(cell.choices) for cell in plan.cells], self.swept, question.pairs)
        if not pairs:
            given = f"sweep.decide.measure={question.measure}"
            raise MistakeError(
                f"{given} has nothing to compare: give an option several values, such as schedule=linear,cosine"
            )
        read = {key for pair in pairs for two in pair.cells for key in two}
        models = len({cell.model.path for cell in plan.cells if key_of(cell.choices) in read})
        what = f"{len(pairs)} pair{'s' * (len(pairs) > 1)} of {'choices' if question.pairs == 'axes' else 'cells'}"
        per_seed = f"{models} training{'s' * (models > 1)} per seed"
        bounds = f"at least {models * FIRST_LOOK}, at most {models * question.most_seeds}"
        yield f"{what} by {question.measure}; {per_seed}: {bounds}"
        if unread := sum(key_of(cell.choices) not in read for cell in plan.cells):
            yield f"no other cell has the options of {unread} of the {len(plan.cells)} cells, so only the first seed has them"

    def write(self, plan: Plan) -> None:
        """With the cells of the rounds until now: a command that is run again goes through all of them anew."""
        self.cells += sweep_content(plan)["cells"]
        axes = {**self.swept, SEED: list(dict.fromkeys(cell["choices"][SEED] for cell in self.cells))}
        self.directory.write_sweep({**self.about, "axes": axes, "decide": vars(self.question), "cells": self.cells})
