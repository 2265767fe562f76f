import csv
import io
import json
import shutil

import pytest

from diffusion_lab.report.exports import row_csv
from diffusion_lab.report.findings import comparisons
from diffusion_lab.report.numbers import columns, seeds_of
from diffusion_lab.report.read import read_runs, read_sweep
from diffusion_lab.report.table import build_table

from .synthetic import table_of, write_sweep

TWO = {"schedule": ["linear", "cosine"], "seed": ["1", "2"]}


def standing(table, name, group=0):
    (found,) = [s for s in table.groups[group].standings if s.measure.name == name]
    return found


def test_seeds_are_folded_and_options_a_cell_has_not_are_none(sweep):
    table = build_table(read_sweep(sweep))
    assert table.axes == ("schedule", "variance", "sampler", "sampler.spacing.num_steps")
    assert len(table.rows) == 2 * 3 * 5 - 2 * 2  # ddim draws the same with both fixed variances
    assert {len(row.seeds) for row in table.rows} == {2}
    assert {row.choice[3] for row in table.rows if row.choice[2] == "ddpm"} == {None}


@pytest.mark.parametrize(("name", "linear", "cosine", "best", "marked"), [
    ("fd_digits_cnn", (5.0, 9.0), (4.0, 8.001), "cosine", True),
    ("fd_digits_cnn", (5.0, 6.0), (4.0, 6.1), "cosine", False),
    ("recall", (0.5, 0.6), (0.3, 0.4001), "linear", True),
], ids=["seeds agree", "within its uncertainty", "higher is better"])  # fmt: skip
def test_the_best_is_marked_where_it_is_certain(tmp_path, name, linear, cosine, best, marked):
    def change(choices, metrics):
        given = linear if choices["schedule"] == "linear" else cosine
        metrics["values"][name] = given[int(choices["seed"]) - 1]

    found = standing(table_of(tmp_path, TWO, change), name)
    assert [row.choice for row in found.best] == [(best,)]
    assert found.marked == marked


@pytest.mark.parametrize("other", [{"1": 4.00001, "2": 4.00001}, {"1": 4.03, "2": 3.97}], ids=["rounding", "written"])
@pytest.mark.parametrize("variances", [2, 3])
def test_equal_rows_have_no_leader(tmp_path, other, variances):
    """Two variances of a sampler that uses none: the difference is rounding, or is written as 0 and uncertain."""
    axes = {"variance": ["fixed_small", "learned", "fixed_large"][:variances], "seed": ["1", "2"]}
    seeds = {"fixed_small": {"1": 4.00001, "2": 4.00001}, "learned": other, "fixed_large": {"1": 12.4, "2": 12.6}}
    if other == seeds["fixed_small"]:
        seeds["fixed_small"] = {"1": 4.000011, "2": 4.000011}

    def change(choices, metrics):
        metrics["values"]["fd_digits_cnn"] = seeds[choices["variance"]][choices["seed"]]

    table = table_of(tmp_path, axes, change)
    found = standing(table, "fd_digits_cnn")
    assert {row.choice for row in found.best} == {("fixed_small",), ("learned",)}
    assert len(found.ranking.others) == variances - 2
    assert len([1 for _, name in table.groups[0].marked if name == "fd_digits_cnn"]) in (0, 2)


def test_another_number_of_samples_is_another_group_and_never_ranked_with_the_first(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "evaluation.num_samples": ["360", "64"], "seed": ["1", "2"]}

    def change(choices, metrics):
        metrics["protocol"]["samples"]["num_images"] = int(choices["evaluation.num_samples"])

    table = table_of(tmp_path, axes, change)
    assert [{row.choice[1] for row in group.rows} for group in table.groups] == [{"360"}, {"64"}]


@pytest.mark.parametrize("noise", ["own", "shared"])
def test_the_error_of_samples_is_counted_once(tmp_path, noise):
    """Where each seed draws its own samples, the spread over seeds contains it."""

    def change(choices, metrics):
        metrics["sources"] = {"fd_digits_cnn": {"samples": [0.1, -0.1], "real images": [0.2, -0.2]}}
        if noise == "shared":
            metrics["protocol"]["samples"]["seed"] = 0

    (group,) = table_of(tmp_path, TWO, change).groups
    over = {"own": "seeds and real images", "shared": "seeds, samples and real images"}[noise]
    assert {row.values["fd_digits_cnn"].error_over for row in group.rows} == {over}


def test_draws_from_other_noise_are_rows_of_their_own(tmp_path):
    """Even if all that was counted on them is equal."""

    def change(choices, metrics):
        metrics["protocol"]["samples"]["seed"] = int(choices["evaluation.seed"])
        metrics["values"] = {"precision": 0.95, "nfe": 50}

    (group,) = table_of(tmp_path, {"evaluation.seed": ["3", "4"], "seed": ["1", "2"]}, change).groups
    assert [row.choice for row in group.rows] == [("3",), ("4",)]


def test_bounds_of_another_kind_are_ranked_apart(sweep):
    (group,) = build_table(read_sweep(sweep)).groups
    standings = [s for s in group.standings if s.measure.name == "bits_per_dim"]
    samplers = [{row.choice[2] for row in s.rows} for s in standings]
    assert samplers == [{"ddpm"}, {"strided"}, {"ddim"}]


