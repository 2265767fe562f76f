"""The plots of a report: what a line joins, which panels there are, and that page and paper show the same."""

import json
import math
import re

import pytest

from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.report import figures
from diffusion_lab.report.comparison import difference
from diffusion_lab.report.curves import line_names
from diffusion_lab.report.effects import effect_of
from diffusion_lab.report.figures import figure
from diffusion_lab.report.findings import curve_findings
from diffusion_lab.report.model_plots import model_plots
from diffusion_lab.report.panels import Panel, Plot, Series, legend, scales, stroke
from diffusion_lab.report.plots import against_sampling, against_training, effects, plots_of, poster, trade_off
from diffusion_lab.report.read import read_sweep
from diffusion_lab.report.table import build_table

from .synthetic import table_of

BITS, _ = BitsPerDim().measures([])


def distances(plots):
    (plot,) = [plot for plot in plots if plot.name == "fd_digits_cnn"]
    return plot


# ---- against network evaluations

COSTS = {
    "schedule": ["linear", "cosine"],
    "variance": ["fixed_small", "fixed_large"],
    "sampler.spacing.num_steps": ["5", "20", "80"],
    "seed": ["1", "2", "3"],
}


def noisy(choices, metrics):
    """fixed_large falls as 40/K, fixed_small as 8/√K: equal at 25 steps; linear's are twice as far all the way."""
    steps = int(choices["sampler.spacing.num_steps"])
    distance = 40 / steps if choices["variance"] == "fixed_large" else 8 / steps**0.5
    distance *= (2 if choices["schedule"] == "linear" else 1) * (1 + 1e-6 * int(choices["seed"]))
    metrics["values"] |= {"fd_digits_cnn": distance, "nfe": steps}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_of(tmp_path_factory.mktemp("outputs"), COSTS, noisy)


def test_a_crossing_is_said_of_lines_one_axis_apart(table):
    """And in the note of the plot."""
    plot = distances(against_sampling(table, table.groups[0]))
    found = [said for said in curve_findings(table, table.groups[0]) if said.what[:2] == "fd"]
    for said, schedule in zip(found, ("linear", "cosine"), strict=True):
        assert said.sure
        assert said.text in plot.note
        told = re.findall(r"fixed_\w+|linear|cosine|\d+", said.text)
        assert told == ["fixed_large", schedule, "fixed_small", schedule, "25"]
    assert [line.x for panel in plot.panels for line in panel.series] == [[5, 20, 80]] * 4


def test_an_axis_that_follows_has_no_panels(tmp_path):
    axes = COSTS | {"schedule": ["linear"], "objective": ["simple", "vlb"], "data.batch_size": ["32", "64"]}

    def panels(keep):
        table = table_of(tmp_path, axes, noisy, keep)
        return [panel.title for panel in distances(against_sampling(table, table.groups[0])).panels]

    assert panels(lambda choices: True) == ["batch_size 32", "batch_size 64"]
    assert panels(lambda choices: (choices["objective"] == "vlb") == (choices["data.batch_size"] == "64")) == [""]


def test_a_number_stands_beside_the_name_of_its_axis(tmp_path):
    axes = {"guidance.scale": ["1", "3"], "schedule": ["linear", "cosine"], "sampler.spacing.num_steps": ["5", "20"]}

    def change(choices, metrics):
        metrics["values"] |= {"fd_digits_cnn": 1.0, "nfe": int(choices["sampler.spacing.num_steps"])}

    table = table_of(tmp_path, axes, change)
    lines = [line.name for line in legend(distances(against_sampling(table, table.groups[0])))]
    assert sorted(lines) == [f"scale {scale} · {schedule}" for scale in "13" for schedule in ("cosine", "linear")]


