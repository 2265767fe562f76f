"""Sweeps that add seeds until each difference is decided: `train -m … sweep.decide.measure=…`."""

import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import replace

import pytest

from diffusion_lab.report import make
from diffusion_lab.store.measures import Measure
from diffusion_lab.sweeps.decide import Look, Outcome, Pair, Question, Standing, Standings, said_of

from .cluster import PACED, SLURM, in_queue, jobs, models, wait_until
from .conftest import TINY, files

# A measure with known differences: the learning rate, and 0.01·(±1 by seed, for the second rate only).
MINE = """\
from pathlib import Path

from diffusion_lab.metrics.metric import Metric, Scores
from diffusion_lab.report import make
from diffusion_lab.store.measures import Measure


class Mine(Metric):
    needs = ()

    def __init__(self, rate, shift=0.0, unused=0):
        self.rate, self.shift = rate, shift

    def measures(self, namings):
        return [Measure("mine", "mine", better="lower", agrees=("samples",)), Measure("fact", "fact")]

    def score(self, subject):
        seed = subject.settings.seed
        if Path(".fails").exists() and seed == int(Path(".fails").read_text()):
            raise RuntimeError("a cosmic ray")
        wobble = 0.01 * (-1) ** seed if self.rate == 0.002 else 0.001 * seed * self.rate
        return Scores({"mine": 10 * self.rate * (self.rate == 0.1) + wobble + self.shift * (1 + 0.01 * seed), "fact": 1.0})
"""
METRIC = ["metrics=network_evaluations", "+metrics.mine._target_=rated.Mine", "+metrics.mine.rate=${optimizer.lr}"]
SMALL = [option for option in TINY if not option.startswith("metrics.")]
OPTIONS = [*SMALL, *METRIC, "sampler.spacing.num_steps=2", "trainer.max_steps=1"]
DECIDE = ["sweep.decide.measure=mine", "sweep.decide.most_seeds=4"]
TWO = "optimizer.lr=0.001,0.002"
RATES = ["optimizer.lr=0.001,0.002,0.1"]
SWEEP = ["train", "-m", *OPTIONS, *RATES, *DECIDE]
DECIDED = [
    "after 3 seeds: lr 0.001 is better than 0.1 by 1.0",
    "after 3 seeds: lr 0.002 is better than 0.1 by 1.0",
    "after 4 seeds: lr 0.001 and 0.002 are undecided: ",
]


@pytest.fixture
def lab(lab):
    (lab.folder / "rated.py").write_text(MINE)
    return lab


@pytest.fixture
def no_report(monkeypatch):
    """Its figures take most of the time of a small sweep."""
    monkeypatch.setattr(make, "make_report", lambda directory, show: directory.report)


def content(folder):
    """sweep.json of the only sweep, but for the time."""
    (file,) = (folder / "outputs" / "sweeps").glob("*/sweep.json")
    return {key: value for key, value in json.loads(file.read_text()).items() if key not in ("created", "command")}


def said(out):
    """The lines on pairs that were closed."""
    return [line for line in out.splitlines() if line.startswith("after ")]


def trained(folder):
    """(learning rate, seed) of the cells of the sweep."""
    return {(cell["choices"]["optimizer.lr"], cell["choices"]["seed"]) for cell in content(folder)["cells"]}


def assert_decided(folder, out):
    """The choice that lost to both others is not trained with the fourth seed."""
    assert all(line.startswith(words) for line, words in zip(said(out), DECIDED, strict=True)), out
    assert trained(folder) == {(r, s) for r in ("0.001", "0.002", "0.1") for s in "1234"} - {("0.1", "4")}
    assert len(models(folder)) == 11
    assert content(folder)["axes"] == {"optimizer.lr": ["0.001", "0.002", "0.1"], "seed": ["1", "2", "3", "4"]}


def test_seeds_are_added_until_every_pair_is_closed(lab, no_report):
    """The same command again trains nothing."""
    out = lab.done(*SWEEP)
    assert "3 pairs of choices by mine; 3 trainings per seed: at least 9, at most 12" in out.splitlines()
    assert "seed 4: 2 models: 2 to train, 0 reused; 2 cells: 2 to score, 0 scored already" in out
    assert_decided(lab.folder, out)
    lines, sweep = said(out), content(lab.folder)

    before = {path: path.stat().st_mtime_ns for path in (lab.folder / "outputs").glob("*/*/training.json")}
    again = lab.done(*SWEEP)
    assert said(again) == lines
    assert "0 to train" in again
    assert " 1 to train" not in again
    assert content(lab.folder) == sweep
    assert before == {path: path.stat().st_mtime_ns for path in (lab.folder / "outputs").glob("*/*/training.json")}
    status = " ".join(lab.done("status").split())
    assert all(line in status for line in lines)
    assert "no pair is open; trainings saved beside 4 seeds of every cell: 1 of 12" in status


