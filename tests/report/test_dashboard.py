"""What would be sent to W&B, panel by panel: it needs an account to be seen, but not to be built."""

import json

import pytest

from diffusion_lab.report import panels
from diffusion_lab.report.cells import read_sweep
from diffusion_lab.report.dashboard import measures_found, workspace
from diffusion_lab.report.model_plots import losses_of, model_plots
from diffusion_lab.report.row_plots import row_plots
from diffusion_lab.report.sampling_curves import sampling_plots
from diffusion_lab.report.table import build_table
from diffusion_lab.runs import SweepDirectory


@pytest.fixture(scope="module")
def gathered(sweep: SweepDirectory):
    return read_sweep(sweep)


@pytest.fixture(scope="module")
def spec(gathered):
    made = workspace("us", "mine", "ours", measures_found(gathered), losses_of({c.model for c in gathered.cells}))
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))["section"]


def configs(spec, heading):
    (section,) = [s for s in spec["panelBankConfig"]["sections"] if s["name"] == heading]
    return [panel["config"] for panel in section["panels"]]


def test_the_headings_and_plots_are_those_of_the_report(gathered, spec):
    table = build_table(gathered)
    plots = [*sampling_plots(table, table.groups[0]), *row_plots(table, table.groups[0]), *model_plots(gathered)]
    ours = {}
    for plot in plots:
        ours.setdefault(plot.heading, []).append(plot)
    ours.pop(panels.EFFECTS)  # W&B has no plot of an axis' effect with the others held
    assert [s["name"] for s in spec["panelBankConfig"]["sections"]] == ["Samples", *ours]
    for heading, some in ours.items():
        shown = configs(spec, heading)
        assert len(shown) == len(some)
        for plot, config in zip(some, shown, strict=True):
            logs = [config.get("xLogScale", False), config.get("xAxisLogScale", False)]
            assert any(logs) == (plot.log_x and heading != panels.BOUND)


def test_each_measure_stands_against_steps_a_line_for_each_sampler_and_variance(spec):
    shown = [*configs(spec, panels.SAMPLES), *configs(spec, panels.LIKELIHOOD)]
    assert [config["metrics"] for config in shown] == [
        ["fd_digits_cnn"],
        ["kd_digits_cnn"],
        ["precision"],
        ["recall"],
        ["bits_per_dim"],
    ]
    for config in shown:
        assert (config["xAxis"], config["groupBy"], config["groupAgg"]) == ("nfe", "series.value", "mean")


def test_distances_stand_against_seconds(spec):
    (config,) = configs(spec, panels.TIME)
    assert config["xAxis"] == "summary:seconds_per_1000_samples"
    assert config["yAxis"] == "summary:fd_digits_cnn"
    assert config["xAxisLogScale"] is config["yAxisLogScale"] is True


def test_runs_are_grouped_by_sweep_in_the_list_and_not_in_the_plots(spec):
    (runs,) = spec["runSets"]
    assert [(key["section"], key["name"]) for key in runs["grouping"]] == [("run", "group")]
    settings = [spec["settings"], *(s["localPanelSettings"] for s in spec["panelBankConfig"]["sections"])]
    assert {s["useRunsTableGroupingInPanels"] for s in settings} == {False}


def test_a_line_is_a_variance_and_a_sampler_or_a_family():
    chosen = {"model": "diffusion", "variance": "learned", "sampler": "ddim", "guidance": None}
    assert panels.series(chosen) == "learned · ddim"
    assert panels.series({"model": "vae"}) == "vae"
