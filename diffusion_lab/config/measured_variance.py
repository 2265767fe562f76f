"""Statistics measured on trained weights and on their data, for variances, spacings and starts that need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.identity import measuring_identity
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.option_names import check_at_least

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.data.module import DataModule
    from diffusion_lab.diffusion import Variance
    from diffusion_lab.metrics.reference import Progress
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
    """Give `model` the statistics that `cfg` needs with these weights, measuring them if necessary; otherwise do nothing.

    and_costs: also the cost of each step of its chain. Families without a chain have nothing to measure.

    All ranks must call it.
    """
    from diffusion_lab.analysis import NetworkStatistics
    from diffusion_lab.metrics.measuring import data_moments, measure_once

    denoiser = model.denoiser
    if denoiser is None:
        return
    if denoiser.start.needs_data_moments:
        denoiser.use_data_moments(data_moments(data(), model.num_classes is not None, cache, progress))
    variance = cfg.get("measured_variance")
    and_costs = and_costs or denoiser.sampler.spacing.needs_costs
    if variance is None and not and_costs:
        return
    identity = measuring_identity(directory.read_training()["fingerprint"], cfg)
    about = f"{directory.path.name}-{weights}"
    check_at_least(1, cfg, "evaluation.statistics_images")
    rest = (data(), cfg.evaluation.statistics_images, weights, cache, identity, about, progress)
    found: list[tuple[NetworkStatistics, Tensor | None, Callable[..., Variance] | None]] = []
    if variance is not None:
        chosen = instantiate(variance)
        measured = measure_once(model, denoiser.measure, {"of": "network"}, *rest)
        means = dict(measured.means)
        if chosen.func.varies:
            means |= measure_once(model, denoiser.measure_dimensions, {"of": "dimensions"}, *rest).means
        found.append((NetworkStatistics(**means, of=measured.about), None, chosen))
    if and_costs:  # used to choose steps
        split = data().choosing_split
        facts = {"of": "last step", "decoder": model.protocol()["decoder"], "num_levels": model.num_levels}
        measured = measure_once(model, denoiser.measure, {"of": "network"}, *rest, split)
        last_steps = measure_once(model, denoiser.measure_last_steps, facts, *rest, split).means["bits"]
        found.append((NetworkStatistics(**measured.means, of=measured.about), last_steps, None))
    for each in found:
        denoiser.use_measured(*each)