@pytest.mark.thorough
def test_a_failed_cell_ends_the_sweep_after_its_round(lab, no_report):
    """The same command goes on, also where an earlier seed is scored again; and with more seeds, by the open rule.

    The most seeds are not in the name of the sweep.
    """
    sweep = ["train", "-m", *OPTIONS, TWO, DECIDE[0], "sweep.decide.rule=open", "sweep.decide.most_seeds=3"]
    (lab.folder / ".fails").write_text("2")
    code, out, err = lab(*sweep)
    assert code == 1
    assert "a cosmic ray" in err
    assert "run the same command" in err
    assert "report outputs" in out
    assert {seed for _, seed in trained(lab.folder)} == {"1", "2"}
    assert "1 of 1 pairs are open" in lab.done("status")
    (lab.folder / ".fails").unlink()
    decided = said(lab.done(*sweep))
    assert decided == ["after 3 seeds: lr 0.001 and 0.002 are undecided"]
    assert len(models(lab.folder)) == 6

    cells = trained(lab.folder)
    (lab.folder / ".fails").write_text("1")
    assert lab(*sweep, "rescore=true")[0] == 1
    (lab.folder / ".fails").unlink()
    assert said(lab.done(*sweep)) == decided
    assert trained(lab.folder) == cells

    more = said(lab.done(*sweep, "sweep.decide.most_seeds=4"))
    assert more[0].startswith("after 4 seeds: lr 0.001 and 0.002 are undecided")
    assert content(lab.folder)["axes"]["seed"] == ["1", "2", "3", "4"]


@pytest.mark.thorough
def test_small_and_equal_differences_end_a_sweep(lab, no_report):
    """`smallest`, a difference that is zero in every seed, and another first seed; with the models of one sweep."""
    one = ["train", "-m", *OPTIONS, "optimizer.lr=0.001", "seed=5", *DECIDE, "+metrics.mine.unused=0"]
    out = lab.done(*one[:-1], "+metrics.mine.unused=1,2")
    assert "after 3 seeds: unused 1 and 2 are equal in every seed" in out.splitlines()
    assert content(lab.folder)["axes"]["seed"] == ["5", "6", "7"]
    small = [*one[:-1], "+metrics.mine.shift=1,1.02", "hydra.sweeper.name=small"]
    assert any(line.startswith("after 3 seeds: shift 1 is better than 1.02 by 0.0") for line in said(lab.done(*small)))
    out = lab.done(*small[:-1], "hydra.sweeper.name=close", "sweep.decide.smallest=0.5", "sweep.decide.error=1e-6")
    assert any(line.startswith("after 3 seeds: shift 1 and 1.02 are equal within ±0.5: ") for line in said(out)), out
    assert len(models(lab.folder)) == 3


def test_an_option_without_effect_is_refused(lab):
    """Without -m, without a measure, and with another sweeper, whose jobs fail."""
    lab.refused("train", *OPTIONS, DECIDE[0], said="sweep.decide.measure=mine works only in a sweep: add -m")
    idle = "sweep.decide.error=0.1"
    lab.refused("train", "-m", *OPTIONS, TWO, idle, said=f"{idle} has no effect without sweep.decide.measure")
    code, _, err = lab("train", "-m", *OPTIONS, TWO, DECIDE[0], "hydra/sweeper=basic")
    assert code == 1
    assert "sweep.decide.measure=mine does not work with hydra/sweeper=basic: remove one of the two" in err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("sweep.decide.error=0", "sweep.decide.error=0 must be between 0 and 1"),
        ("sweep.decide.most_seeds=3.5", "sweep.decide.most_seeds=3.5"),
        ("sweep.decide.error=0.1,0.2", "cannot differ between the cells of a sweep"),
        ("sweep.decide.wait=true", "has no effect without hydra/launcher=slurm"),
        ("score=false", "remove score=false"),
        ("seed=1,2", "each round has a seed of its own"),
        ("optimizer.lr=0.001", "has nothing to compare"),
        ("sweep.decide.measure=fid", "the score has no such value; choose one of"),
        ("sweep.decide.measure=fact", "has no better direction; choose one of"),
    ],
)
def test_an_impossible_question_is_refused(lab, option, words):
    """Before anything is trained, with the option as it was typed."""
    lab.refused("train", "-m", *OPTIONS, TWO, *DECIDE, option, said=words)