def test_a_poster_shows_every_seed_its_axes_and_what_is_decided(tmp_path):
    """Two means are apart by √2 of the interval of the paired difference, whatever shifts both alike."""

    def change(choices, metrics):
        seed = int(choices["seed"])
        metrics["values"]["bits_per_dim"] = 10.0 * seed + (1.0 + 0.1 * seed if choices["schedule"] == "linear" else 0.0)

    axes = {"schedule": ["linear", "cosine"], "variance": ["fixed_small", "learned"], "seed": ["1", "2", "3"]}
    table = table_of(tmp_path, axes, change)
    (group,) = table.groups
    (plot,) = [plot for plot in poster(table, group) if plot.key == "bits_per_dim"]
    lead = difference(*effect_of(table, group, BITS, "schedule").means)
    by = f"{lead.mean:.2f} [{lead.mean - lead.margin:.2f}, {lead.mean + lead.margin:.2f}]"
    assert [panel.title for panel in plot.panels] == [f"schedule: cosine is better by {by}", "variance"]
    *seeds, mean = plot.panels[0].series
    assert [line.y for line in seeds] == [pytest.approx([10 * s + 1 + 0.1 * s, 10 * s]) for s in (1, 2, 3)]
    assert mean.error == pytest.approx([lead.margin / 2**0.5] * 2)
    assert plot.y_label == "bits/dim, lower is better"
    distance = distances(effects(table, group))
    assert [panel.verdict for panel in distance.panels] == ["decided"] * 2
    (drawn,) = [plot for plot in poster(table, group) if plot.key == "fd_digits_cnn"]
    assert [panel.levels for panel in drawn.panels] == [[("real images", 1.62)]] * 2


def test_numbers_of_an_axis_are_drawn_in_increasing_order(tmp_path):
    table = table_of(tmp_path, {"optimizer.lr": ["0.001", "1e-06", "0.01"], "seed": ["1", "2"]})
    (panel,) = distances(effects(table, table.groups[0])).panels
    assert panel.categories == ["1e-06", "0.001", "0.01"]


# ---- against training time

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
    table = table_of(outputs, axes, learning)
    group = table.groups[0]
    return {plot.name: plot for plot in against_training(table, group)}, curve_findings(table, group)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    axes = {"schedule": ["linear", "cosine"], "evaluation.weights": MOMENTS, "seed": ["1", "2", "3"]}
    return drawn(tmp_path_factory.mktemp("outputs"), axes)


def test_a_line_ends_with_the_finished_model(both):
    plot = both[0]["fd_digits_cnn"]
    linear, cosine = plot.panels[0].series
    assert (linear.name, cosine.name) == ("linear", "cosine")
    assert linear.x == cosine.x == [1, 4, 16, 64]
    assert cosine.y == pytest.approx([8, 4, 2, 1])
    assert plot.panels[0].levels == [("real images", 1.62)]


def test_a_crossing_is_on_the_plot_and_a_finding(both):
    (said,) = [said for said in both[1] if said.what == "fd_digits_cnn against training time"]
    assert said.sure
    assert re.findall(r"linear|cosine|\d+", said.text) == ["cosine", "linear", "14", "13", "16"]
    assert said.text[1:] in both[0]["fd_digits_cnn"].note
    assert "during one training" in both[0]["fd_digits_cnn"].note


def test_finished_models_of_picked_runs_end_the_line(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "evaluation.weights": ["at_1m", "at_16m", "ema_0.999"]}
    lines = drawn(tmp_path, axes)[0]["fd_digits_cnn"].panels[0].series
    assert [(line.name, line.x) for line in lines] == [("linear", [1, 16, 64]), ("cosine", [1, 16, 64])]


def test_averages_of_one_model_are_no_curve(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "evaluation.weights": ["ema_0.9", "ema_0.999"]}
    assert drawn(tmp_path, axes) == ({}, [])


