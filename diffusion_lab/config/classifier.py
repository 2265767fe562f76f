"""guidance=classifier: a trained classifier of noisy images, read from its folder and checked against the model that it guides."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import get_class
from torch import Tensor

from diffusion_lab.config.loading import build_trained, load_config, settled
from diffusion_lab.diffusion import ClassifierGuidance, Schedule
from diffusion_lab.diffusion.intervals import Interval
from diffusion_lab.models.noisy_classifier import NoisyClassifier
from diffusion_lab.models.trainable import RAW
from diffusion_lab.store import ModelDirectory
from diffusion_lab.training.ema import default_weights


class TrainedClassifierGuidance(ClassifierGuidance):
    """The guidance by the classifier in the folder `classifier`, a folder of outputs/models, which is read as any model's is.

    schedule, identity: of the model that is guided, and of its data. Raises ValueError where the classifier knows another process
    or other data: it would get images unlike those of its training.
    """

    def __init__(
        self,
        classifier: str,
        scale: float | int,
        schedule: Schedule,
        identity: str,
        interval: Interval = None,
        log_snr_interval: Interval = None,
    ) -> None:
        directory = ModelDirectory(Path(classifier))
        saved, training = load_config(directory), directory.read_training()
        kind = get_class(saved.model._target_)
        if not issubclass(kind, NoisyClassifier):
            raise ValueError(
                f"{classifier} holds a {kind.__name__}, not a noisy classifier; "
                "train one with `diffusion-lab train model=noisy_classifier`"
            )
        model = build_trained(directory, settled(saved, directory))
        if saved.facts.get("identity") != identity:
            data = "not named" if saved.data is None else f"{saved.data._target_.rpartition('.')[2]}, by content"
            raise ValueError(
                f"{classifier} was trained on other data or classes ({data}) than the model to be guided; train both "
                "with the same data=…, the model with labels=own, or import both with the same data=…"
            )
        if model.process.schedule != schedule:
            raise ValueError(
                f"{classifier} was trained under {model.process.schedule}, but the model to be guided under {schedule}; "
                "train a classifier with the model's schedule"
            )
        weights = default_weights(directory.weight_names, training["steps"])
        model.load_weights({RAW: directory.weight_files()[weights]})  # this copy guides and is never trained
        model.requires_grad_(False).eval()

        def logits(x_t: Tensor, timesteps: Tensor) -> Tensor:
            return model.to(x_t.device)(x_t, timesteps)

        name = f"{directory.path.name}, {weights}"
        super().__init__(logits, model.num_classes, scale, name, interval, log_snr_interval)
