"""From a config to what is measured of trained weights and of their data: variance, steps and start of the chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.build import measuring_identity
from diffusion_lab.config.heads import load_head, needed_head
from diffusion_lab.store import ModelDirectory

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.data.module import DataModule
    from diffusion_lab.diffusion import Variance
    from diffusion_lab.metrics.shards import Progress
    from diffusion_lab.models.base import GenerativeModel


def use_measured(
    model: GenerativeModel,
    data: Callable[[], DataModule],
    cfg: DictConfig,
    directory: ModelDirectory,
    weights: str,
    cache: Path,
    progress: Progress | None = None,
    and_costs: bool = False,
) -> None:
    """Give `model` the statistics that `cfg` asks for with these weights, measured if need be; does nothing if it asks for none.

    and_costs: what each step of its chain costs too, where it has a chain.

    All ranks must call it.
    """
    from diffusion_lab.diffusion import NetworkStatistics
    from diffusion_lab.metrics.measuring import data_moments, measure_once
    from diffusion_lab.metrics.settings import check_at_least

    if model.needs_data_moments:
        model.use_data_moments(data_moments(data(), model.num_classes is not None, cache, progress))
    variance, head = cfg.get("measured_variance"), needed_head(directory, cfg, weights)
    if head is not None:
        model.use_head(*load_head(head, variance))
        variance = None
    and_costs = model.needs_last_steps or (and_costs and model.log_snrs(2) is not None)
    if variance is None and not and_costs:
        return
    identity = measuring_identity(directory.read_training()["fingerprint"], cfg)
    about = f"{directory.path.name}-{weights}"
    num_images = cfg.evaluation.statistics_images
    check_at_least(1, "evaluation.statistics_images", num_images)
    rest = (data(), num_images, weights, cache, identity, about, progress)
    found: list[tuple[NetworkStatistics, Tensor | None, Callable[..., Variance] | None]] = []
    if variance is not None:
        chosen = instantiate(variance)
        measured = measure_once(model, model.measure, {"of": "network"}, *rest)
        means = dict(measured.means)
        if chosen.func.needs_dimensions:
            means |= measure_once(model, model.measure_dimensions, {"of": "dimensions"}, *rest).means
        found.append((NetworkStatistics(**means, of=measured.about), None, chosen))
    if and_costs:  # by which steps are chosen
        split = data().choosing_split
        facts = {"of": "last step", "decoder": model.protocol()["decoder"], "num_levels": model.num_levels}
        measured = measure_once(model, model.measure, {"of": "network"}, *rest, split)
        last_steps = measure_once(model, model.measure_last_steps, facts, *rest, split).means["bits"]
        found.append((NetworkStatistics(**measured.means, of=measured.about), last_steps, None))
    for each in found:
        model.use_measured(*each)