QUESTION = Question("fid", most_seeds=3, error=0.05, rule="bounded", pairs="axes", smallest=None, first_seed=1)


@pytest.mark.parametrize(
    ("name", "value"), [("most_seeds", 2), ("error", 1.0), ("rule", "pocock"), ("pairs", "all"), ("smallest", 0.0)]
)
def test_a_value_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^sweep.decide.{name}={value} must be "):
        replace(QUESTION, **{name: value})


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_sentence(outcome):
    """With the choices, the number of seeds, and the difference in favour of the better one where it is decided."""
    pair = Pair("schedule", "linear", "cosine", ())
    one = Standing(pair, outcome, (0.1, 0.2, 0.15), (Look(3, 0.15, 0.012),))
    said = said_of(one, Standings(QUESTION, Measure("fid", "FID", better="lower"), (one,), 3))
    assert re.match(r"after 3 seeds: schedule (linear|cosine) ", said)
    assert {"linear", "cosine"} <= {*re.findall(r"\w+", said)}
    if outcome in (Outcome.BETTER, Outcome.WORSE, Outcome.CLOSE, Outcome.UNDECIDED):
        assert said.endswith(" 0.150 [0.138, 0.162]")


def test_cells_measured_differently_are_not_compared(lab):
    axis = ["optimizer.lr=0.001", "evaluation.num_samples=8,9"]
    code, _, err = lab("train", "-m", *OPTIONS, *axis, *DECIDE)
    assert code == 1
    assert "evaluation.num_samples=8 and 9 are measured in different ways (samples) and cannot be compared" in err
    assert "cannot be compared" in " ".join(lab.done("status").split())


def test_a_plan_shows_the_first_round(lab):
    out = lab.done(*SWEEP, "hydra.sweeper.dry_run=true", "sweep.decide.pairs=cells")
    assert "3 pairs of cells by mine" in out
    assert out.count("\ntrain  ") == 3
    assert files(lab.folder) == ["rated.py"]


# ---- kill -9 in the first and in a later round: the decisions are those of an undisturbed sweep ----

SLOW = [
    *(option for option in OPTIONS if not option.startswith("trainer.max_steps")),
    "trainer.max_steps=4",
    "callbacks.progress._target_=paced.Paced",
]


@pytest.mark.thorough
def test_a_sweep_killed_twice_decides_the_same(tmp_path, zygote):
    """Its measure depends on the rate and the seed alone, so an undisturbed sweep decides as above."""
    (tmp_path / "rated.py").write_text(MINE)
    (tmp_path / "paced.py").write_text(PACED)
    (tmp_path / ".seconds_a_step").write_text("0.2")

    def start():
        return zygote.start(tmp_path, "train", "-m", *SLOW, *RATES, *DECIDE)

    for number in (2, 10):  # models: in the first round, and in the fourth, which follows decisions
        running = start()
        wait_until(lambda number=number: len(models(tmp_path)) >= number)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        assert len(models(tmp_path)) == number
    (tmp_path / ".seconds_a_step").unlink()
    running = start()
    out, err = running.communicate()
    assert running.returncode == 0, err
    assert_decided(tmp_path, out)


@pytest.mark.thorough
@pytest.mark.needs("slurm-wlm, munge")
@pytest.mark.usefixtures("cluster")
def test_a_round_is_an_array_of_jobs(tmp_path, zygote):
    """The same command submits the next one; with wait=true it goes on by itself until all is decided."""
    (tmp_path / "rated.py").write_text(MINE)
    (tmp_path / "paced.py").write_text(PACED)
    (tmp_path / ".seconds_a_step").write_text("3")
    slow = [*SLOW, "trainer.max_steps=1"]

    def run(*more):
        running = zygote.start(tmp_path, "train", *SLURM, *slow, "optimizer.lr=0.001,0.1", *DECIDE, *more)
        out, err = running.communicate()
        assert running.returncode == 0, err
        return out

    out = run()
    assert "submitted as" in out
    assert "goes on with the next seed" in out
    first = jobs(tmp_path)
    assert len(first) == 2
    assert "in the queue already: 2 of 2 jobs" in run()
    (tmp_path / ".seconds_a_step").unlink()
    wait_until(lambda: not {*first.values()} & in_queue().keys(), 200, pause=0.5)
    assert "seed 2: 2 models: 2 to train" in run()
    assert len(jobs(tmp_path)) == 4
    out = run("sweep.decide.wait=true")
    assert said(out)[0].startswith("after 3 seeds: lr 0.001 is better than 0.1 by 1.0"), out
    assert len(jobs(tmp_path)) == 6
    assert "submitted" not in run()
