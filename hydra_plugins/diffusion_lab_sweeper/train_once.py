"""The sweeper: train each distinct model once, then score every cell. Hydra's interface to diffusion_lab.commands.sweeping."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class TrainOnceSweeper(Sweeper):
    """name, dry_run: see conf/hydra/sweeper/train_once.yaml."""

    def __init__(self, name: str | None, dry_run: bool) -> None:
        self.name, self.dry_run = name, dry_run

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from diffusion_lab.commands.sweeping import sweep

        return sweep(arguments, self.config, self.hydra_context, self.task_function, self.name, self.dry_run)
