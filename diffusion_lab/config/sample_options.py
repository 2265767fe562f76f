"""Options of `diffusion-lab sample` and `Model.sample`: the model, its weights, the conditions, and given images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from diffusion_lab.config.loading import Load, load_module, trained_config, trained_data
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.config.scores import measurements
from diffusion_lab.config.weight_files import last_weights
from diffusion_lab.data.module import images_at_once
from diffusion_lab.diffusion.condition_parts import rows
from diffusion_lab.diffusion.noise import check_seed
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.report.drawing import columns_of
from diffusion_lab.store import ModelDirectory, cache_directory
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.training.ranks import gather_to_rank_zero, num_ranks, rank


@dataclass(frozen=True)
class Drawing:
    """Samples of the module in `directory`, which was built from `saved`, with the options in `cfg`. weights: never "auto".

    generator: of the module with these weights; on the CPU, before anything is measured, except in the block of `on`.
    conditions: of the samples; y: their values. x_T: the start of each sample, by row; None for noise. edit: of given images.
    """

    cfg: DictConfig
    directory: ModelDirectory
    saved: DictConfig
    module: GenerativeModel
    weights: str
    generator: Generator
    conditions: DrawnConditions
    x_T: Tensor | None = None
    edit: Edit | None = None
    y: Conditions = None

    @property
    def units(self) -> Units | None:
        """Units of the data; None for grey levels."""
        return Units.of(self.saved.facts)

    @property
    def indices(self) -> Tensor:
        return torch.arange(self.cfg.num_images, device=self.generator.device)

    @property
    def columns(self) -> int | None:
        """The columns of a grid: see `columns_of` where classes are drawn in turn, else nearly square."""
        classes = self.conditions.classes
        if self.y is None or classes is None or (classes.rows is None and classes.shares is not None):
            return None
        return columns_of(self.conditions.number or self.generator.num_classes, self.cfg.num_images)

    def check_trajectory(self, option: str) -> None:
        """MistakeError for a model that generates samples in one step. option: the option that needs a trajectory."""
        if not isinstance(self.generator, DiffusionGenerator):
            raise MistakeError(f"{option}: {self.directory.path} has no steps between noise and image to show")

    @contextmanager
    def on(self, device: str) -> Iterator[Drawing]:
        """This drawing on `device`, with all measurements; inside the block no gradients are recorded."""
        with torch.no_grad():
            with users_mistakes():
                generator = self.module.to(device).generator(self.weights)
                generator = with_measurements(generator, self.cfg, self.saved, self.directory, self.weights)
                edit = wanted_edit(self.cfg, generator, self.saved, self.conditions)
                if edit is not None and self.x_T is not None:
                    raise MistakeError("x_T: an edit starts from an image; remove one of them")
                drawing = replace(self, generator=generator, edit=edit)
                drawing = replace(drawing, y=drawing._chosen_conditions())
            yield drawing

    def _chosen_conditions(self) -> Conditions:
        """Conditions that the options choose; None for edits of given images whose conditions are not known."""
        if self.edit is None or self.conditions.number:
            return self.conditions.of(self.indices, self.cfg.seed)
        if self.generator.needs_condition and not self.edit.has_conditions:
            raise MistakeError(f"condition: {self.directory.path} needs a class for every image: set condition=…")
        return None

    def images(self, progress_bar: bool) -> Tensor | None:
        """All samples in the data's units, drawn by all ranks together: float32 on the CPU of rank 0, None on the others."""
        sample = self.edit.draw if self.edit else self._sample
        size = min(self.cfg.batch_size, ceil(self.cfg.num_images / num_ranks()))
        parts = [slice(start, start + size) for start in range(0, self.cfg.num_images, size)]
        mine = [(self.indices[part], rows(self.y, part)) for part in parts][rank() :: num_ranks()]
        shown = track(mine, "drawing", transient=True, disable=rank() > 0) if progress_bar else mine
        drawn = gather_to_rank_zero([sample(some, self.cfg.seed, known).cpu() for some, known in shown])
        if drawn is None:
            return None
        in_order = [drawn[number % num_ranks()][number // num_ranks()] for number in range(len(parts))]
        return self._restored(torch.cat(in_order))

    def trajectory(self, most: int | None = None) -> Iterator[Tensor]:
        """x_T, …, x_0 of the first samples, or of all, for a model that passed `check_trajectory`."""
        assert isinstance(self.generator, DiffusionGenerator)
        indices, y = self.indices[:most], rows(self.y, slice(most))
        return map(self._restored, self.generator.trajectory(indices, self.cfg.seed, y, self._start_of(indices)))

    def in_grid(self, x: Tensor) -> Tensor:
        """The samples, preceded by the images that they were made from."""
        return x if self.edit is None else torch.cat([self._restored(self.edit.inputs.cpu()), x])

    def _sample(self, indices: Tensor, seed: int, y: Conditions) -> Tensor:
        if not isinstance(self.generator, DiffusionGenerator):
            return self.generator.sample(indices, seed, y)
        return self.generator.sample(indices, seed, y, self._start_of(indices))

    def _start_of(self, indices: Tensor) -> Tensor | None:
        return None if self.x_T is None else self.x_T[indices.cpu()].to(indices.device)

    def _restored(self, x: Tensor) -> Tensor:
        return x if self.units is None else self.units.restored(x)


def with_measurements(
    generator: Generator, cfg: DictConfig, saved: DictConfig, directory: ModelDirectory, weights: str
) -> Generator:
    """The generator with the measurements that `saved` requires before it draws; they need the data of its training.

    cfg: of the command, with `outputs`. directory, weights: the model's folder, and the name of its weights.
    """
    needed = measurements(generator, saved, directory, weights)
    if needed is None:
        return generator
    assert isinstance(generator, DiffusionGenerator)
    return needed.applied(generator, trained_data(saved), cache_directory(Path(cfg.outputs)))


def chosen_module(
    cfg: DictConfig, load: Load = load_module
) -> tuple[ModelDirectory, DictConfig, GenerativeModel, str, Generator]:
    """(directory, config, module on the CPU, name of its weights, its generator with these) that the options choose.

    MistakeError if that is impossible.

    load: a function like `load_module`.
    """
    with users_mistakes():
        directory, saved = trained_config(cfg)
        module = load(directory, saved, cfg.weights)
        weights = last_weights(directory) if cfg.weights == "auto" else cfg.weights
        generator = module.generator(weights)  # fails here if these weights do not exist
    reads_variance = not isinstance(generator, DiffusionGenerator) or generator.sampler.reads_variance
    if cfg.get("variance") is not None and not reads_variance:
        raise MistakeError("variance has no effect with this sampler; choose another, such as sampler=strided")
    return directory, saved, module, weights, generator


def drawing_of(
    cfg: DictConfig, load: Load = load_module, x_T: Tensor | None = None, arrays: Mapping[str, Tensor] | None = None
) -> Drawing:
    """A `Drawing` of a config of `sample`, with its model on the CPU. MistakeError, in one sentence, for invalid options.

    x_T: starts to use in place of noise, (num_images, *shape). arrays: values of conditions by name, in addition to `cfg`.
    """
    with users_mistakes():
        check_at_least(1, cfg, "num_images", "batch_size", "inpaint.repeats")
        check_seed(cfg.seed)
    directory, saved, module, weights, generator = chosen_module(cfg, load)
    cfg = copy.deepcopy(cfg)
    cfg.batch_size = cfg.batch_size or images_at_once(generator.shape)
    shape = (cfg.num_images, *generator.shape)
    if x_T is not None and not isinstance(generator, DiffusionGenerator):
        raise MistakeError(f"x_T: {directory.path} has no chain that could start from it: remove x_T")
    if x_T is not None and tuple(x_T.shape) != shape:
        raise MistakeError(f"x_T has the shape {tuple(x_T.shape)}: for {cfg.num_images} images it must be {shape}")
    with users_mistakes():
        data = cache(lambda: trained_data(saved))
        conditions = drawn_conditions(cfg, saved, directory, generator, data, arrays or {})
    return Drawing(cfg, directory, saved, module, weights, generator, conditions, x_T)
