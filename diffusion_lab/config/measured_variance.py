"""Statistics measured on trained weights and on their data, for variances, spacings and starts that need them.

The head of variance=regressed is trained beforehand. Its training.json, in a folder beside the model's, holds the digest of the
weights that it was trained on; by this digest it is found, and a head for other weights is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.identity import measuring_identity, sha256_of
from diffusion_lab.config.loading import build_trained, load_config, settled, use_last_weights
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.weight_files import weight_file
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.option_names import check_at_least

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.data.module import DataModule
    from diffusion_lab.diffusion import Variance
    from diffusion_lab.metrics.reference import Progress
    from diffusion_lab.models.base import GenerativeModel

_OPTION = "measured_variance.head"


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
    variance, head = cfg.get("measured_variance"), needed_head(directory, cfg, weights)
    if head is not None:
        denoiser.use_head(*load_head(head, variance))
        variance = None
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


def needed_head(directory: ModelDirectory, cfg: DictConfig, weights: str) -> ModelDirectory | None:
    """The folder of the head for these weights of a model; None if the variance of `cfg` needs none.

    It is the folder that `cfg` names, or the newest beside the model. weights: a name or "auto". MistakeError if there is none.
    """
    node = cfg.get("measured_variance")
    if node is None or "head" not in node:
        return None
    if not directory.finished:
        raise MistakeError("variance=regressed needs a head, which is trained on a finished model: train that first")
    file = weight_file(directory, weights, "evaluation.weights")
    name, served, named = file.stem, sha256_of(file), node.get("head")
    options = f"model=variance_head init_from={directory.path} init_weights={name}"
    how = f"train one with `diffusion-lab train {options}` and the model's data=… and condition=…"
    if named is None:
        beside = [ModelDirectory(path) for path in directory.path.resolve().parent.iterdir() if path.is_dir()]
        heads = [head for head in beside if head.serves == served]
        if not heads:
            raise MistakeError(
                f"variance=regressed: there is no head for the weights {name} of {directory.path} beside it; {how}, or name it "
                f"with {_OPTION}=…"
            )
        return max(heads, key=lambda head: head.training.stat().st_mtime_ns)
    head = ModelDirectory(Path(named))
    if head.read_training().get("serves") != served:
        raise MistakeError(f"{_OPTION}={named}: it holds no head for the weights {name} of {directory.path}; {how}")
    return head


def load_head(head: ModelDirectory, variance: DictConfig) -> tuple[Callable[..., Tensor], Variance]:
    """The head as (image and output, timesteps) -> v, with its default weights, on the device of its input; and the variance
    that reads v."""
    model = build_trained(head, settled(load_config(head), head))
    if not model.needs_base:
        raise MistakeError(f"{_OPTION}={head.path}: this folder holds a {type(model).__name__}, not a variance head")
    file = use_last_weights(model, head)
    name = f"{head.path.name}, {file.stem}, {sha256_of(file)[:12]}"
    return lambda x, timesteps: model.to(x.device)(x, timesteps), instantiate(variance)(head=name)
