"""guidance=classifier: a trained classifier of noisy images, read from its folder and checked against the model that it guides."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.fingerprints import named_in
from diffusion_lab.runs import ModelDirectory

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.diffusion import ClassifierGuidance, Schedule


def classifier_guidance(classifier: str, scale: float, schedule: Schedule, identity: str) -> ClassifierGuidance:
    """The guidance by the classifier in the folder `classifier`, a folder of outputs/models.

    schedule, identity: of the model that is guided, and of its data. Raises ValueError where the classifier knows another process
    or other data: it would be asked about images that it has never seen.
    """
    from diffusion_lab.callbacks.ema import suited_weights
    from diffusion_lab.commands.trained import load_config
    from diffusion_lab.diffusion import ClassifierGuidance
    from diffusion_lab.models.noisy_classifier import NoisyClassifier
    from diffusion_lab.models.trainable import RAW

    directory = ModelDirectory(Path(classifier))
    saved, training = load_config(directory), directory.read_training()
    model = instantiate(saved.model)
    if not isinstance(model, NoisyClassifier):
        raise ValueError(
            f"{classifier} holds a {type(model).__name__}, not a noisy classifier; "
            "`diffusion-lab train model=noisy_classifier` makes one"
        )
    if model.process.schedule != schedule:
        raise ValueError(
            f"{classifier} was trained under {model.process.schedule} and the model to be guided under {schedule}; "
            "train a classifier with the model's schedule"
        )
    if saved.facts.identity != identity:
        raise ValueError(
            f"{classifier} was trained on other data ({saved.data._target_.rpartition('.')[2]}, by content) than the model to be "
            "guided; train a classifier on the model's data"
        )
    weights = suited_weights(directory.weight_names, training["steps"])
    model.load_weights({RAW: directory.weights(weights)})  # this copy guides and is never trained
    model.requires_grad_(False).eval()

    def logits(x_t: Tensor, timesteps: Tensor) -> Tensor:
        return model.to(x_t.device)(x_t, timesteps)

    return ClassifierGuidance(logits, model.num_classes, scale, name=f"{directory.path.name}, {weights}")


def classifier_identity(classifier: str) -> dict[str, Any]:
    """What decides the guidance by the classifier in a folder, wherever that lies: its training, its weights, what it is made of.

    RunError if the folder holds no finished model.
    """
    from diffusion_lab.callbacks.ema import suited_weights

    directory = ModelDirectory(Path(classifier))
    training = directory.read_training()
    weights = directory.weights(suited_weights(directory.weight_names, training["steps"]))
    parts = OmegaConf.to_container(OmegaConf.load(directory.config), resolve=False)
    return {
        "fingerprint": training["fingerprint"],
        "weights": _sha256(weights, weights.stat().st_mtime_ns),
        "parts": sorted(set(named_in([parts[group] for group in ("model", "network", "schedule") if group in parts]))),
    }


@lru_cache(maxsize=16)
def _sha256(file: Path, changed: int) -> str:
    """Of a file that was changed at that time."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
