"""diffusion-lab dashboard: the panels of the report at Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from diffusion_lab.from_config.mistakes import MistakeError
from diffusion_lab.runs import runs_folder, scored_runs
from diffusion_lab.terminal import Terminal

_PATIENCE_SECONDS = 30


def completed(options: list[str]) -> list[str]:
    """The dashboard takes its options as they are."""
    return options


def run(cfg: DictConfig) -> None:
    """Build the workspace from what the runs in `outputs` have logged, and send it."""
    if find_spec("wandb_workspaces") is None:
        raise MistakeError("install wandb-workspaces first: pip install 'diffusion-lab[dashboard]'")
    from diffusion_lab.report.cells import read_runs
    from diffusion_lab.report.dashboard import measures_found, workspace
    from diffusion_lab.report.model_plots import losses_of

    folder = runs_folder(Path(cfg.outputs))
    gathered = read_runs([run.path for run in scored_runs(folder)], "dashboard")
    if not gathered.cells:
        raise MistakeError(f"there are no scores in {folder} to show; train with logger=wandb first")
    losses = losses_of({cell.model.path: cell.model for cell in gathered.cells}.values())
    entity = cfg.entity or _own_entity()
    made = workspace(entity, cfg.project, cfg.name, measures_found(gathered), losses)
    with _asking_wandb():
        made.save()
        url = made.url
    Terminal().print(f"dashboard  {url}")


def _own_entity() -> str:
    """The account's default entity."""
    import wandb

    with _asking_wandb():
        entity = wandb.Api(timeout=_PATIENCE_SECONDS).default_entity
    if entity is None:
        raise MistakeError("your W&B account has no default entity; set entity=…")
    return entity


@contextmanager
def _asking_wandb() -> Iterator[None]:
    """An error of W&B becomes one sentence; its errors share no class."""
    import wandb

    try:
        yield
    except wandb.errors.UsageError as error:
        raise MistakeError(
            "you are not logged in to Weights & Biases, and a dashboard needs an account: run `wandb login`"
        ) from error
    except Exception as error:
        raise MistakeError(f"W&B did not accept the dashboard: {' '.join(str(error).split())}") from error
