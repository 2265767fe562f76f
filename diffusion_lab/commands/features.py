"""diffusion-lab features: train features of images without labels, for features=own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from omegaconf import DictConfig
from rich.progress import Progress

from diffusion_lab.config.build import build_data
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.metrics.features.self_supervised import train_encoder, written
from diffusion_lab.store import features_file
from diffusion_lab.store.files import check_file, write_whole
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.terminal import Terminal


def run(cfg: DictConfig) -> None:
    """Train the features, write their weights, and print the options that use them."""
    if cfg.get("data") is None:
        raise MistakeError("set the data set, such as data=image_folder data.root=FOLDER")
    if cfg.to is not None:
        check_file(Path(cfg.to))
    with users_mistakes(), Progress(transient=True) as bar:
        check_at_least(1, cfg, "num_steps")
        data = build_data(cfg)
        data.batch_size = cfg.batch_size
        task = bar.add_task("features", total=cfg.num_steps)
        content = written(
            train_encoder(data, cfg.num_steps, cfg.seed, progress=lambda step, _: bar.update(task, completed=step))
        )
    digest = hashlib.sha256(content).hexdigest()
    to = features_file(Path(cfg.outputs), data.name, digest) if cfg.to is None else Path(cfg.to)
    write_whole(to, content)
    Terminal().print(
        f"features  {to}  ({data.num_trained_on} training images, no labels; SHA-256 {digest})\n"
        f"use them  diffusion-lab evaluate features=own features.own.weights={to}"
    )
