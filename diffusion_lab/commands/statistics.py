"""diffusion-lab statistics: write a data set's images and feature statistics in the format of published evaluators."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion_lab.commands.evaluate import progress_bar
from diffusion_lab.config.build import build_data
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.config.scores import build_features
from diffusion_lab.data.module import DataModule
from diffusion_lab.interop.given_statistics import MOST_BYTES
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.reference import references_of
from diffusion_lab.report.drawing import to_uint8
from diffusion_lab.store import CacheDirectory, cache_directory
from diffusion_lab.store.files import check_file, write_whole
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import join, request_of


def run(cfg: DictConfig) -> None:
    """Write `to`, and print the evaluators that read each of its arrays."""
    if cfg.get("data") is None or cfg.to is None:
        raise MistakeError("set the data set and the file to write, such as data=cifar10 to=cifar10.npz")
    if cfg.split not in ("train", "test"):
        raise MistakeError(f"split={cfg.split}: choose train or test")
    to = Path(cfg.to)
    if to.suffix not in (".npz", ".pt"):
        raise MistakeError(f"to={to}: the name must end in .npz, or in .pt for torch-fidelity")
    if to.suffix == ".pt" and not cfg.moments:
        raise MistakeError(f"to={to} holds only mu and sigma: remove moments=false, or write an .npz")
    check_file(to)
    with users_mistakes():
        check_at_least(1, cfg, "num_images")
        request = request_of({"accelerator": cfg.accelerator, "devices": 1}, prefix="")
        data = build_data(cfg)
        if len(data.shape) != 3 or data.shape[0] not in (1, 3):
            raise MistakeError(f"{data.name}: published evaluators read images of 1 or 3 channels")
        chosen = list(build_features(cfg).values()) if cfg.moments else []
        if len(chosen) > 1 and any(text.startswith("features=") for text in HydraConfig.get().overrides.task):
            raise MistakeError("features: choose exactly one, because a file holds the statistics of one network")
        chosen = chosen[:1]
        if to.suffix == ".pt" and any(part.moments_suffix for part in chosen):
            raise MistakeError(f"to={to}: torch-fidelity does not store spatial features; write an .npz")
        if to.suffix == ".npz":
            chosen = [part for first in chosen for part in (first, *first.beside())]
        for part in chosen:
            part.check(data.shape)
            if 8 * part.dim**2 > MOST_BYTES:
                raise MistakeError(
                    f"features={part.name}: sigma of {part.dim:,} features is too large; set moments=false"
                )
    arrays = {"arr_0": _images(data, cfg.split, cfg.num_images)} if to.suffix == ".npz" else {}
    parts = [f"arr_0: {len(images)} {cfg.split} images" for images in arrays.values()]
    for part in chosen:
        with users_mistakes():
            found = _moments(data, part, cfg.split, cache_directory(Path(cfg.outputs)), join(request).device)
        arrays |= found
        images = data.num_train if cfg.split == "train" else data.num_test
        parts.append(f"{', '.join(found)}: {part.dim} features of {images} {cfg.split} images, features={part.name}")
    write_whole(to, _written(to.suffix, arrays))
    console = Terminal()
    console.print(f"statistics  {to}  ({'; '.join(parts)})")
    if chosen and chosen[0].metric_name != "fid":
        console.print(
            f"these are moments of features={chosen[0].name}, but the evaluators of ADM and EDM and clean-fid compare moments of "
            "features=inception with its published weights. With moments=false, ADM's evaluator computes its own from arr_0"
        )


def _moments(
    data: DataModule, features: Features, split: str, cache: CacheDirectory, device: str
) -> dict[str, np.ndarray]:
    """Mean and unbiased covariance of the features of all images of a split, float64."""
    with progress_bar(Terminal()) as progress:
        (reference,) = references_of(data, [features], cache, device, progress)
        moments = reference.moments(split)
    suffix = features.moments_suffix
    return {f"mu{suffix}": moments.mean.numpy(), f"sigma{suffix}": moments.dense().numpy()}


def _written(suffix: str, arrays: dict[str, np.ndarray]) -> bytes:
    """An npz; or a .pt for torch-fidelity, with mu in float32, because it compares only means of equal types."""
    content = io.BytesIO()
    if suffix == ".npz":
        np.savez(content, **arrays)  # type: ignore[arg-type]  # np.savez has options, too
    else:
        kinds = {name: "float32" if array.ndim == 1 else "float64" for name, array in arrays.items()}
        torch.save({name: array.astype(kinds[name]) for name, array in arrays.items()}, content)
    return content.getvalue()


def _images(data: DataModule, split: str, count: int) -> np.ndarray:
    """uint8 (n, H, W, 3): a fixed random choice of the split, or all of it."""
    shown = [to_uint8(x, data.num_levels) for x, _ in data.batches(split, 256, limit=count)]
    return torch.cat(shown).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
