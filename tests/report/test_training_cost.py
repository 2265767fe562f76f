"""Quality against training time: what a line joins, and what is said of two."""

import re
from dataclasses import replace

import pytest

from diffusion_lab.report.cells import read_sweep
from diffusion_lab.report.panels import TRAINING_COST
from diffusion_lab.report.plots import curve_findings
from diffusion_lab.report.plots.training_cost import _names
from diffusion_lab.report.plots.training_cost import plots as training_plots
from diffusion_lab.report.table import build_table
from tests.report.synthetic import write_sweep

MOMENTS = ["at_1m", "at_4m", "at_16m", "end"]
MINUTES = {"at_1m": 1, "at_4m": 4, "at_16m": 16, "end": 64}


def learning(choices, metrics):
    """cosine falls as 8/√m, linear stays at 2 (they cross at 16 minutes), in seeds 2 and 3 at 2.2 (at about 13)."""
    minutes = MINUTES.get(choices["evaluation.weights"], 64)
    seed = int(choices.get("seed", 1))
    flat = 2.0 if seed == 1 else 2.2
    metrics["values"] |= {
        "fd_digits_cnn": flat if choices["schedule"] == "linear" else 8 * minutes**-0.5,
        "training_seconds": 60.0 * minutes,
    }
    if choices["evaluation.weights"].startswith("at_"):
        metrics["protocol"]["moment"] = "the training as it was at step 1 of 64"


def drawn(outputs, axes):
    table = build_table(read_sweep(write_sweep(outputs, axes=axes, change=learning)))
    group = table.groups[0]
    return {plot.name: plot for plot in training_plots(table, group)}, curve_findings(table, group)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    axes = {"schedule": ["linear", "cosine"], "evaluation.weights": MOMENTS, "seed": ["1", "2", "3"]}
    return drawn(tmp_path_factory.mktemp("outputs"), axes)


def test_a_line_joins_the_moments_of_a_choice_and_ends_with_the_finished_model(both):
    plot = both[0]["fd_digits_cnn"]
    assert (plot.heading, plot.x_label) == (TRAINING_COST, "minutes of training")
    linear, cosine = plot.panels[0].series
    assert (linear.name, cosine.name) == ("linear", "cosine")
    assert linear.x == cosine.x == [1, 4, 16, 64]
    assert cosine.y == pytest.approx([8, 4, 2, 1])
    assert plot.panels[0].levels == [("real images", 1.62)]


def test_a_crossing_is_on_the_plot_and_a_finding(both):
    (said,) = [said for said in both[1] if said.what == "fd_digits_cnn against training time"]
    assert said.sure
    assert re.findall(r"linear|cosine|\d+", said.text) == ["cosine", "linear", "14", "13", "16", "3", "3"]
    assert said.text[1:] in both[0]["fd_digits_cnn"].note
    assert "during one training" in both[0]["fd_digits_cnn"].note


def test_budgets_are_points_of_a_line_too(tmp_path):
    def budgets(choices, metrics):
        minutes = {"00:00:01:00": 1, "00:00:04:00": 4}[choices["trainer.max_time"]]
        metrics["values"] |= {"fd_digits_cnn": 8 / minutes, "training_seconds": 60.0 * minutes}

    axes = {"schedule": ["linear", "cosine"], "trainer.max_time": ["00:00:01:00", "00:00:04:00"]}
    table = build_table(read_sweep(write_sweep(tmp_path, axes=axes, change=budgets)))
    plot = next(plot for plot in training_plots(table, table.groups[0]) if plot.name == "fd_digits_cnn")
    assert [(line.name, line.x) for line in plot.panels[0].series] == [("linear", [1, 4]), ("cosine", [1, 4])]
    assert "during one training" not in plot.note


def test_the_finished_model_of_picked_runs_ends_the_line(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "evaluation.weights": ["at_1m", "at_16m", "ema_0.999"]}
    lines = drawn(tmp_path, axes)[0]["fd_digits_cnn"].panels[0].series
    assert [(line.name, line.x) for line in lines] == [("linear", [1, 16, 64]), ("cosine", [1, 16, 64])]


def test_averages_of_one_finished_model_are_no_curve(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "evaluation.weights": ["ema_0.9", "ema_0.999"]}
    assert drawn(tmp_path, axes) == ({}, [])


def of_lengths(choices, metrics):
    minutes = MINUTES.get(choices["evaluation.weights"], {"1000": 4, "4000": 16}[choices["trainer.max_steps"]])
    metrics["values"] |= {"fd_digits_cnn": 8 / minutes, "training_seconds": 60.0 * minutes}


def lines_of(outputs, axes, picked):
    every = read_sweep(write_sweep(outputs, axes=axes, change=of_lengths))
    table = build_table(replace(every, cells=[cell for cell in every.cells if tuple(cell.choices.values()) in picked]))
    plot = next(plot for plot in training_plots(table, table.groups[0]) if plot.name == "fd_digits_cnn")
    return {line.name: line.x for line in plot.panels[0].series}


def test_trainings_of_several_lengths_are_one_line_whichever_average_suits_each(tmp_path):
    picked = {("1000", "ema_0.99"), ("4000", "ema_0.999")}
    axes = {"trainer.max_steps": ["1000", "4000"], "evaluation.weights": ["ema_0.99", "ema_0.999"]}
    assert lines_of(tmp_path, axes, picked) == {"all": [4, 16]}


def test_moments_of_one_training_are_not_mixed_with_finished_trainings_of_other_lengths(tmp_path):
    axes = {"trainer.max_steps": ["1000", "4000"], "evaluation.weights": ["at_1m", "ema_0.999"]}
    picked = {("1000", "ema_0.999"), ("4000", "ema_0.999"), ("4000", "at_1m")}
    assert lines_of(tmp_path, axes, picked) == {"none": [4, 16], "4000": [1, 16]}


def test_two_lines_never_share_a_name():
    assert _names([("gan", None), ("vae", "2")]) == ["gan", "vae · 2"]
    assert _names([(None, "2"), ("2", None)]) == ["none · 2", "2 · none"]
    assert _names([("gan", "False"), ("vae", "True"), ("flow", "True")]) == ["gan", "vae", "flow"]
    assert _names([("gan", "False"), ("gan", "True"), ("vae", "True")]) == ["gan · False", "gan · True", "vae · True"]
