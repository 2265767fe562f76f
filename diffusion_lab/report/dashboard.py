"""The panels of the report as a workspace at Weights & Biases: the same headings, abscissas and measures, over all runs there.

Names are those under which runs log: measures as in metrics.json, losses as in metrics.csv, the rest as in `callbacks.tracking`.
"""

from __future__ import annotations

from collections.abc import Sequence

from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports.v2 import Config, CustomChart, LinePlot, MediaBrowser, ScatterPlot, SummaryMetric
from wandb_workspaces.workspaces.internal import View

from diffusion_lab.callbacks.tracking import BOUND_BY_T, SAMPLES, STEP
from diffusion_lab.measures import SECONDS, Measure, merged
from diffusion_lab.report import panels
from diffusion_lab.report.cells import Gathered

_MOST_RUNS = 1000  # that a panel shows


class _RunByRun(ws.Workspace):
    """Runs are grouped in the list and nowhere else: a plot that followed would show one point a sweep, the mean of its runs."""

    def _to_model(self) -> View:
        view = super()._to_model()
        spec = view.spec.section
        for settings in (spec.settings, *(part.local_panel_settings for part in spec.panel_bank_config.sections)):
            settings.use_runs_table_grouping_in_panels = False
        return view


def workspace(entity: str, project: str, name: str, measures: Sequence[Measure], losses: Sequence[str]) -> ws.Workspace:
    """What is sent to W&B: a section for each heading of the report, runs grouped by sweep."""
    settings = ws.WorkspaceSettings(max_runs=_MOST_RUNS)
    by_sweep = ws.RunsetSettings(groupby=[ws.Metric("Group")])
    return _RunByRun(entity, project, name, sections(measures, losses), settings, by_sweep)


def sections(measures: Sequence[Measure], losses: Sequence[str]) -> list[ws.Section]:
    """In the order of the report, without empty headings."""
    ranked = [measure for measure in measures if measure.better is not None]
    bounds = [measure for measure in ranked if "bound" in measure.agrees]
    distances = [measure for measure in ranked if measure.floor_of is not None]
    of_samples = [measure for measure in ranked if measure not in bounds and measure.name != SECONDS]
    content = {
        "Samples": [MediaBrowser(title="Samples", media_keys=[SAMPLES])],
        panels.SAMPLES: [_against_steps(measure) for measure in of_samples],
        panels.LIKELIHOOD: [_against_steps(measure) for measure in bounds],
        panels.TIME: [_against_seconds(measure) for measure in distances],
        panels.BOUND: [_bound_by_t()] if bounds else [],
        panels.TRAINING: [_training(loss) for loss in losses],
    }
    return [ws.Section(heading, shown, is_open=True) for heading, shown in content.items() if shown]


def measures_found(gathered: Gathered) -> list[Measure]:
    """The measures that any of these runs has."""
    there = {name for cell in gathered.done for name in cell.values}
    return [m for m in merged(cell.measures for cell in gathered.done) if m.column and m.name in there]


def _against_steps(measure: Measure) -> LinePlot:
    """Each score is a run of one row, so a line joins the scores that share a sampler and a variance; seeds are averaged."""
    return LinePlot(
        title=measure.label,
        x="nfe",
        y=[measure.name],
        log_x=True,
        log_y=measure.logs,
        title_x=panels.STEPS_LABEL,
        title_y=measure.axis,
        groupby=Config(panels.SERIES),
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
    )


def _against_seconds(measure: Measure) -> ScatterPlot:
    x, y = SummaryMetric(SECONDS), SummaryMetric(measure.name)
    return ScatterPlot(title=f"{measure.label} against {panels.SECONDS_LABEL}", x=x, y=y, log_x=True, log_y=True)


def _bound_by_t() -> CustomChart:
    """The chart that every score logs of its own terms, of many scores in one."""
    return CustomChart(
        query={"summaryTable": {"tableKey": f"{BOUND_BY_T}_table"}},
        chart_name="wandb/line/v0",
        chart_fields={"x": "t", "y": "bits_per_dim"},
        chart_strings={"title": f"{BOUND_BY_T} (bits/dim)"},
    )


def _training(loss: str) -> LinePlot:
    return LinePlot(title=loss, x=STEP, y=[loss], log_y=True, title_x="training step")
