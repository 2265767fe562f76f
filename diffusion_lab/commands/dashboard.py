"""diffusion-lab dashboard: the panels of the report as a workspace at Weights & Biases.

Headings, abscissas and measures are those of the report, for all runs in the project. Measures are named as in metrics.json,
losses as in metrics.csv, everything else as in `callbacks.tracking`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb
from omegaconf import DictConfig

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.report import panels
from diffusion_lab.report.model_plots import losses_of
from diffusion_lab.report.read import read_runs
from diffusion_lab.report.table import Gathered
from diffusion_lab.store import runs_folder, scored_runs
from diffusion_lab.store.measures import SECONDS, Measure, merged
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.trackers import BOUND_BY_T, SAMPLES, STEP
from diffusion_lab.versions import is_installed

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

_PATIENCE_SECONDS = 30
_MOST_RUNS = 1000  # shown in a panel


def run(cfg: DictConfig) -> None:
    """Build the workspace from the runs in `outputs`, and send it."""
    if not is_installed("wandb-workspaces"):
        raise MistakeError("install wandb-workspaces first: pip install 'diffusion-lab[dashboard]'")
    folder = runs_folder(Path(cfg.outputs))
    gathered = read_runs([run.path for run in scored_runs(folder)], "dashboard")
    if not gathered.cells:
        raise MistakeError(f"there are no scores in {folder} to show; train with logger=wandb first")
    with _asking_wandb():
        entity = cfg.entity or wandb.Api(timeout=_PATIENCE_SECONDS).default_entity
    if entity is None:
        raise MistakeError("your W&B account has no default entity; set entity=…")
    made = workspace(entity, cfg.project, cfg.name, gathered)
    with _asking_wandb():
        made.save()
        url = made.url
    Terminal().print(f"dashboard  {url}")


def workspace(entity: str, project: str, name: str, gathered: Gathered) -> Workspace:
    """The workspace: a section for each heading of the report."""
    from wandb_workspaces import workspaces as ws

    there = {name for cell in gathered.done for name in cell.values}
    measures = [m for m in merged(cell.measures for cell in gathered.done) if m.column and m.name in there]
    losses = losses_of({cell.model.path: cell.model for cell in gathered.cells}.values())
    settings = ws.WorkspaceSettings(max_runs=_MOST_RUNS)
    return ws.Workspace(entity, project, name, _sections(measures, losses), settings)


def _sections(measures: Sequence[Measure], losses: Sequence[str]) -> list[Section]:
    """Sections in the order of the report, without empty ones."""
    from wandb_workspaces.reports.v2 import Config, CustomChart, LinePlot, MediaBrowser, ScatterPlot, SummaryMetric
    from wandb_workspaces.workspaces import Section

    def against_steps(measure: Measure) -> LinePlot:
        """Each score is a run with one row; a line joins the scores that share sampler and variance, averaged over seeds."""
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

    def against_seconds(measure: Measure) -> ScatterPlot:
        x, y = SummaryMetric(SECONDS), SummaryMetric(measure.name)
        return ScatterPlot(title=f"{measure.label} against {panels.SECONDS_LABEL}", x=x, y=y, log_x=True, log_y=True)

    bound_by_t = CustomChart(  # overlays the charts that the scores log
        query={"summaryTable": {"tableKey": f"{BOUND_BY_T}_table"}},
        chart_name="wandb/line/v0",
        chart_fields={"x": "t", "y": "bits_per_dim"},
        chart_strings={"title": f"{BOUND_BY_T} (bits/dim)"},
    )
    ranked = [measure for measure in measures if measure.better is not None]
    bounds = [measure for measure in ranked if "bound" in measure.agrees]
    content: dict[str, list[Any]] = {
        "Samples": [MediaBrowser(title="Samples", media_keys=[SAMPLES])],
        panels.SAMPLES: [against_steps(m) for m in ranked if m not in bounds and m.name != SECONDS],
        panels.LIKELIHOOD: [against_steps(m) for m in bounds],
        panels.TIME: [against_seconds(m) for m in ranked if m.floor_of is not None],
        panels.BOUND: [bound_by_t] if bounds else [],
        panels.TRAINING: [LinePlot(title=x, x=STEP, y=[x], log_y=True, title_x="training step") for x in losses],
    }
    return [Section(heading, shown, is_open=True) for heading, shown in content.items() if shown]


@contextmanager
def _asking_wandb() -> Iterator[None]:
    """Turn an error of W&B, whose errors share no base class, into one sentence."""
    try:
        yield
    except wandb.errors.UsageError as error:
        raise MistakeError("you are not logged in to Weights & Biases: run `wandb login`") from error
    except Exception as error:
        raise MistakeError(f"W&B did not accept the dashboard: {' '.join(str(error).split())}") from error
