"""What one axis does, the others averaged, and the sentence on it."""

import re
from dataclasses import replace

import pytest

from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.report.comparison import LEVEL, Measured, difference, ranking
from diffusion_lab.report.conclusions import conclusions
from diffusion_lab.report.effects import effect_of
from diffusion_lab.report.findings import Comparison, comparisons
from diffusion_lab.report.numbers import label
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
    assert found.settings == 3 * 5


@pytest.mark.parametrize("by_seed", [False, True])
def test_bounds_of_different_kinds_are_not_compared(tmp_path, by_seed):
    axes = {"sampler": ["strided", "ddim"], "variance": ["fixed_large", "learned"], "seed": ["1", "2"]}

    def change(choices, metrics):
        other = choices["seed"] == "2" if by_seed else choices["sampler"] == "ddim"
        metrics["values"]["bits_per_dim"] = ADDED[choices["variance"]] + 5.0 * other
        metrics["protocol"]["bound"]["kind"] = f"bound {other}"

    sweep = write_sweep(tmp_path, axes=axes, change=change)
    assert (effect(sweep, "sampler") is None) == (not by_seed)
    assert ("bits/dim not compared: different bounds" in sentences_of(sweep)["sampler"].text) == (not by_seed)
    found = effect(sweep, "variance")
    assert found.settings == (4 if by_seed else 2)
    assert found.averaged == ["sampler"]
    assert found.means[0].mean - found.means[1].mean == pytest.approx(2.0)


def sentences(outputs, axes, change):
    return sentences_of(write_sweep(outputs, axes=axes, change=change))


def sentences_of(sweep):
    table = build_table(read_sweep(sweep))
    return {one.what: one for one in conclusions(table, table.groups[0]).findings}


def test_each_axis_is_one_sentence_with_its_difference(tmp_path):
    def change(choices, metrics):
        additive(choices, metrics)
        metrics["values"]["bits_per_dim"] += 0.02 * int(choices["seed"]) * (choices["schedule"] == "linear")
        metrics["values"]["fd_digits_cnn"] = 3.0

    axes = AXES | {"sampler": ["strided"]}
    said = sentences(tmp_path, axes, change)
    assert [*said] == ["schedule", "variance", "num_steps"]
    assert said["schedule"].sure
    told = re.findall(r"linear|cosine|[\d.]+", said["schedule"].text)
    assert told[:6] == ["cosine", "linear", "2", "1.03", "0.90", "1.16"]
    assert "averaged over 6 settings of variance and num_steps" in said["schedule"].text


def test_settings_in_which_an_axis_changes_nothing_are_left_out(tmp_path):
    """The bound of DDIM cells is that of 50 ancestral steps, whatever num_steps is."""

    def change(choices, metrics):
        steps = 2.0 * (choices["sampler.spacing.num_steps"] == "10") + 0.01 * int(choices["seed"])
        metrics["values"]["bits_per_dim"] = 2.0 + int(choices["seed"]) + steps * (choices["sampler"] == "strided")

    axes = {"sampler": ["strided", "ddim"], "sampler.spacing.num_steps": ["10", "50"], "seed": ["1", "2"]}
    sweep = write_sweep(tmp_path, axes=axes, change=change)
    found = effect(sweep, "sampler.spacing.num_steps")
    assert (found.settings, found.unchanged) == (1, 1)
    assert found.means[0].mean - found.means[1].mean == pytest.approx(2.0)
    assert "bits/dim averaged over 1 of 2 settings of sampler" in sentences_of(sweep)["num_steps"].text


@pytest.mark.parametrize("opposed", [True, False])
def test_a_choice_is_not_advised_against_another_measure(tmp_path, opposed):
    """Though that measure is undecided."""

    def change(choices, metrics):
        seed, linear = int(choices["seed"]), choices["schedule"] == "linear"
        apart = (1 if opposed else -1) * (1.0 + 2.0 * (seed == 2)) * linear
        metrics["values"] |= {"bits_per_dim": 3.0 + (1.0 + 0.01 * seed) * linear, "fd_digits_cnn": 9.0 - apart}

    table = table_of(tmp_path, {"schedule": ["linear", "cosine"], "seed": ["1", "2", "3"]}, change)
    known = conclusions(table, table.groups[0])
    assert known.undecided
    assert known.next.startswith("measures disagree on schedule" if opposed else "keep schedule cosine.")
    assert ("in fd_digits_cnn, where linear is lower by" in known.findings[0].text) == opposed


@pytest.mark.parametrize(("axes", "other"), [(TWO_SEEDS, (0.1, -0.2)), (ONE_SEED, (5.0, 0.0)), (TWO_SEEDS, (0.0, 0.0))],
                         ids=["noise", "one seed", "equal"])  # fmt: skip
