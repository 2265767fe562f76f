"""One decision for page and paper: what a plot's axes, ticks, lines and legend are."""

import json
import math

import pytest

from diffusion_lab.report import figures
from diffusion_lab.report.cells import read_sweep
from diffusion_lab.report.figures import figure
from diffusion_lab.report.model_plots import model_plots
from diffusion_lab.report.panels import FRONT, Panel, Plot, Series, legend, scales, stroke
from diffusion_lab.report.plots import plots_of as row_plots
from diffusion_lab.report.plots.trade_off import plots as trade_plots
from diffusion_lab.report.table import build_table


def plot(*series, levels=(), **settings):
    return Plot("key", "family", "name", "x", "y", [Panel("", list(series), levels=list(levels))], **settings)


def ticks(low, high):
    return [
        text
        for _, text in scales(plot(Series("a", [1], [low]), Series("b", [1], [high]), log_y=True), Panel("", []))[
            1
        ].ticks
    ]


@pytest.fixture(scope="module")
def plots(sweep):
    gathered = read_sweep(sweep)
    table = build_table(gathered)
    return [*row_plots(table, table.groups[0]), *trade_plots(table, table.groups[0]), *model_plots(gathered)]


def test_page_and_paper_show_the_same_points_on_the_same_axes(plots):
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


def test_ticks_are_round_and_there_are_enough():
    assert ticks(1e-5, 1e3)[:3] == ["1e-05", "0.0001", "0.001"]
    assert ticks(2, 60) == ["2", "5", "10", "20", "50"]
    assert ticks(1.62, 5.4) == ["2", "3", "5"]
    assert ticks(3.6, 3.85) == ["3.6", "3.8", "4"]
    for low in (1e-7, 0.03, 1, 7.3, 4e5):
        for ratio in (1, 1.001, 1.4, 3, 11, 90, 1e4, 1e12):
            found = ticks(low, low * ratio)
            assert 2 <= len(found) <= 12
            assert len(set(found)) == len(found)


def test_an_axis_holds_error_bars_and_levels():
    _, y = scales(plot(Series("a", [1, 2], [3.0, 4.0], [0.5, None]), levels=[("real images", 1.0)]), Panel("", []))
    assert y.low < 1.0
    assert y.high > 4.0
    _, y = scales(plot(Series("a", [1], [3.0], [2.0])), Panel("", []))
    assert (y.low, y.high) == pytest.approx((1.0 - 0.28, 5.0 + 0.28))
    _, y = scales(plot(Series("a", [1], [0.0]), Series("b", [1], [-1.0]), log_y=True), Panel("", []))
    assert 0 < y.low < y.high  # nothing that a logarithm has


def test_points_stay_points_however_many_there_are():
    many = [float(i) for i in range(100)]
    assert stroke(Series("a", many, many)).marker is None
    assert stroke(Series("a", many, many, dots=True)).marker == "circle"
    assert stroke(Series("front", [1], [1], colour=FRONT)).colour is None


def test_a_name_with_an_underscore_is_in_the_legend_of_the_files_too():
    mine, ours = (
        next(
            picture
            for _, picture in figures.figure_files(plot(Series(name, [1], [1]), Series("b", [1], [1], colour=1)))
        )
        for name in ("_Mine", "_Ours")
    )
    assert mine != ours


def test_the_legend_names_what_has_to_be_told_apart():
    a, b, faint = Series("a", [1], [1]), Series("b", [1], [1], colour=1), Series("c", [1], [1], faint=True)
    assert legend(plot(a, b, a, faint)) == [a, b]
    assert legend(plot(a, faint)) == []
    assert math.isclose(stroke(faint).opacity, 0.3)
