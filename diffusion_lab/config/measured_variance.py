"""Which statistics of a network and of its data a config asks for: variances, spacings and starts that are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.identity import measuring_identity
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.option_names import check_at_least

if TYPE_CHECKING:
    from diffusion_lab.metrics.measuring import Measurements
    from diffusion_lab.models.diffusion_generator import DiffusionGenerator


def measurements(
    generator: DiffusionGenerator, cfg: DictConfig, directory: ModelDirectory, weights: str, and_costs: bool = False
) -> Measurements:
    """What must be measured before `generator` draws as `cfg` says. and_costs: a metric needs the costs of its steps."""
    from diffusion_lab.metrics.measuring import Measurements  # imports torch, which --help avoids

    check_at_least(1, cfg, "evaluation.statistics_images")
    variance = cfg.get("measured_variance")
    return Measurements(
        data_moments=generator.start.needs_data_moments,
        variance=None if variance is None else instantiate(variance),
        step_costs=and_costs or generator.sampler.spacing.needs_costs,
        num_images=cfg.evaluation.statistics_images,
        identity=measuring_identity(cfg),
        about=f"{directory.path.name}-{weights}",
    )
