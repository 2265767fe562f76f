"""Ours: the model that `diffusion-lab train` makes of some options, by its own command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from contenders.contender import END, Budget, Contender, Facts, Trained
from diffusion_lab.commands import app
from diffusion_lab.config.loading import load_module, trained_config, trained_data
from diffusion_lab.config.sample_options import with_measurements
from diffusion_lab.config.untrusted import load_config
from diffusion_lab.metrics.drawer import labels
from diffusion_lab.models import budget as lab_budget
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.store import newest_model
from diffusion_lab.store.weight_names import snapshot_name
from diffusion_lab.training.ema import default_weights

_KEPT = (0.05, 0.1, 0.2, 0.4)  # moments that a guidance may ask for


class Ours(Contender):
    """options: of `diffusion-lab train`, as one would type them. Its own sampler is what they say, guidance and rounding too."""

    def __init__(self, options: str) -> None:
        self.options = options

    def train(self, folder: Path, budget: Budget) -> Facts:
        # trainer.max_time is of the wall; here it is of the clock that every contender has.
        lab_budget.monotonic = budget.clock
        limit = (
            f"trainer.max_steps={budget.steps}" if budget.steps else f"trainer.max_time={{seconds:{budget.seconds}}}"
        )
        moments = ",".join(map(str, sorted({*_KEPT, *budget.moments})))
        code = app.run(
            "train",
            [
                *("callbacks.progress=null", "callbacks.sample_grid.every_n_steps=0", "val.every_n_steps=0"),
                *shlex.split(self.options),
                *(limit, f"seed={budget.seed}", f"outputs={folder}"),
                *(f"snapshots.at=[{moments}]", f"trainer.accelerator={'cpu' if budget.device == 'cpu' else 'gpu'}"),
                "score=false",
            ],
        )
        if code != 0:
            raise SystemExit(code)
        directory = newest_model(folder)
        training, config = directory.read_training(), load_config(directory)
        steps = {END: training["steps"]}
        steps |= {moment: _step_of(directory.weights(snapshot_name(moment))) for moment in budget.moments}
        with self.at(folder, END, budget, 0) as trained:
            parameters = sum(parameter.numel() for parameter in trained.reverse.network.parameters())
        return Facts(parameters, config.data.batch_size, steps)

    @contextmanager
    def at(self, folder: Path, moment: float, budget: Budget, num_steps: int) -> Iterator[Trained]:
        """Its own sampler keeps its own number of steps."""
        options = {"model_dir": str(newest_model(folder).path), "data": {}}
        directory, saved = trained_config(OmegaConf.create(options))
        weights = "auto" if moment == END else snapshot_name(moment)
        module = load_module(directory, saved, weights).to(budget.device)
        if weights == "auto":
            weights = default_weights(module.weight_names, directory.read_training()["steps"])
        with torch.no_grad():
            generator = with_measurements(
                module.generator(weights), OmegaConf.create({"outputs": str(folder)}), saved, directory, weights
            )
        assert isinstance(generator, DiffusionGenerator)
        shares = None if generator.num_classes is None else trained_data(saved).class_shares("train")

        def classes(indices: Tensor, seed: int) -> Tensor | None:
            return None if shares is None else labels(indices, seed, shares)

        def own(indices: Tensor, seed: int) -> Tensor:
            return generator.sample(indices, seed, classes(indices, seed))

        with torch.no_grad():
            yield Trained(generator.process, generator.reverse, own, generator.nfe, classes)


def _step_of(file: Path) -> int:
    from safetensors import safe_open

    with safe_open(file, "pt") as content:
        return int(content.metadata()["step"])