def test_seconds_of_another_machine_are_ranked_apart(tmp_path):
    def change(choices, metrics):
        metrics["protocol"]["cost"]["device"] = "cuda" if choices["schedule"] == "cosine" else "cpu"

    (group,) = table_of(tmp_path, TWO, change).groups
    assert not [s for s in group.standings if s.measure.name == "seconds_per_1000_samples"]


@pytest.mark.parametrize("axis", ["fd_digits_cnn", "bits_per_dim"])
def test_a_row_with_fewer_seeds_is_not_ranked(tmp_path, axis):
    sweep = write_sweep(tmp_path, axes=TWO)
    cells = read_sweep(sweep).cells
    best = next(cell for cell in cells if cell.choices == {"schedule": "cosine", "seed": "1"})
    best.run.metrics.unlink()
    (group,) = build_table(read_sweep(sweep)).groups
    (found,) = [s for s in group.standings if s.measure.name == axis]
    assert [row.choice for row in found.best] == [("linear",)]
    assert [len(row.done) for row in group.rows] == [2, 1]
    assert not found.ranking.others


def test_rows_with_other_seeds_in_part_are_not_ranked(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "seed": ["1", "2", "3", "4"]}
    given = {"linear": {"1": 1.0, "2": 5.0, "3": 6.0}, "cosine": {"2": 4.5, "3": 5.5, "4": 9.0}}

    def change(choices, metrics):
        metrics["values"]["fd_digits_cnn"] = given[choices["schedule"]].get(choices["seed"], 0.0)

    sweep = write_sweep(tmp_path, axes=axes, change=change)
    for cell in read_sweep(sweep).cells:
        if cell.choices["seed"] not in given[cell.choices["schedule"]]:
            cell.run.metrics.unlink()
    found = standing(build_table(read_sweep(sweep)), "fd_digits_cnn")
    assert not found.marked  # linear has the lower mean, and cosine is better for both shared seeds
    assert not found.ranking.others


def test_rows_without_a_shared_seed_are_ranked(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "seed": ["1", "2", "3", "4"]}

    def change(choices, metrics):
        worse = choices["schedule"] == "linear"
        metrics["values"]["fd_digits_cnn"] = int(choices["seed"]) / 100 + worse

    sweep = write_sweep(tmp_path, axes=axes, change=change)
    for cell in read_sweep(sweep).cells:
        if (cell.choices["schedule"] == "linear") == (cell.choices["seed"] in "12"):
            cell.run.metrics.unlink()
    found = standing(build_table(read_sweep(sweep)), "fd_digits_cnn")
    assert found.marked
    assert [row.choice for row in found.best] == [("cosine",)]


def test_a_seed_that_was_scored_twice_counts_once(tmp_path):
    axes = {"schedule": ["linear", "cosine"]}
    sweep = write_sweep(tmp_path, axes=axes)
    first = tmp_path / "runs" / "a-first-score"
    shutil.copytree(read_sweep(sweep).cells[0].run.path, first)
    metrics = json.loads((first / "metrics.json").read_text())
    metrics["values"] = {k: v for k, v in metrics["values"].items() if not k.startswith("bits_per_dim")}
    del metrics["protocol"]["bound"]
    (first / "metrics.json").write_text(json.dumps(metrics))
    table = build_table(read_runs(sorted((tmp_path / "runs").iterdir()), "picked"))
    (group,) = table.groups
    assert [(len(row.done), seeds_of(row)) for row in group.rows] == [(1, "1"), (2, "1")]
    assert {line["seeds"] for line in csv.DictReader(io.StringIO(row_csv(table)))} == {"1"}
    assert standing(table, "bits_per_dim").ranking.others


def test_a_row_whose_seeds_were_measured_differently_is_ranked_with_no_other(tmp_path):
    axes = {"variance": ["fixed_small", "fixed_large", "learned"], "seed": ["1", "2", "3"]}

    def change(choices, metrics):
        slow = choices["variance"] != "fixed_small" and choices["seed"] != "1"
        metrics["protocol"]["cost"]["device"] = "cpu" if slow else "H100"

    (group,) = table_of(tmp_path, axes, change).groups
    name = "seconds_per_1000_samples"
    assert not [s for s in group.standings if s.measure.name == name]
    (column,) = [column for column in columns(group) if column.measure.name == name]
    mixed = "H100; for other seeds cpu"
    assert column.notes == {"a": "H100", "b": mixed, "c": mixed}


def test_what_a_sentence_calls_decided_is_bold(tmp_path):
    """Though the table has more columns than the sentences have measures."""

    def change(choices, metrics):
        seed, worse = int(choices["seed"]), choices["schedule"] == "linear"
        metrics["values"]["fd_digits_cnn"] = 4.0 + worse * (1.0 + 0.2 * seed)
        metrics["values"]["bits_per_dim"] = 2.0 + worse * (1.0 + 0.3 * seed)

    table = table_of(tmp_path, {"schedule": ["linear", "cosine"], "seed": ["1", "2", "3"]}, change)
    (group,) = table.groups
    decided = {one.measure.name for one in comparisons(table, group) if one.sure}
    assert decided == {"fd_digits_cnn", "bits_per_dim"}
    assert {name for _, name in group.marked} >= decided
