"""The last line of a search, such as hydra/sweeper=optuna: its best trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.terminal import Terminal

_RESULT = "optimization_results.yaml"  # of Hydra's sweeper for Optuna


class BestTrial(Callback):
    """Prints options and value of the best trial; with several objectives, of each trial that no other dominates."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        file = Path(config.hydra.sweep.dir) / _RESULT
        if not file.is_file():
            return
        found: Any = OmegaConf.to_container(OmegaConf.load(file))
        names = config.objective_metric if OmegaConf.is_list(config.objective_metric) else [config.objective_metric]
        best = found.get("solutions") or [{"params": found["best_params"], "values": [found["best_value"]]}]
        for trial in best:
            options = " ".join(f"{name}={value}" for name, value in trial["params"].items())
            values = "  ".join(f"{name} {value:.6g}" for name, value in zip(names, trial["values"], strict=True))
            Terminal().print(f"best trial: {options}  → {values}  ({file})")
