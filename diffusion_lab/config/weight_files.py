"""Weight files of a model: loading by name, the moment of each, and averages that are built after training from kept ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.records import RunError, inside
from diffusion_lab.store.weight_names import is_snapshot, snapshot_name
from diffusion_lab.training.profiles import TRACKED, Profile, combination, wanted_length

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.models.trainable import GenerativeModel

_LARGEST = 2**63
_LARGEST_ERROR = 0.15  # of the averaging profile, relative


def last_weights(directory: ModelDirectory) -> str:
    """The name of the default weights, which depend on the length of training."""
    from diffusion_lab.training.ema import default_weights  # imports torch

    training = directory.read_training()
    return default_weights(training.get("weights") or directory.weight_names, training["steps"])


def weight_file(directory: ModelDirectory, name: str | None, option: str = "weights") -> Path:
    """The file of the weights called `name`; None or "auto" for the default weights.

    RunError, naming the option, if they are not saved.
    """
    name = last_weights(directory) if name in (None, "auto") else str(name)
    file = directory.weight_files({name}).get(name)
    if file is None:
        names = ", ".join(directory.weight_names)
        raise RunError(f"{option}={name}: the weights saved in {directory.path} are {names}")
    return file


def load_weights(module: GenerativeModel, directory: ModelDirectory, *weights: str) -> None:
    """Load raw weights, averages, and the earlier snapshots that `weights` or the guidance name.

    An average that training did not keep is built. MistakeError if the folder lacks something.
    """
    names = {name for name in (*weights, *map(snapshot_name, module.guiding_snapshots)) if is_snapshot(name)}
    check_moments(names, directory.weight_names, f"{directory.path} has")
    module.load_weights(directory.weight_files(names))
    for name in weights:
        if wanted_length(name) is not None:
            module.averages[name] = build_average(directory, name, module.averaged_parameters())


def check_moments(names: Iterable[str], weights: Iterable[str], whose: str) -> None:
    """MistakeError if one of the earlier moments in `names` is not among `weights`. whose: "… has"."""
    kept = list(filter(is_snapshot, weights))
    for name in sorted({*names} - {*kept}):
        raise MistakeError(
            f"{whose} no weights {name}; the weights of earlier moments are {', '.join(kept) or 'none'}: use one of these, or "
            "train with that moment in snapshots.at (set retrain=true to train again)"
        )


def check_buildable(weights: str, moments: int, whose: str) -> None:
    """MistakeError for weights that must be built if training keeps no averages, or if their length is invalid."""
    sigma = wanted_length(weights)
    if sigma is None:
        return
    try:
        Profile(1, sigma)
    except ValueError as error:
        raise MistakeError(f"{weights}: {error}") from None
    if moments < 1:
        raise MistakeError(f"{weights}: {whose} no averages to build it from; train with snapshots.averages=8")


def build_average(directory: ModelDirectory, weights: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The average named `weights`, float32 on the CPU. own: the tensors of the model that have averages.

    MistakeError if the built profile differs too much; RunError for files of other weights.
    """
    from diffusion_lab.models.weights import check_weights

    files, coefficients, error = plan_of_average(directory, weights)
    if error > _LARGEST_ERROR:
        raise MistakeError(
            f"{weights}: the averages in {directory.path} can build it only with an error of {error:.0%} of its "
            "profile; choose a length from about 0.04 to 0.2, or train with more averages (snapshots.averages)"
        )
    built: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        with opened(file, "pt") as content:
            for place, sigma in enumerate(map(str, TRACKED)):
                factor = float(coefficients[len(TRACKED) * number + place])
                names = [key for key in content.keys() if key.startswith(f"{sigma}/")]  # noqa: SIM118
                parts = {key.partition("/")[2]: content.get_tensor(key) for key in names}
                try:
                    check_weights(parts, own)
                except ValueError as error:
                    raise RunError(f"{file} does not hold the weights of this model: {sigma}/{error}") from None
                for name, part in parts.items():
                    scaled = part.float() * factor
                    built[name] = built[name] + scaled if name in built else scaled
    return built


def plan_of_average(directory: ModelDirectory, weights: str) -> tuple[list[Path], np.ndarray, float]:
    """(files, the coefficients of the tracked averages in each, the relative L² error of the profile that is built)."""
    files = directory.kept_averages
    check_buildable(weights, len(files), f"{directory.path} has")
    steps = [int(read_training_progress(directory, file.stem, ["step"])["step"]) for file in files]
    kept = [Profile(step, sigma) for step in steps for sigma in TRACKED]
    wanted = Profile(max(steps), wanted_length(weights) or 0.0)
    return [inside(directory.path, file) for file in files], *combination(kept, wanted)


def read_training_progress(
    directory: ModelDirectory, weights: str, facts: Sequence[str] = ("step", "seconds", "images")
) -> dict[str, float]:
    """The cost of training up to these earlier weights. Files of kept averages record only the step.

    RunError if the file is damaged or lacks one of these facts.
    """
    file = inside(directory.path, directory.weights(weights))
    with opened(file) as content:
        metadata = content.metadata() or {}
    try:
        found = {name: float(metadata.get(name, "nan")) for name in facts}
    except ValueError:
        found = dict.fromkeys(facts, -1.0)
    if not all(0 < number < _LARGEST for number in found.values()):
        raise RunError(f"{file} does not say when in training it was written")
    return found


def opened(file: Path, framework: str = "np") -> safe_open:
    """A weights file, opened; its tensors are read later. RunError if its size is not that of its tensors."""
    try:
        return safe_open(file, framework)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} is not a file of weights: {' '.join(str(error).split())}") from None
