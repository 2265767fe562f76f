"""What one axis does, the others averaged, and the sentence on it."""

import re
from dataclasses import replace

import pytest

from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.report.comparison import Measured, difference
from diffusion_lab.report.findings import MORE_SEEDS, NO_ERRORS, axis_findings, best_cell, effect_of, findings, unranked
from diffusion_lab.report.numbers import columns, label
from diffusion_lab.report.read import read_sweep
from diffusion_lab.report.table import build_table

from .synthetic import AXES, table_of, write_sweep

BITS, _ = BitsPerDim().measures([])
ADDED = {"linear": 1.0, "cosine": 0.0, "fixed_small": 4.0, "fixed_large": 2.0, "learned": 0.0}
TWO_SEEDS, ONE_SEED = ({"schedule": ["linear", "cosine"], "seed": seeds} for seeds in (["1", "2"], ["1"]))


def additive(choices, metrics):
    steps = {"10": 3.0, "50": 1.0, None: 0.0}[choices["sampler.spacing.num_steps"]]
    seed = 0.1 * int(choices["seed"])
    metrics["values"]["bits_per_dim"] = 2.0 + ADDED[choices["schedule"]] + ADDED[choices["variance"]] + steps + seed


def of_one_kind(choices, metrics):
    additive(choices, metrics)
    metrics["protocol"]["bound"]["kind"] = "bound of a strided chain"


def effect(sweep, axis):
    table = build_table(read_sweep(sweep))
    return effect_of(table, table.groups[0], BITS, axis)


def test_an_additive_effect_is_found_exactly(tmp_path):
    """Though cells are missing."""
    sweep = write_sweep(tmp_path, axes=AXES, change=additive)
    for cell in read_sweep(sweep).cells[1::11]:
        cell.run.metrics.unlink()
    found = effect(sweep, "variance")
    assert found.values == ["fixed_small", "fixed_large", "learned"]
    assert [one.mean - found.means[2].mean for one in found.means] == pytest.approx([4.0, 2.0, 0.0])


def test_a_value_that_is_never_alone_in_differing_is_left_out(tmp_path):
    sweep = write_sweep(tmp_path, axes=AXES, change=of_one_kind)
    assert effect(sweep, "sampler").left_out == ["ddpm"]  # it has no number of steps, so more than the sampler differs
    steps = effect(sweep, "sampler.spacing.num_steps")
    assert steps.left_out == [None]
    assert steps.means[0].mean - steps.means[1].mean == pytest.approx(2.0)


def test_errors_are_over_seeds(tmp_path):
    found = effect(write_sweep(tmp_path, axes=AXES, change=additive), "schedule")
    assert [one.parts["seeds"] for one in found.means] == pytest.approx([0.05, 0.05])  # of 0.1 and 0.2
    assert found.settings == len(found.sets)


@pytest.mark.parametrize("by_seed", [False, True])
def test_bounds_of_different_kinds_are_not_compared(tmp_path, by_seed):
    axes = {"sampler": ["strided", "ddim"], "variance": ["fixed_large", "learned"], "seed": ["1", "2"]}

    def change(choices, metrics):
        other = choices["seed"] == "2" if by_seed else choices["sampler"] == "ddim"
        metrics["values"]["bits_per_dim"] = ADDED[choices["variance"]] + 5.0 * other
        metrics["protocol"]["bound"]["kind"] = f"bound {other}"

    sweep = write_sweep(tmp_path, axes=axes, change=change)
    assert (effect(sweep, "sampler") is None) == (not by_seed)
    sets = sorted(effect(sweep, "variance").sets)
    assert sets == ([[2.0, 0.0], [2.0, 0.0], [7.0, 5.0], [7.0, 5.0]] if by_seed else [[2.0, 0.0], [7.0, 5.0]])


def sentences(outputs, axes, change):
    table = table_of(outputs, axes, change)
    return {one.what: one for one in findings(table, table.groups[0])}


