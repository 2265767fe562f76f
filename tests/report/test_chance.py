"""Of reports on equal cells at most 5 % claim anything, whatever the number of cells, seeds and columns: by simulation."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from diffusion_lab.report.findings import comparisons, curve_findings
from diffusion_lab.report.table import Cell, Gathered, build_table
from diffusion_lab.store import ModelDirectory, RunDirectory
from diffusion_lab.store.measures import LOW, SAMPLES, Measure

BLOCKS = 20


MEASURES = [Measure(f"m{i}", f"m{i}", better=LOW, headline=True) for i in range(5)]


def cell(choices, values, of, sources=None):
    measures = [measure for measure in MEASURES if measure.name in values]
    run, model = RunDirectory(Path("-".join(choices.values()))), ModelDirectory(Path(of))
    return Cell(choices, run, model, "done", "", values, {}, {}, measures, sources or {})


def equal_cells(random, rows, seeds, columns):
    """Every training is drawn from one distribution, and so are its samples, whose noise is a third of that of trainings."""
    cells = []
    for row in range(rows):
        for seed in range(seeds):
            blocks = random.standard_normal((columns, BLOCKS)) * BLOCKS**0.5 / 3
            values = 10 + random.standard_normal(columns) + blocks.mean(1)
            named = {f"m{i}": float(value) for i, value in enumerate(values)}
            sources = {f"m{i}": {SAMPLES: list(block - block.mean())} for i, block in enumerate(blocks)}
            cells.append(cell({"row": str(row), "seed": str(seed)}, named, f"{row}-{seed}", sources))
    return Gathered("equal", {"row": [*map(str, range(rows))], "seed": [*map(str, range(seeds))]}, cells)


def at_most_a_twentieth(claims):
    """Three standard errors of the share are allowed for."""
    return np.mean(claims) <= 0.05 + 3 * (0.05 * 0.95 / len(claims)) ** 0.5


@pytest.mark.parametrize(
    ("rows", "seeds"),
    [(20, 1), (2, 2), *(pytest.param(*more, marks=pytest.mark.thorough) for more in ((2, 5), (20, 3)))],
)
def test_equal_cells_have_no_best(rows, seeds):
    random, claims = np.random.default_rng(rows + 100 * seeds), []
    for _ in range(200 if rows < 20 else 60):
        claims.append(bool(build_table(equal_cells(random, rows, seeds, 5)).groups[0].marked))
    assert at_most_a_twentieth(claims)
    assert seeds > 1 or not any(claims), "one seed decides nothing between trainings"


def grid(random, rows, settings, seeds, training, effect=0.0):
    """Every row in every setting: equal but for `effect` on row 0. training: the name of a cell's training."""
    cells = []
    for row, setting, seed in product(range(rows), range(settings), range(seeds)):
        blocks = random.standard_normal((2, BLOCKS)) * BLOCKS**0.5 / 3
        of_training = 0 if training == "one" else random.standard_normal(2)
        values = 10 + 3 * setting + of_training + blocks.mean(1) - (effect if row == 0 else 0)
        named = {f"m{i}": float(value) for i, value in enumerate(values)}
        sources = {f"m{i}": {SAMPLES: list(block - block.mean())} for i, block in enumerate(blocks)}
        choices = {"row": str(row), "setting": str(setting), "seed": str(seed)}
        cells.append(cell(choices, named, training if training == "one" else f"{row}-{setting}-{seed}", sources))
    sizes = {"row": rows, "setting": settings, "seed": seeds}
    return Gathered("grid", {axis: [*map(str, range(n))] for axis, n in sizes.items()}, cells)


def decided(gathered):
    """Whether anything is claimed of the rows."""
    table = build_table(gathered)
    return any(one.sure for one in comparisons(table, table.groups[0]) if one.what == "row")


@pytest.mark.parametrize(
    ("rows", "settings", "seeds", "training"),
    [
        (2, 1, 2, "each"),
        pytest.param(5, 2, 3, "each", marks=pytest.mark.thorough),
        (2, 4, 1, "each"),
        (2, 4, 1, "one"),
    ],
)
def test_axes_without_an_effect_have_no_winner(rows, settings, seeds, training):
    random = np.random.default_rng(rows + 10 * settings + 100 * seeds)
    claims = [decided(grid(random, rows, settings, seeds, training)) for _ in range(150)]
    assert at_most_a_twentieth(claims)
    assert seeds > 1 or training == "one" or not any(claims), "one seed decides nothing between trainings"


@pytest.mark.parametrize(("seeds", "training"), [(3, "each"), (1, "one")])
def test_an_axis_with_a_large_effect_has_one(seeds, training):
    random = np.random.default_rng(0)
    assert decided(grid(random, 2, 4, seeds, training, effect=20.0))
    assert not decided(grid(random, 2, 4, 1, "each", effect=20.0))


def test_samplers_of_one_training_are_told_apart():
    random = np.random.default_rng(0)
    cells = []
    for row in range(2):
        blocks = random.standard_normal(BLOCKS)
        values, sources = {"m0": 10.0 + 3 * row}, {"m0": {SAMPLES: list(blocks - blocks.mean())}}
        cells.append(cell({"row": str(row)}, values, "one", sources))
    (standing,) = build_table(Gathered("samplers", {"row": ["0", "1"]}, cells)).groups[0].standings
    assert standing.marked


def curves(random, lines, seeds, axis, cost, crossing=0.0):
    """Every line is one number per seed and a little noise at every point, as the moments of one training are; line 0 falls below
    the others by `crossing` at the last cost and is as much above them at the first."""
    cells, labels = [], ("5", "10", "20", "40")
    for line in range(lines):
        for seed in range(seeds):
            of_seed = random.standard_normal(2)
            for place, label in enumerate(labels):
                tilt = crossing * (1 - 2 * place / 3) * (line == 0)
                values = of_seed + 0.3 * random.standard_normal(2) + 100 + tilt
                named = {"m0": float(values[0]), "m1": float(values[1]), cost: float(label)}
                choices = {"line": str(line), axis: label, "seed": str(seed)}
                cells.append(cell(choices, named, f"{line}-{seed}"))
    axes = {"line": [*map(str, range(lines))], axis: [*labels], "seed": [*map(str, range(seeds))]}
    return Gathered("curves", axes, cells)


def claims_of(gathered):
    table = build_table(gathered)
    return [said for group in table.groups for said in curve_findings(table, group)]


BY_COST = [("trainer.max_steps", "training_seconds"), ("sampler.spacing.num_steps", "nfe")]


@pytest.mark.parametrize(("axis", "cost"), BY_COST)
@pytest.mark.parametrize(
    ("lines", "seeds"),
    [pytest.param(4, 2, marks=pytest.mark.thorough), (2, 3), pytest.param(4, 3, marks=pytest.mark.thorough)],
)
def test_equal_curves_do_not_cross(axis, cost, lines, seeds):
    random = np.random.default_rng(lines + 100 * seeds)
    claims = [bool(claims_of(curves(random, lines, seeds, axis, cost))) for _ in range(150)]
    assert at_most_a_twentieth(claims)
    assert seeds > 2 or not any(claims), "a sentence on curves needs three seeds"


@pytest.mark.parametrize(("axis", "cost"), BY_COST)
def test_a_crossing_by_far_is_named(axis, cost):
    (first, second) = claims_of(curves(np.random.default_rng(0), 2, 5, axis, cost, crossing=30.0))
    assert {first.what.partition(" ")[0], second.what.partition(" ")[0]} == {"m0", "m1"}
