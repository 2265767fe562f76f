"""Precision against recall: what a line joins, and what its points say."""

import html

import pytest

from diffusion_lab.report.cells import read_sweep
from diffusion_lab.report.figures import figure_files
from diffusion_lab.report.make import make_report
from diffusion_lab.report.panels import TRADE
from diffusion_lab.report.plots.trade_off import plots as trade_plots
from diffusion_lab.report.table import build_table
from tests.report.synthetic import write_sweep

SCALES = ["3", "0", "0.5", "10", "1"]  # as asked for, not in order


def guided(choices, metrics):
    """Precision s/(1 + s) and recall 1 − precision: what one gains the other loses; scales 0 and 1 take one evaluation a step."""
    scale = float(choices["guidance.scale"])
    metrics["values"] |= {
        "precision": scale / (1 + scale),
        "recall": 1 / (1 + scale),
        "nfe": 50 if scale in (0, 1) else 100,
    }


def plots(outputs, axes, change):
    table = build_table(read_sweep(write_sweep(outputs, axes=axes, change=change)))
    return trade_plots(table, table.groups[0])


def test_a_line_runs_along_the_scale_and_names_its_values(tmp_path):
    (plot,) = plots(tmp_path, {"guidance.scale": SCALES, "seed": ["1", "2"]}, guided)
    (line,) = plot.panels[0].series
    assert line.labels == ["0", "0.5", "1", "3", "10"]
    assert line.y == pytest.approx([0, 1 / 3, 1 / 2, 3 / 4, 10 / 11])
    assert line.x == pytest.approx([1, 2 / 3, 1 / 2, 1 / 4, 1 / 11])
    assert (plot.heading, plot.x_label, plot.y_label) == (
        TRADE,
        "recall, higher is better",
        "precision, higher is better",
    )
    assert "values of scale" in plot.note


@pytest.mark.parametrize("scales", [["1", "2"], ["0", "3"], ["0.5", "1"]], ids=str)
def test_two_scales_of_different_cost_are_no_numbers_of_steps(tmp_path, scales):
    (plot,) = plots(tmp_path, {"guidance.scale": scales}, guided)
    assert plot.panels[0].series[0].labels == scales


def test_what_else_differs_is_another_line(tmp_path):
    axes = {"variance": ["fixed_large", "learned"], "guidance.scale": SCALES}
    (plot,) = plots(tmp_path, axes, guided)
    assert [line.name for line in plot.panels[0].series] == ["fixed_large", "learned"]
    assert all(line.labels == ["0", "0.5", "1", "3", "10"] for line in plot.panels[0].series)


def test_steps_are_no_knob_and_rows_without_one_are_dots(tmp_path):
    axes = {"sampler": ["strided", "ddim"], "sampler.spacing.num_steps": ["10", "50"]}
    (plot,) = plots(tmp_path, axes, lambda choices, metrics: None)
    assert all(series.dots and not series.labels for series in plot.panels[0].series)
    assert sum(len(series.x) for series in plot.panels[0].series) == 4


def test_nothing_is_drawn_of_what_was_not_measured(tmp_path):
    def unmeasured(choices, metrics):
        del metrics["values"]["recall"]

    assert plots(tmp_path, {"guidance.scale": SCALES}, unmeasured) == []


def test_the_report_has_it_as_a_plot_and_as_files(tmp_path):
    sweep = write_sweep(tmp_path, axes={"guidance.scale": SCALES}, change=guided)
    page = html.unescape(make_report(sweep).read_text())
    assert TRADE in page
    assert '"text":["0","0.5","1","3","10"]' in page
    found = {path.name for path in (sweep.report / "figures").rglob("precision_recall.*")}
    assert found == {"precision_recall.png", "precision_recall.pdf"}


def test_its_labels_are_drawn_for_paper(tmp_path):
    (plot,) = plots(tmp_path, {"guidance.scale": SCALES}, guided)
    with_labels = dict(figure_files(plot))["precision_recall.png"]
    plot.panels[0].series[0].labels.clear()
    assert dict(figure_files(plot))["precision_recall.png"] != with_labels
