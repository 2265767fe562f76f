"""Options of `diffusion-lab sample` and `Model.sample`: the model, its weights, the conditions, and given images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from diffusion_lab.conditions.units import Units
from diffusion_lab.config.drawn_conditions import DrawnConditions, drawn_conditions
from diffusion_lab.config.editing import Edit, wanted_edit
from diffusion_lab.config.loading import Load, load_model, trained_config, trained_data
from diffusion_lab.config.measured_variance import use_measured
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.config.weight_files import last_weights
from diffusion_lab.data.module import images_at_once
from diffusion_lab.data.pictures import columns_of
from diffusion_lab.diffusion.noise import check_seed
from diffusion_lab.diffusion.parts import rows
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store import ModelDirectory, cache_directory
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.training.ranks import gather_to_rank_zero, num_ranks, rank


@dataclass(frozen=True)
class Drawing:
    """The model in `directory`, built from `saved`, and the options in `cfg`. weights: never "auto".

    conditions: of its samples. x_T: the start of each sample, by row; None for noise.
    """

    cfg: DictConfig
    directory: ModelDirectory
    saved: DictConfig
    model: GenerativeModel
    weights: str
    conditions: DrawnConditions
    x_T: Tensor | None = None

    @property
    def units(self) -> Units | None:
        """Units of the data; None for grey levels."""
        return Units.of(self.saved.facts)

    def check_trajectory(self, option: str) -> None:
        """MistakeError for a model that generates samples in one step. option: the option that needs a trajectory."""
        if self.model.denoiser is None:
            raise MistakeError(f"{option}: {self.directory.path} has no steps between noise and image to show")

    @contextmanager
    def on(self, device: str) -> Iterator[tuple[Edit | None, Tensor, Conditions]]:
        """Inside the block the model is on `device` with its weights. Yields the edit, the indices and y."""
        with torch.no_grad(), self.model.to(device).use_weights(self.weights):
            with users_mistakes():
                cache = cache_directory(Path(self.cfg.outputs))
                saved = self.saved
                use_measured(self.model, lambda: trained_data(saved), saved, self.directory, self.weights, cache)
                edit = wanted_edit(self.cfg, self.model, saved, self.conditions)
            if edit is not None and self.x_T is not None:
                raise MistakeError("x_T: an edit starts from an image; remove one of them")
            indices = torch.arange(self.cfg.num_images, device=self.model.device)
            with users_mistakes():
                y = self._conditions(indices, edit)
            yield edit, indices, y

    def draw(self, edit: Edit | None, indices: Tensor, y: Conditions, progress_bar: bool) -> Tensor | None:
        """All samples in the data's units, drawn by all ranks together: float32 on the CPU of rank 0, None on the others."""
        sample = edit.draw if edit else self._sample
        size = min(self.cfg.batch_size, ceil(len(indices) / num_ranks()))
        parts = [slice(start, start + size) for start in range(0, len(indices), size)]
        batches = [(indices[part], rows(y, part)) for part in parts]
        mine = batches[rank() :: num_ranks()]
        shown = track(mine, "drawing", transient=True, disable=rank() > 0) if progress_bar else mine
        drawn = gather_to_rank_zero([sample(some, self.cfg.seed, known).cpu() for some, known in shown])
        if drawn is None:
            return None
        return self._restored(
            torch.cat([drawn[number % num_ranks()][number // num_ranks()] for number in range(len(batches))])
        )

    def trajectory(self, indices: Tensor, y: Conditions) -> Iterator[Tensor]:
        """x_T, …, x_0 of these samples, for a model that passed `check_trajectory`."""
        assert self.model.denoiser is not None
        return map(self._restored, self.model.denoiser.trajectory(indices, self.cfg.seed, y, self._start_of(indices)))

    def _restored(self, x: Tensor) -> Tensor:
        return x if self.units is None else self.units.restored(x)

    def _sample(self, indices: Tensor, seed: int, y: Conditions) -> Tensor:
        denoiser = self.model.denoiser
        if denoiser is None:
            return self.model.sample(indices, seed, y)
        return denoiser.sample(indices, seed, y, self._start_of(indices))

    def _start_of(self, indices: Tensor) -> Tensor | None:
        return None if self.x_T is None else self.x_T[indices.cpu()].to(indices.device)

    def in_grid(self, x: Tensor, edit: Edit | None) -> Tensor:
        """The samples, preceded by the images that they were made from."""
        return x if edit is None else torch.cat([self._restored(edit.inputs.cpu()), x])

    def columns(self, y: Conditions) -> int | None:
        """The columns of a grid: see `columns_of` where classes are drawn in turn, else nearly square."""
        classes = self.conditions.classes
        if y is None or classes is None or (classes.rows is None and classes.shares is not None):
            return None
        return columns_of(self.conditions.number or self.model.num_classes)

    def _conditions(self, indices: Tensor, edit: Edit | None) -> Conditions:
        """Conditions that the options choose; None for edits of given images whose conditions are not known."""
        if edit is None or self.conditions.number:
            return self.conditions.of(indices, self.cfg.seed)
        if self.model.needs_condition and not edit.has_conditions:
            raise MistakeError(f"condition: {self.directory.path} needs a class for every image: set condition=…")
        return None


def chosen_model(cfg: DictConfig, load: Load = load_model) -> tuple[ModelDirectory, DictConfig, GenerativeModel, str]:
    """(directory, config, model on the CPU, name of its weights) that the options choose. MistakeError if that is impossible.

    load: a function like `load_model`.
    """
    with users_mistakes():
        directory, saved = trained_config(cfg)
        model = load(directory, saved, cfg.weights)
        weights = last_weights(directory) if cfg.weights == "auto" else cfg.weights
        with model.use_weights(weights):
            pass  # fails here if these weights do not exist
    if cfg.get("variance") is not None and model.denoiser and not model.denoiser.sampler.reads_variance:
        raise MistakeError("variance has no effect with this sampler; choose another, such as sampler=strided")
    return directory, saved, model, weights


def drawing_of(
    cfg: DictConfig, load: Load = load_model, x_T: Tensor | None = None, arrays: Mapping[str, Tensor] | None = None
) -> Drawing:
    """A `Drawing` of a config of `sample`, with its model on the CPU. MistakeError, in one sentence, for invalid options.

    x_T: starts to use in place of noise, (num_images, *shape). arrays: values of conditions by name, in addition to `cfg`.
    """
    with users_mistakes():
        check_at_least(1, cfg, "num_images", "batch_size", "inpaint.repeats")
        check_seed(cfg.seed)
    directory, saved, model, weights = chosen_model(cfg, load)
    cfg = copy.deepcopy(cfg)
    cfg.batch_size = cfg.batch_size or images_at_once(model.shape)
    if x_T is not None:
        _check_start(x_T, cfg, directory, model)
    data = cache(lambda: trained_data(saved))
    with users_mistakes():
        conditions = drawn_conditions(cfg, saved, directory, model, data, arrays or {})
    return Drawing(cfg, directory, saved, model, weights, conditions, x_T)


def _check_start(x_T: Tensor, cfg: DictConfig, directory: ModelDirectory, model: GenerativeModel) -> None:
    shape = (cfg.num_images, *model.shape)
    if model.denoiser is None:
        raise MistakeError(f"x_T: {directory.path} has no chain that could start from it: remove x_T")
    if tuple(x_T.shape) != shape:
        raise MistakeError(f"x_T has the shape {tuple(x_T.shape)}: for {cfg.num_images} images it must be {shape}")
