"""What `diffusion-lab sample` and `Model.sample` draw: a trained model with the weights, labels and images that options name."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from math import ceil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from rich.progress import track
from torch import Tensor

from diffusion_lab.config.editing import Edit, wanted_edit
from diffusion_lab.config.measured_variance import use_measured
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.config.trained import Load, load_model, trained_config, trained_data
from diffusion_lab.config.weight_files import last_weights
from diffusion_lab.data.module import images_at_once
from diffusion_lab.diffusion.noise import check_seed
from diffusion_lab.metrics.samples import labels
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store import ModelDirectory, cache_directory
from diffusion_lab.store.options import check_at_least
from diffusion_lab.store.records import RunError
from diffusion_lab.training.ranks import gather_to_rank_zero, num_ranks, rank

MOST_COLUMNS = 20  # of a grid with a column for each class


@dataclass(frozen=True)
class Drawing:
    """The model in `directory`, built with the choices in `saved`, and the options in `cfg`. weights: never "auto".

    cfg.label: the numbers of classes, or None. x_T: what sample i starts from, in row i; None: noise.
    """

    cfg: DictConfig
    directory: ModelDirectory
    saved: DictConfig
    model: GenerativeModel
    weights: str
    x_T: Tensor | None = None

    @property
    def on_clusters(self) -> bool:
        """Whether the labels are clusters, found in the data, and not its classes."""
        return self.saved.get("labels") is not None

    @cached_property
    def _cluster_shares(self) -> Tensor | None:
        """(num_classes,) float64: how often each cluster occurs in the data; None for a model without clusters."""
        if not self.on_clusters:
            return None
        shares = self.directory.read_training().get("cluster_shares", [])
        if len(shares) != self.model.num_classes:
            raise RunError(
                f"{self.directory.training} has {len(shares)} cluster_shares, but the model has {self.model.num_classes} clusters"
            )
        return torch.tensor(shares, dtype=torch.float64)

    def check_trajectory(self, option: str) -> None:
        """MistakeError for a model that draws in one step. option: what needs a trajectory."""
        if self.model.denoiser is None:
            raise MistakeError(f"{option}: {self.directory.path} has no steps between noise and image to show")

    @contextmanager
    def on(self, device: str) -> Iterator[tuple[Edit | None, Tensor, Tensor | None]]:
        """Inside the block the model is on `device` and has the weights. Yields the edit, the indices and their labels, if any."""
        with torch.no_grad(), self.model.to(device).use_weights(self.weights):
            with users_mistakes():
                cache = cache_directory(Path(self.cfg.outputs))
                saved = self.saved
                use_measured(self.model, lambda: trained_data(saved), saved, self.directory, self.weights, cache)
                edit = wanted_edit(self.cfg, self.model, saved)
            if edit is not None and self.x_T is not None:
                raise MistakeError("x_T: an edit starts from an image; remove one of them")
            indices = torch.arange(self.cfg.num_images, device=self.model.device)
            yield edit, indices, self._labels(indices, edit)

    def draw(self, edit: Edit | None, indices: Tensor, y: Tensor | None, progress_bar: bool) -> Tensor | None:
        """All samples, drawn by all ranks together, float32 on the CPU on rank 0; None on the others."""
        sample = edit.draw if edit else self._sample
        size = min(self.cfg.batch_size, ceil(len(indices) / num_ranks()))
        batches = list(zip(indices.split(size), repeat(None) if y is None else y.split(size), strict=False))
        mine = batches[rank() :: num_ranks()]
        shown = track(mine, "drawing", transient=True, disable=rank() > 0) if progress_bar else mine
        drawn = gather_to_rank_zero([sample(some, self.cfg.seed, classes).cpu() for some, classes in shown])
        if drawn is None:
            return None
        return torch.cat([drawn[number % num_ranks()][number // num_ranks()] for number in range(len(batches))])

    def trajectory(self, indices: Tensor, y: Tensor | None) -> Iterator[Tensor]:
        """x_T, …, x_0 of these samples, for a model that `check_trajectory` has accepted."""
        assert self.model.denoiser is not None
        return self.model.denoiser.trajectory(indices, self.cfg.seed, y, self._start_of(indices))

    def _sample(self, indices: Tensor, seed: int, y: Tensor | None) -> Tensor:
        denoiser = self.model.denoiser
        if denoiser is None:
            return self.model.sample(indices, seed, y)
        return denoiser.sample(indices, seed, y, self._start_of(indices))

    def _start_of(self, indices: Tensor) -> Tensor | None:
        return None if self.x_T is None else self.x_T[indices.cpu()].to(indices.device)

    def in_grid(self, x: Tensor, edit: Edit | None) -> Tensor:
        """The samples, after the images that they were made from."""
        return x if edit is None else torch.cat([edit.inputs.cpu(), x])

    def columns(self, y: Tensor | None) -> int | None:
        """The columns of a grid: one per class if a few classes are drawn in turn; None for a nearly square grid."""
        in_turn = y is not None and (self.cfg.label is not None or self._cluster_shares is None)
        count = (self.model.num_classes or 0) if self.cfg.label is None else len(self.cfg.label)
        return count if in_turn and 1 < count <= MOST_COLUMNS else None

    def _labels(self, indices: Tensor, edit: Edit | None) -> Tensor | None:
        """The labels that the options give, in turn; by default clusters, as often as in the data, or all classes in turn.

        None for given images, whose classes are not known.
        """
        if self.cfg.label is not None:
            return torch.tensor(list(self.cfg.label), device=indices.device)[indices % len(self.cfg.label)]
        if edit is None:
            shares = self._cluster_shares
            return self.model.classes_in_turn(indices) if shares is None else labels(indices, self.cfg.seed, shares)
        if self.model.needs_label and not edit.has_labels:
            raise MistakeError(
                f"label: {self.directory.path} was trained with a label for every image and has no output without one; set the "
                "class of these images, such as label=0"
            )
        return None


def chosen_model(cfg: DictConfig, load: Load = load_model) -> tuple[ModelDirectory, DictConfig, GenerativeModel, str]:
    """(directory, config, model on the CPU, name of its weights), as the options say. MistakeError for what cannot be.

    load: builds the model, as `load_model` does.
    """
    with users_mistakes():
        directory, saved = trained_config(cfg)
        model = load(directory, saved, cfg.weights)
        weights = last_weights(directory) if cfg.weights == "auto" else cfg.weights
        with model.use_weights(weights):
            pass  # says at once if there are no such weights
    _check_variance(cfg, model)
    return directory, saved, model, weights


def drawing_of(cfg: DictConfig, load: Load = load_model, x_T: Tensor | None = None) -> Drawing:
    """What a config of `sample` draws, with its model on the CPU. MistakeError, in one sentence, for what cannot be done.

    x_T: own starts in place of noise, (num_images, *shape).
    """
    with users_mistakes():
        check_at_least(1, cfg, "num_images", "batch_size", "inpaint.repeats")
        check_seed(cfg.seed)
    directory, saved, model, weights = chosen_model(cfg, load)
    cfg = copy.deepcopy(cfg)
    cfg.batch_size = cfg.batch_size or images_at_once(model.shape)
    if cfg.label is not None:
        names = [] if saved.get("labels") is not None else directory.read_training().get("class_names", [])
        cfg.label = _classes(cfg, model.num_classes or 0, names, directory)
    if x_T is not None:
        _check_start(x_T, cfg, directory, model)
    return Drawing(cfg, directory, saved, model, weights, x_T)


def _classes(cfg: DictConfig, num_classes: int, names: Sequence[str], directory: ModelDirectory) -> list[int]:
    """The numbers of the classes in cfg.label: a number or a name, or a list of them. names: of the classes, or none."""
    given = list(cfg.label) if isinstance(cfg.label, ListConfig) else [cfg.label]
    names = names if len(names) == num_classes else []
    if not num_classes:
        raise MistakeError(f"label={cfg.label}: {directory.path} has no classes to choose from")
    if not 1 <= len(given) <= cfg.num_images:
        raise MistakeError(f"label={cfg.label}: give from one to num_images={cfg.num_images} classes")
    return [_class(one, num_classes, names, directory) for one in given]


def _class(given: Any, num_classes: int, names: Sequence[str], directory: ModelDirectory) -> int:
    """The number of a class, given by number or name; capitals may differ if that leaves one class."""
    if type(given) is int and 0 <= given < num_classes:
        return given
    folded = [name.casefold() for name in names]
    if given in names:
        return names.index(given)
    if isinstance(given, str) and folded.count(given.casefold()) == 1:
        return folded.index(given.casefold())
    near = difflib.get_close_matches(str(given).casefold(), folded, n=3, cutoff=0.5)
    such = ", ".join([names[folded.index(name)] for name in near] or names[:10])
    named = f", such as {such}" if names else ", without names" if isinstance(given, str) else ""
    raise MistakeError(f"label={given}: {directory.path} has the classes 0 … {num_classes - 1}{named}")


def _check_start(x_T: Tensor, cfg: DictConfig, directory: ModelDirectory, model: GenerativeModel) -> None:
    shape = (cfg.num_images, *model.shape)
    if model.denoiser is None:
        raise MistakeError(f"x_T: {directory.path} has no chain that could start from it: remove x_T")
    if tuple(x_T.shape) != shape:
        raise MistakeError(f"x_T has the shape {tuple(x_T.shape)}: for {cfg.num_images} images it must be {shape}")


def _check_variance(cfg: DictConfig, model: GenerativeModel) -> None:
    if cfg.get("variance") is not None and model.denoiser and not model.denoiser.sampler.reads_variance:
        raise MistakeError(
            "variance: this sampler does not use it, so the images would be the same; add a sampler that does, such as "
            "sampler=strided"
        )
