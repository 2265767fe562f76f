"""Other models, read from their folders: guidance=classifier, guidance=autoguidance, guidance.worse, and a teacher of a flow map.

A guiding model must share the schedule and the data; otherwise it would be given images unlike its training images.
schedule, identity: of the guided model, and of its data.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hydra.utils import get_class
from torch import Tensor, nn

from diffusion_lab.config.loading import (
    build_trained,
    load_config,
    settled,
    use_last_weights,
)
from diffusion_lab.config.weight_files import last_weights, load_weights
from diffusion_lab.diffusion import FlowMap, ReverseProcess, Schedule, Teacher
from diffusion_lab.diffusion.given_schedules import AlphaBar, as_schedule
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.noisy_classifier import NoisyClassifier
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.sampling import Autoguidance, ClassifierGuidance, Worse
from diffusion_lab.sampling.guidance import Interval
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.weight_names import read_moments, snapshot_name

Model = TypeVar("Model", bound=TrainableModel)
USUAL_MOMENT = 0.2  # one of snapshots.at; conf/guidance/autoguidance.yaml has measured results


def classifier_guidance(
    classifier: str,
    scale: float | int,
    schedule: Schedule | AlphaBar,
    identity: str,
    interval: Interval = None,
    log_snr_interval: Interval = None,
) -> ClassifierGuidance:
    """Guidance by the classifier in the folder `classifier`. ValueError if it does not fit the guided model.

    scale: of the gradient. schedule, identity: the schedule of the guided model, and the identity of its data. interval,
    log_snr_interval: the times t, or the log SNRs, at which it guides; None: all.
    """
    directory = ModelDirectory(Path(classifier))
    kind = "a noisy classifier; train one with `diffusion-lab train model=noisy_classifier`"
    fix = (
        "train both with the same data=…, the model with condition=none or classes, or import both with the same data=…"
    )
    option = f"guidance.classifier={classifier}"
    model = _other_model(directory, NoisyClassifier, kind, identity, option, f"the model to be guided; {fix}")
    _check_schedule(model.schedule, schedule, option)
    weights = use_last_weights(model, directory)
    assert model.num_classes is not None

    def logits(x_t: Tensor, timesteps: Tensor) -> Tensor:
        return model.to(x_t.device)(x_t, timesteps)

    name = f"{directory.path.name}, {weights.stem}"
    return ClassifierGuidance(logits, model.num_classes, scale, name, interval, log_snr_interval)


def autoguidance(
    scale: float | int,
    moment: float | int | str | None,
    model: Path | None,
    schedule: Schedule | AlphaBar,
    identity: str,
    interval: Interval = None,
    log_snr_interval: Interval = None,
) -> Autoguidance:
    """Guidance away from the weak model that `worse_model` loads; by default an earlier moment of the same training.

    scale: s of `Autoguidance`; 1: no guidance. moment, model: as in `worse_model`. schedule, identity: the schedule of the guided
    model, and the identity of its data. interval, log_snr_interval: the times t, or the log SNRs, at which it guides; None: all.
    """
    when = USUAL_MOMENT if moment is None and model is None else moment
    worse = worse_model(when, model, schedule, identity)
    assert worse is not None
    return Autoguidance(worse, scale, interval, log_snr_interval)


def worse_model(
    moment: float | int | str | None, model: Path | None, schedule: Schedule | AlphaBar, identity: str
) -> Worse | None:
    """The model in the folder `model` (None: the guided model itself) at a moment of its training (None: the end).

    None if this is the guided model itself. ValueError if it does not fit the guided model.
    """
    if isinstance(moment, str):
        read_moments("guidance.moment", [moment])
    if model is None:
        return None if moment is None else Worse(moment)
    directory = ModelDirectory(Path(model))
    fix, option = "the model to be guided; train a worse model on the model's data", f"guidance.model={model}"
    worse = _other_model(directory, DiffusionModel, "a diffusion model", identity, option, fix)
    _check_schedule(worse.process.schedule, schedule, option)
    weights = last_weights(directory) if moment is None else snapshot_name(moment)
    return Worse(reverse=_frozen(worse, directory, weights), name=f"{directory.path.name}, {weights}")


def flow_map(teacher: Path | None, identity: str, **options: Any) -> FlowMap:
    """The objective `FlowMap`, with these options, taught by the diffusion model in the folder `teacher`; None: by the data alone.

    identity: of the data. ValueError if the teacher was trained on other data.
    """
    if teacher is None:
        return FlowMap(**options)
    directory, option = ModelDirectory(Path(teacher)), f"objective.teacher={teacher}"
    model = _other_model(directory, DiffusionModel, "a diffusion model", identity, option, "the model to be trained")
    weights = last_weights(directory)
    reverse, schedule = _frozen(model, directory, weights), model.generator(weights).process.schedule
    return FlowMap(**options, teacher=Teacher(reverse, schedule, unconditional=model.condition_dropout > 0))


def _frozen(model: DiffusionModel, directory: ModelDirectory, weights: str) -> ReverseProcess:
    """The reverse process of a model with these weights, which follows the images that it is given to their device."""
    load_weights(model, directory, weights)
    reverse = model.generator(weights).reverse
    network = reverse.network
    assert isinstance(network, nn.Module)

    def on_device(image: Tensor, *more: Any) -> Tensor:
        return network.to(image.device)(image, *more)

    return replace(reverse, network=on_device)


def _other_model(
    directory: ModelDirectory, kind: type[Model], is_a: str, identity: str, option: str, than: str
) -> Model:
    """The unguided model in a folder, with fresh weights. ValueError for another kind of model or other training data.

    is_a: a description of the kind. identity: of the data. option: the folder as the user gave it. than: the end of the message,
    with the fix.
    """
    saved = load_config(directory)
    found = get_class(saved.model._target_)
    if not issubclass(found, kind):
        raise ValueError(f"{option}: it holds a {found.__name__}, not {is_a}")
    if saved.facts.get("identity") != identity:
        data = "not named" if saved.data is None else f"{saved.data._target_.rpartition('.')[2]}, by content"
        raise ValueError(f"{option}: it was trained on other data or classes ({data}) than {than}")
    saved.guidance = {"_target_": "diffusion_lab.sampling.Unguided"}
    model = build_trained(directory, settled(saved, directory))
    assert isinstance(model, kind)
    return model


def _check_schedule(trained: Schedule, schedule: Schedule | AlphaBar, option: str) -> None:
    if trained != as_schedule(schedule):
        raise ValueError(
            f"{option}: it was trained under {trained}, but the model to be guided under {schedule}; train it with "
            "the model's schedule"
        )
