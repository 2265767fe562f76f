"""Common parts of imports: safe reading of tensors, the description of a model, schedules from given β.

Only tensors and plain containers are unpickled.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion_lab.diffusion import CosineSchedule, LinearSchedule, Schedule, SigmoidSchedule
from diffusion_lab.store.records import printable

MOST_STEPS = 8000  # of a chain whose β are listed one by one in a config
_LEAST_SIGNAL = 2.0**-24  # replaces ᾱ_T = 0, which has no log SNR, as in diffusers' DPM-Solver
_AVERAGES = ("model_ema1",)  # of the weights, in files of JiT
_SAME = 1e-3  # of a log SNR; rounding β to float32 changes it by less


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or belongs to another network; the message is one sentence that names the file."""


def require(fits: object, sentence: str) -> None:
    """CheckpointError with this sentence, unless `fits`."""
    if not fits:
        raise CheckpointError(sentence)


@dataclass(frozen=True)
class Imported:
    """The description of an imported model.

    options: Hydra overrides for the model. shape: (C, H, W) of its images. num_classes: None without classes.
    tensors: as in the file. weights: the state dict of our network from `tensors`; CheckpointError if it does not fit.
    file: the file with the tensors. origin: recorded with the model.
    """

    options: tuple[str, ...]
    shape: tuple[int, int, int]
    num_classes: int | None
    tensors: Mapping[str, Tensor]
    weights: Callable[[nn.Module], dict[str, Tensor]]
    file: Path
    origin: Mapping[str, str]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, of a state dict, a safetensors file or a file of torch.save.

    Of a training's file with several state dicts the first of `_AVERAGES` is read. Tensors of torch.save stay on the disk until
    they are used. CheckpointError, in one sentence, for anything else.
    """
    require(path.is_file(), f"checkpoint={path}: there is no such file")  # excludes pipes
    try:
        with path.open("rb") as file:
            if file.read(9)[8:] == b"{":  # the length of the header, then JSON
                found: object = load_file(path)
            else:
                with warnings.catch_warnings(action="ignore"):  # torch warns about pickles before it refuses them
                    found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception:  # damaged files raise RuntimeError, EOFError, BadZipFile, KeyError, ValueError, …
        raise CheckpointError(
            f"checkpoint={path} is damaged, or holds more than tensors in the format of safetensors or torch.save; only tensors "
            "are read, because unpickling anything else can run code"
        ) from None
    if isinstance(found, dict):
        found = next((found[name] for name in _AVERAGES if name in found), found)
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"checkpoint={path} is not a state dict: a mapping of names to tensors is needed")
    for name, value in found.items():
        fits = isinstance(name, str) and isinstance(value, Tensor)
        said = f"{printable(str(name))} is {type(value).__name__}, not a tensor"
        require(fits, f"checkpoint={path} is not a state dict: {said}")
    return dict(found)


def check_fit(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], what: str) -> None:
    """CheckpointError, naming the first difference, unless `tensors` have these names and shapes, up to trailing 1s."""
    another = f"{what} does not fit the described network:"
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    differences = [f"it has no {name}" for name in missing[:1]]
    differences += [f"it has {printable(name)}, which that network does not have" for name in unknown[:1]]
    require(not differences, f"{another} {', and '.join(differences)}")
    for name, wanted in shapes.items():
        tensor, shape, there = tensors[name], tuple(wanted), tuple(tensors[name].shape)
        fits = there[: len(shape)] == shape and not {*there[len(shape) :]} - {1}
        require(fits, f"{another} {name} is {there} in the file and {shape} in that network")
        fits = tensor.is_floating_point() and bool(tensor.isfinite().all())
        require(fits, f"{what} is damaged: {name} holds values that are not finite")


def image_size_of(text: str) -> tuple[int, int]:
    """(H, W), from 32 or [28,32]. CheckpointError for anything else."""
    sides = text.strip("[] ").split(",")
    numbers = [int(side) if side.strip().isdecimal() else 0 for side in sides]
    fits = len(numbers) <= 2 and all(0 < side <= 2**13 for side in numbers)
    require(fits, f"image_size={printable(text)}: give a side in pixels, or [height,width]")
    return numbers[0], numbers[-1]


def written(value: Any) -> str:
    """A checked value in Hydra's grammar: None, true, a number, a word, or a list of these."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def schedule_options(betas: Tensor, prediction: str, where: Path) -> list[str]:
    """Overrides for a schedule with these β, float64 (T,): by a formula if one matches, else as a table.

    prediction: our name for the network's prediction. ᾱ_T = 0 becomes 2⁻²⁴, which is not possible for a prediction of ε.
    CheckpointError, in one sentence, if there is no such schedule.
    """
    said = f"checkpoint={where}: a chain of {len(betas)} steps; 2 to {MOST_STEPS} are supported"
    require(2 <= len(betas) <= MOST_STEPS, said)
    before = torch.cumprod(1 - betas, dim=0)[-2]
    if betas[-1] == 1 and before > _LEAST_SIGNAL:
        require(
            prediction != "noise",
            f"checkpoint={where}: its chain ends without any signal (zero terminal SNR), where a network that predicts ε says "
            "nothing about the image; only v_prediction and sample can be imported with it",
        )
        betas = torch.cat([betas[:-1], 1 - _LEAST_SIGNAL / before[None]])
    for t, beta in enumerate(betas.tolist(), 1):
        require(0 < beta < 1, f"checkpoint={where}: β_{t} = {beta:.4g} must lie above 0 and below 1")
    own = torch.cumprod(1 - betas, dim=0)
    require(own[-1] > 0, f"checkpoint={where}: no signal at all is left at the end of this chain")
    num_timesteps = f"schedule.num_timesteps={len(betas)}"
    for name, schedule, options in _named(betas):
        if bool((_log_snr(schedule.alpha_bar()[1:]) - _log_snr(own)).abs().max() < _SAME):
            return [f"schedule={name}", num_timesteps, "schedule.log_snr_max=null", *options]
    return ["schedule=table", num_timesteps, f"schedule.betas={written(betas.tolist())}"]


def _named(betas: Tensor) -> list[tuple[str, Schedule, list[str]]]:
    """Candidates for a schedule by formula with these β: name, schedule, options besides the number of steps."""
    steps = len(betas)
    start, end = (float(f"{float(beta) * steps / 1000:.7g}") for beta in (betas[0], betas[-1]))
    found: list[tuple[str, Schedule, list[str]]] = []
    if start <= end and end * 1000 / steps < 1:
        options = [f"schedule.beta_start={start!r}", f"schedule.beta_end={end!r}"]
        found.append(("linear", LinearSchedule(steps, beta_start=start, beta_end=end), options))
    return [*found, ("cosine", CosineSchedule(steps), []), ("sigmoid", SigmoidSchedule(steps), [])]


def _log_snr(alpha_bar: Tensor) -> Tensor:
    return alpha_bar.log() - (-alpha_bar).log1p()