@pytest.mark.parametrize(("picked", "lines"), [
    ({("1000", "ema_0.99"), ("4000", "ema_0.999")}, {"all": [4, 16]}),
    ({("1000", "ema_0.999"), ("4000", "ema_0.999"), ("4000", "at_1m")}, {"none": [4, 16], "max_steps 4000": [1, 16]}),
], ids=["one", "beside the moments of one training"])  # fmt: skip
def test_trainings_of_several_lengths_are_a_line(tmp_path, picked, lines):
    def of_lengths(choices, metrics):
        minutes = MINUTES.get(choices["evaluation.weights"], {"1000": 4, "4000": 16}[choices["trainer.max_steps"]])
        metrics["values"] |= {"fd_digits_cnn": 8 / minutes, "training_seconds": 60.0 * minutes}

    axes = {"trainer.max_steps": ["1000", "4000"], "evaluation.weights": sorted({weights for _, weights in picked})}
    table = table_of(tmp_path, axes, of_lengths, lambda choices: tuple(choices.values()) in picked)
    plot = distances(against_training(table, table.groups[0]))
    assert {line.name: line.x for line in plot.panels[0].series} == lines


def test_two_lines_never_share_a_name():
    assert line_names([("gan", None), ("vae", "2")]) == ["gan", "vae · 2"]
    assert line_names([(None, "2"), ("2", None)]) == ["none · 2", "2 · none"]
    three = line_names([("gan", "False"), ("gan", "True"), ("vae", "True")])
    assert three == ["gan · False", "gan · True", "vae · True"]


# ---- against recall, against seconds

ADDED = {"fixed_small": 4.0, "fixed_large": 2.0, "learned": 0.0}
SCALES = ["3", "0", "0.5", "10", "1"]  # as asked for, not in order


def guided(choices, metrics):
    """Precision s/(1 + s) and recall 1 − precision: what one gains the other loses; scales 0 and 1 take one evaluation a step."""
    scale = float(choices["guidance.scale"])
    nfe = 50 if scale in (0, 1) else 100
    metrics["values"] |= {"precision": scale / (1 + scale), "recall": 1 / (1 + scale), "nfe": nfe}


def trade_offs(outputs, axes, change):
    table = table_of(outputs, axes, change)
    return list(trade_off(table, table.groups[0]))


def test_a_line_runs_along_the_scale(tmp_path):
    """And what else differs is another line."""
    axes = {"variance": ["fixed_large", "learned"], "guidance.scale": SCALES, "seed": ["1", "2"]}
    (plot,) = trade_offs(tmp_path, axes, guided)
    assert [line.name for line in plot.panels[0].series] == ["fixed_large", "learned"]
    for line in plot.panels[0].series:
        assert line.labels == ["0", "0.5", "1", "3", "10"]
        assert line.y == pytest.approx([0, 1 / 3, 1 / 2, 3 / 4, 10 / 11])
        assert line.x == pytest.approx([1, 2 / 3, 1 / 2, 1 / 4, 1 / 11])


def test_steps_are_no_knob(tmp_path):
    axes = {"sampler": ["strided", "ddim"], "sampler.spacing.num_steps": ["10", "50"]}
    assert trade_offs(tmp_path, axes, lambda choices, metrics: None) == []


def test_only_what_varies_is_drawn(tmp_path):
    """No steps where each sampler has its own number, no time where only its noise differs."""

    def keys(nfe):
        def change(choices, metrics):
            metrics["values"] |= {"nfe": nfe[choices["sampler"]], "flops_per_sample": nfe[choices["sampler"]]}

        table = table_of(tmp_path / str(nfe["ddim"]), {"sampler": ["strided", "ddim"], "seed": ["1", "2"]}, change)
        return {plot.key.partition("_")[0] for plot in plots_of(table, table.groups[0])}

    assert keys({"strided": 25, "ddim": 25}) == {"effects"}
    assert keys({"strided": 25, "ddim": 50}) == {"effects", "seconds"}


def test_what_was_not_measured_is_not_drawn(tmp_path):
    def unmeasured(choices, metrics):
        del metrics["values"]["recall"]

    assert trade_offs(tmp_path, {"guidance.scale": SCALES}, unmeasured) == []