def test_without_certainty_there_is_no_winner(tmp_path, axes, other):
    def change(choices, metrics):
        for name in ("fd_digits_cnn", "bits_per_dim"):
            by = other[int(choices["seed"]) - 1] if choices["schedule"] == "linear" else 0.0
            metrics["values"][name] = 4.0 + int(choices["seed"]) + by

    table = table_of(tmp_path, axes, change)
    known = conclusions(table, table.groups[0])
    (said,) = known.findings
    assert not said.sure
    assert "better" not in said.text + known.next
    assert ("Two seeds" in known.note) == (other == (0.1, -0.2))


def test_an_undecided_axis_names_what_would_have_counted_and_how_many_seeds(tmp_path):
    """At the level of all comparisons of the table; the new seeds are others than those that were used."""
    apart = {"1": 0.3, "2": -0.1, "3": 0.2}

    def change(choices, metrics):
        noise = apart[choices["seed"]] if choices["schedule"] == "linear" else 0.0
        metrics["values"] |= {"fd_digits_cnn": 4.0 + noise, "bits_per_dim": 2.0 - noise / 10}

    table = table_of(tmp_path, {"schedule": ["linear", "cosine"], "seed": [*apart]}, change)
    known, group = conclusions(table, table.groups[0]), table.groups[0]
    assert len(known.undecided) == 2
    one, _ = comparisons(table, group)
    assert one.level == LEVEL / 2
    lead = difference(*one.means)
    what, found, counted, seeds = known.undecided[0]
    assert (what, found) == ("schedule in fd_digits_cnn", "cosine is lower by 0.13 (3\N{NO-BREAK SPACE}%)")
    assert counted.startswith(f"{lead.margin_at(LEVEL / 2):.2g}")
    n = lead.seeds_to_show(LEVEL / 2)
    assert str(n) in seeds
    (more,) = re.findall(r"seed=4 .*sweep\.decide\.measure=fd_digits_cnn sweep\.decide\.most_seeds=(\d+)", known.next)
    assert int(more) == lead.most_seeds(LEVEL) > n
    assert known.note == "", "three seeds"


def test_a_decided_axis_names_lead_interval_and_cost(tmp_path):
    def change(choices, metrics):
        ahead = 1.0 + 0.01 * int(choices["seed"]) if choices["sampler"] == "ddim" else 0.0
        metrics["values"] |= {"fd_digits_cnn": 4.0 - ahead, "nfe": 50 if choices["sampler"] == "ddim" else 25}

    table = table_of(tmp_path, {"sampler": ["strided", "ddim"], "seed": ["1", "2", "3"]}, change)
    known = conclusions(table, table.groups[0])
    (said,) = known.findings
    assert said.sure
    assert (
        "ddim is better than strided over 3 seeds by 1.02 [1.00, 1.04] in fd_digits_cnn (2.98 against 4)" in said.text
    )
    assert "strided 25 and ddim 50 network evaluations" in said.text
    assert "sampler ddim" in known.next


def test_rows_are_compared_where_no_axis_differs_alone(tmp_path):
    def change(choices, metrics):
        better = choices["schedule"] == "cosine"
        metrics["values"]["fd_digits_cnn"] = 4.0 - better + 0.01 * int(choices["seed"]) * better

    axes = {"schedule": ["linear", "cosine"], "objective": ["simple", "vlb"], "seed": ["1", "2", "3"]}
    table = table_of(tmp_path, axes, change, lambda c: (c["schedule"] == "cosine") == (c["objective"] == "vlb"))
    (said,) = conclusions(table, table.groups[0]).findings
    assert (said.what, said.sure) == ("schedule and objective", True)
    assert "cosine · vlb is better than linear · simple" in said.text


def test_samplings_of_one_training_lack_errors_and_not_seeds():
    a, b = (Measured({"1": value}, trainings={"1": "one"}) for value in (1.0, 2.0))
    assert difference(a, b) is None

    def of(*means):
        return Comparison("axis", BITS, ["a", "b"], [*means], ranking(means, lower_is_better=True, decimals=3))

    assert "frechet_infinity" in of(a, b).clause()[0]
    for trainings in ({"1": "another"}, {}):
        unranked = of(replace(a, trainings=trainings), replace(b, trainings={}))
        assert "one seed" in unranked.clause()[0]
        assert unranked.needs_seeds


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


@pytest.mark.parametrize(("best", "warned"), [(9.9 * 1.62, False), (10.1 * 1.62, True)])
def test_rows_that_are_all_far_from_real_images_are_trained_longer_first(tmp_path, best, warned):
    """The distance of real images is 1.62."""

    def change(choices, metrics):
        metrics["values"]["fd_digits_cnn"] = best + 5.0 * (choices["schedule"] == "linear")

    table = table_of(tmp_path, TWO_SEEDS, change)
    assert ("train longer" in conclusions(table, table.groups[0]).next) == warned