def test_each_axis_is_one_sentence_with_its_difference(tmp_path):
    def change(choices, metrics):
        additive(choices, metrics)
        metrics["values"]["bits_per_dim"] += 0.02 * int(choices["seed"]) * (choices["schedule"] == "linear")
        metrics["values"]["fd_digits_cnn"] = 3.0

    axes = AXES | {"sampler": ["strided"]}
    said = sentences(tmp_path, axes, change)
    # A distance that is the same everywhere has no best cell.
    assert [*said] == ["schedule", "variance", "num_steps", "bits/dim"]
    assert said["schedule"].sure
    told = re.findall(r"linear|cosine|[\d.]+", said["schedule"].text)
    assert told == ["linear", "cosine", "cosine", "linear", "1.03", "0.13", "2", "6"]


@pytest.mark.parametrize(("axes", "other"), [(TWO_SEEDS, (0.1, -0.2)), (ONE_SEED, (5.0, 0.0)), (TWO_SEEDS, (0.0, 0.0))],
                         ids=["noise", "one seed", "equal"])  # fmt: skip
def test_without_certainty_there_is_no_winner(tmp_path, axes, other):
    def change(choices, metrics):
        for name in ("fd_digits_cnn", "bits_per_dim"):
            by = other[int(choices["seed"]) - 1] if choices["schedule"] == "linear" else 0.0
            metrics["values"][name] = 4.0 + int(choices["seed"]) + by

    table = table_of(tmp_path, axes, change)
    (said,) = axis_findings(table, table.groups[0])
    assert not said.sure
    assert "better" not in said.text
    for one in table.groups[0].standings:
        column = next(column for column in columns(table.groups[0]) if column.measure == one.measure)
        assert "best cell," not in best_cell(one, column).text


def test_samplings_of_one_training_lack_errors_and_not_seeds():
    a, b = (Measured({"1": value}, trainings={"1": "one"}) for value in (1.0, 2.0))
    assert difference(a, b) is None
    assert unranked(a, b) == NO_ERRORS
    for trainings in ({"1": "another"}, {}):
        assert unranked(replace(a, trainings=trainings), replace(b, trainings={})) == MORE_SEEDS


def test_a_winner_is_never_ahead_by_zero(tmp_path):
    def change(choices, metrics):
        ahead = 1e-3 if choices["schedule"] == "linear" else 0
        metrics["values"]["fd_digits_cnn"] = 40.0 * int(choices["seed"]) + ahead

    said = sentences(tmp_path, TWO_SEEDS, change)["schedule"]
    assert said.sure
    assert "0.001" in said.text


DDIM = {"sampler": ["strided", "ddim"], "variance": ["fixed_small", "fixed_large"], "seed": ["1", "2"]}


def unread(choices, metrics):
    """DDIM does not read the variance; its bound does."""
    if choices["sampler"] == "ddim":
        for name in ("fd_digits_cnn", "kd_digits_cnn", "precision", "recall", "seconds_per_1000_samples"):
            metrics["values"][name] = 4.0 + int(choices["seed"])


def test_what_the_sampler_does_not_read_is_one_row(tmp_path):
    table = table_of(tmp_path, DDIM, unread)
    (group,) = table.groups
    *_, ddim = group.rows
    assert (len(group.rows), label(ddim)) == (3, "ddim · fixed_small = fixed_large")
    assert ddim.values["fd_digits_cnn"].by_seed == {"1": 5.0, "2": 6.0}
    assert "bits_per_dim" not in ddim.values
    assert len(ddim.differing["bits_per_dim"]) == 4
    assert effect_of(table, group, BITS, "variance").settings == 2, "every cell counts, for each kind of bound"


@pytest.mark.parametrize(("part", "entry", "to"), [
    ("values", "precision", 0.5), ("protocol", "model_directory", "another"), ("protocol", "weights", "raw"),
    ("protocol", "bound", {"kind": "bound of a strided chain", "num_images": 64}),
])  # fmt: skip
def test_rows_that_only_look_equal_stay_two(tmp_path, part, entry, to):
    def almost(choices, metrics):
        unread(choices, metrics)
        if choices["variance"] != "fixed_small":
            metrics[part][entry] = to

    axes = DDIM | ({"variance": ["fixed_small", "learned"]} if entry == "model_directory" else {})
    assert len(table_of(tmp_path, axes, almost).rows) == 4