def test_each_device_has_its_own_front(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "variance": ["fixed_small", "fixed_large", "learned"]}

    def change(choices, metrics):
        alone = choices == {"schedule": "cosine", "variance": "learned"}
        on_gpu = choices["schedule"] == "cosine"
        metrics["protocol"]["cost"]["device"] = "H200" if alone else "H100" if on_gpu else "cpu"
        metrics["values"] |= {"seconds_per_1000_samples": 1.0 if on_gpu else 10.0, "nfe": 10 if on_gpu else 20}
        metrics["values"]["fd_digits_cnn"] = ADDED[choices["variance"]] + (1.0 if on_gpu else 2.0)

    table = table_of(tmp_path, axes, change)
    (plot,) = [plot for plot in plots_of(table, table.groups[0]) if plot.key == "seconds_fd_digits_cnn"]
    assert [panel.title for panel in plot.panels] == ["cpu", "H100"]
    assert [panel.series[0].x for panel in plot.panels] == [[10.0], [1.0]]
    assert [sum(len(series.x) for series in panel.series[1:]) for panel in plot.panels] == [3, 2]
    assert "in both: linear · learned / cosine · fixed_large." in plot.note
    assert plot.note.endswith("Left out, because no other row was measured alike: cosine · learned.")


# ---- drawing


def drawing(*series, levels=(), **settings):
    return Plot("key", "family", "name", "x", "y", [Panel("", list(series), levels=list(levels))], **settings)


@pytest.fixture(scope="module")
def plots(sweep):
    gathered = read_sweep(sweep)
    table = build_table(gathered)
    return [*plots_of(table, table.groups[0]), *model_plots(gathered)]


def test_page_and_paper_show_the_same_points(plots):
    for one in plots:
        drawn = figures._figure(one).axes
        for axes, panel in zip(drawn, one.panels, strict=False):
            content = json.loads(figure(one, panel, {}))
            assert len(axes.containers) == len(content["data"])
            for container, trace in zip(axes.containers, content["data"], strict=True):
                assert container[0].get_ydata() == pytest.approx(trace["y"], rel=1e-5)
                assert bool(container.has_yerr) == ("error_y" in trace)
            for axis, ends in (("x", axes.get_xlim()), ("y", axes.get_ylim())):
                told = content["layout"][f"{axis}axis"]
                low, high = (10**end if told["type"] == "log" else end for end in told["range"])
                assert ends == pytest.approx((low, high))
                if "ticktext" in told:
                    labels = getattr(axes, f"get_{axis}ticklabels")()
                    assert axis == "y" or [label.get_text() for label in labels] == told["ticktext"]


def test_an_axis_holds_error_bars_and_levels():
    _, y = scales(drawing(Series("a", [1, 2], [3.0, 4.0], [0.5, None]), levels=[("real images", 1.0)]), Panel("", []))
    assert y.low < 1.0
    assert y.high > 4.0
    for steps, ticks in (([10, 50], ["10", "50"]), ([24, 25], []), ([1.5, 3], []), (list(range(10, 80, 10)), [])):
        x, _ = scales(drawing(Series("a", steps, [1.0] * len(steps)), log_x=True), Panel("", []))
        assert [text for _, text in x.ticks] == ticks
    _, y = scales(drawing(Series("a", [1], [3.0], [2.0])), Panel("", []))
    assert (y.low, y.high) == pytest.approx((1.0 - 0.28, 5.0 + 0.28))
    _, y = scales(drawing(Series("a", [1], [0.0]), Series("b", [1], [-1.0]), log_y=True), Panel("", []))
    assert 0 < y.low < y.high  # nothing that a logarithm has


def test_the_legend_names_what_has_to_be_told_apart():
    a, b, faint = Series("a", [1], [1]), Series("b", [1], [1], colour=1), Series("c", [1], [1], faint=True)
    assert legend(drawing(a, b, a, faint)) == [a, b]
    assert legend(drawing(a, faint)) == []
    assert math.isclose(stroke(faint).opacity, 0.3)
