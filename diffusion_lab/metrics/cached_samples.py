"""Which samples a score needs: everything that decides them, which is the key they are stored under."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.metrics.cache import digest
from diffusion_lab.metrics.drawing import Drawn, draw_once
from diffusion_lab.metrics.reference import Progress, Reference
from diffusion_lab.metrics.sampling import Stream
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.shards import SampleStore
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store import CacheDirectory


def draw_for_score(
    model: GenerativeModel,
    references: Sequence[Reference],
    settings: Evaluation,
    cache_dir: Path,
    identities: Sequence[str],
    progress: Progress,
    anew: bool,
) -> list[Drawn] | None:
    """The samples of these settings, from the current weights of the model, for each set of features."""
    data = references[0].data
    prior = data.class_shares(settings.reference) if model.num_classes is not None else None
    stream = Stream(settings.seed, settings.batch_size, data.num_levels, prior, settings.precision)
    decisive = {
        "weights": digest(model.state_dict()),
        "sampling": model.sampling_protocol(),
        "seed": stream.seed,
        "batch_size": stream.batch_size,
        "precision": stream.precision,
        "num_levels": stream.num_levels,
        "class_prior": None if prior is None else prior.tolist(),
    }
    features = [reference.features for reference in references]
    stores = [
        SampleStore(CacheDirectory(cache_dir).samples, {**decisive, "model": identity, "features": part.identity})
        for identity, part in zip(identities, features, strict=True)
    ]
    return draw_once(model, features, stream, settings.resolve_num_samples(data), stores, progress, anew)
