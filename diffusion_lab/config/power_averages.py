"""evaluation.weights=ema_rel_0.07: an average that training did not have, built from those that it kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.records import RunError, inside
from diffusion_lab.training.profiles import TRACKED, Profile, combination, wanted_length

if TYPE_CHECKING:
    from torch import Tensor

_MOST_FILES = 256
_LARGEST_ERROR = 0.15  # of the profile, relative


def check_buildable(weights: str, moments: int, whose: str) -> None:
    """MistakeError where weights are to be built and training keeps nothing to build them from, or no such length exists."""
    sigma = wanted_length(weights)
    if sigma is None:
        return
    try:
        Profile(1, sigma)
    except ValueError as error:
        raise MistakeError(f"{weights}: {error}") from None
    if moments < 1:
        raise MistakeError(
            f"{weights}: {whose} no averages to build it from; train with snapshots.averages=8 "
            "(set retrain=true to train again)"
        )


def profile_error(directory: ModelDirectory, weights: str) -> float:
    """The relative L² error of the profile that is built against the one that is wanted."""
    return _plan(directory, weights)[2]


def build_average(directory: ModelDirectory, weights: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The average named `weights`, float32 on the CPU. own: the tensors of the model that have averages.

    MistakeError where it is too far from what can be built; RunError for files of other weights.
    """
    from diffusion_lab.models.trainable import check_weights

    files, coefficients, error = _plan(directory, weights)
    if error > _LARGEST_ERROR:
        raise MistakeError(
            f"{weights}: the averages in {directory.path} can build it only with an error of {error:.0%} of its "
            "profile; choose a length from about 0.04 to 0.2, or train with more averages (snapshots.averages)"
        )
    built: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        with _opened(file) as content:
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


def _plan(directory: ModelDirectory, weights: str) -> tuple[list[Path], np.ndarray, float]:
    """Files, a coefficient for each tracked average in each of them, and the error."""
    files = directory.kept_averages
    check_buildable(weights, len(files), f"{directory.path} has")
    if len(files) > _MOST_FILES:
        raise RunError(f"{directory.path} holds more than {_MOST_FILES} files of averages")
    files = [inside(directory.path, file) for file in files]
    steps = [_step(file) for file in files]
    kept = [Profile(step, sigma) for step in steps for sigma in TRACKED]
    return files, *combination(kept, Profile(max(steps), wanted_length(weights)))


def _step(file: Path) -> int:
    with _opened(file) as content:
        step = (content.metadata() or {}).get("step", "")
    if not (step.isdecimal() and 0 < int(step) < 2**63):
        raise RunError(f"{file} does not say at which step of training it was written")
    return int(step)


def _opened(file: Path):
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} is not a file of weights: {' '.join(str(error).split())}") from None
