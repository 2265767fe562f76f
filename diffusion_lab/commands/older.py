"""A config that older code saved, in today's words: where an option went, and what was measured before that was a choice."""

from __future__ import annotations

from dataclasses import asdict

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.evaluation import metrics
from diffusion_lab.evaluation.described import BEFORE

_BOUND = "diffusion_lab.evaluation.settings.Bound"
MOVED = {
    "evaluation.kid_subsets": "metrics.kernel_distance.num_subsets",
    "evaluation.kid_subset_size": "metrics.kernel_distance.subset_size",
    "evaluation.neighbours": "metrics.precision_recall.neighbours",
    **{
        f"evaluation.bound.{name}": f"metrics.bits_per_dim.{name}"
        for name in ("num_images", "batch_size", "max_terms", "num_draws")
    },
}


def in_todays_words(config: DictConfig) -> DictConfig:
    """What a folder of older code holds, unresolved; what is not older, or is not as it was, stays as it is."""
    if "metrics" in config or config.get("evaluation") is None:
        return config
    config = config.copy()
    config.metrics = {
        name: {"_target_": f"{metrics.__name__}.{type(metric).__name__}", **asdict(metric)}
        for name, metric in BEFORE.items()
    }
    for old, new in MOVED.items():
        group, _, option = old.rpartition(".")
        node = OmegaConf.select(config, group)
        if isinstance(node, DictConfig) and option in node:
            OmegaConf.update(config, new, node.pop(option))
    bound = config.evaluation.get("bound")
    if isinstance(bound, DictConfig) and bound == {"_target_": _BOUND}:
        del config.evaluation["bound"]
    return config
