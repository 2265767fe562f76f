"""The tensors of a checkpoint that somebody else made. Nothing is unpickled but tensors and plain containers."""

from __future__ import annotations

import mmap
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion_lab.diffusion import CosineSchedule, LinearSchedule, Schedule, SigmoidSchedule
from diffusion_lab.store.records import printable

_MOST_TENSORS = 100_000
_KINDS = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8)) | {
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
}


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is not of the network that was named: one sentence that names the file."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a state dict, of a safetensors file or of one of torch.save.

    The tensors of the latter lie on the disk until they are used. CheckpointError, in one sentence, for anything else.
    """
    return tensors_in(read_saved(path), path)


def read_saved(path: Path) -> object:
    """What a file holds: tensors by name, or whatever plain containers of tensors and numbers torch.save wrote.

    CheckpointError, in one sentence, for a file that cannot be read, or holds more than that.
    """
    if not path.is_file():  # nor a pipe, which nobody may ever write into
        raise CheckpointError(f"checkpoint={path}: there is no such file")
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # after the length of the header, which is JSON
    return _of_safetensors(path) if is_safetensors else _of_torch(path)


def tensors_in(found: object, path: Path) -> dict[str, Tensor]:
    """`found`, which was read from `path`, if it is a state dict. CheckpointError where it is not."""
    if not isinstance(found, dict) or not found or len(found) > _MOST_TENSORS:
        raise CheckpointError(f"checkpoint={path} is not a state dict: a mapping of names to tensors is needed")
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise CheckpointError(
                f"checkpoint={path} is not a state dict: {printable(str(name))} is {type(value).__name__}, not a tensor"
            )
        if value.dtype not in _KINDS or value.layout != torch.strided or value.device.type != "cpu":
            raise CheckpointError(
                f"checkpoint={path}: {printable(name)} is a tensor of {value.dtype}, {value.layout} and on {value.device.type}; "
                "only dense tensors of plain numbers are read"
            )
    _check_sizes(path, found)
    return dict(found)


def _check_sizes(path: Path, tensors: dict[str, Tensor]) -> None:
    """A view may say that it has more numbers than are stored."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > path.stat().st_size:
        raise CheckpointError(f"checkpoint={path}: its tensors claim {claimed:,} bytes, more than the file has")


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint={path} is damaged: {error}") from None


def check_bombs(path: Path) -> None:
    """CheckpointError for a file of torch.save whose few bytes can ask for any number of them in memory.

    So do compressed records, and bytearray(n), which `weights_only` calls. torch.save writes neither for a state dict.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise CheckpointError(
                f"{path} has a compressed file, {printable(packed[0])}, which torch.save does not write: it may be "
                "a decompression bomb"
            )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\nbytearray\n") >= 0:  # as a pickle names it
            raise CheckpointError(f"{path} holds more than tensors: an array of bytes, which may be of any length")


def _of_torch(path: Path) -> object:
    try:
        check_bombs(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of sparse tensors and newer pickles, which we refuse
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "Weights only" not in str(error):
            raise CheckpointError(
                f"checkpoint={path} is damaged, or neither a safetensors file nor one of torch.save"
            ) from None
        raise CheckpointError(
            f"checkpoint={path} holds more than tensors, or is damaged; only tensors are read, because unpickling anything else "
            "can run code"
        ) from None
    except (CheckpointError, MemoryError):
        raise
    except Exception:  # what a damaged file raises: RuntimeError, EOFError, BadZipFile, KeyError, ValueError, …
        raise CheckpointError(
            f"checkpoint={path} is damaged, or neither a safetensors file nor one of torch.save"
        ) from None


MOST_STEPS = 8000  # of a chain whose β are listed one by one in a config


@dataclass(frozen=True)
class Imported:
    """options: Hydra overrides that make the model. shape: (C, H, W) of its images. num_classes: None where it has none.
    tensors: as they are in the file. weights: the state dict of our network, of `tensors`; CheckpointError where it is not theirs.
    file: the one that holds them. which: of several weights in it, those that were taken. origin: recorded with the model. notes:
    what the user should know.
    """

    options: tuple[str, ...]
    shape: tuple[int, int, int]
    num_classes: int | None
    tensors: Mapping[str, Tensor]
    weights: Callable[[nn.Module], dict[str, Tensor]]
    file: Path
    origin: Mapping[str, str]
    which: str | None = None
    notes: tuple[str, ...] = field(default=())


def wrapped_weights(tensors: Mapping[str, Tensor], network: nn.Module, inside: str, where: Path) -> dict[str, Tensor]:
    """The state dict of `network`, whose parameters are called `inside` and the names of `tensors`, in float32.

    CheckpointError, naming the first difference, where they are of another network.
    """
    own = {name.removeprefix(inside): tensor for name, tensor in network.state_dict().items()}
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        differences = [f"it has no {missing[0]}"] if missing else []
        differences += [f"it has {printable(unknown[0])}, which that network does not have"] if unknown else []
        raise CheckpointError(f"checkpoint={where} does not fit the described network: {', and '.join(differences)}")
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"checkpoint={where} does not fit the described network: {name} is {tuple(tensors[name].shape)} in the file "
                f"and {tuple(tensor.shape)} in that network"
            )
        if not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            raise CheckpointError(f"checkpoint={where} is damaged: {name} holds values that are not finite")
    return {f"{inside}{name}": tensors[name].float().contiguous() for name in own}


def image_size_of(text: str) -> tuple[int, int]:
    """(H, W), from 32 or [28,32]. CheckpointError for anything else."""
    sides = text.strip("[] ").split(",")
    numbers = [int(side) for side in sides if side.strip().isdecimal()]
    if len(numbers) != len(sides) or len(numbers) > 2 or not all(0 < side <= 2**13 for side in numbers):
        raise CheckpointError(f"image_size={printable(text)}: give a side in pixels, or [height,width]")
    return numbers[0], numbers[-1]


def written(value: Any) -> str:
    """A checked value in Hydra's grammar: None, true, a number, a word, or a list of these."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


LEAST_SIGNAL = 2.0**-24  # ᾱ_T in place of 0, where there is no log SNR: diffusers' DPM-Solver puts it there too
_SAME = 1e-3  # of a log SNR; a β that was rounded to float32 moves it by less


def schedule_options(betas: Tensor, prediction: str, where: Path) -> list[str]:
    """Overrides for a schedule with these β, float64 (T,). CheckpointError, in one sentence, where there is none.

    prediction: our name of what the network predicts. An ᾱ_T of 0 becomes 2⁻²⁴, which a prediction of ε cannot be used at.
    """
    if not 2 <= len(betas) <= MOST_STEPS:
        raise CheckpointError(f"checkpoint={where}: a chain of {len(betas)} steps; 2 to {MOST_STEPS} are supported")
    betas = _without_zero(betas, prediction, where)
    if not bool(((betas > 0) & (betas < 1)).all()):
        t = int(((betas > 0) & (betas < 1)).logical_not().nonzero()[0]) + 1
        raise CheckpointError(f"checkpoint={where}: β_{t} = {float(betas[t - 1]):.4g} must lie above 0 and below 1")
    own = torch.cumprod(1 - betas, dim=0)
    if not bool(own[-1] > 0):
        raise CheckpointError(f"checkpoint={where}: no signal at all is left at the end of this chain")
    num_timesteps = f"schedule.num_timesteps={len(betas)}"
    for name, schedule, options in _named(betas):
        if bool((_log_snr(schedule.alpha_bar()[1:]) - _log_snr(own)).abs().max() < _SAME):
            return [f"schedule={name}", num_timesteps, "schedule.log_snr_max=null", *options]
    return ["schedule=table", num_timesteps, f"schedule.betas={written(betas.tolist())}"]


def _without_zero(betas: Tensor, prediction: str, where: Path) -> Tensor:
    before = torch.cumprod(1 - betas, dim=0)[-2]
    if betas[-1] != 1 or not before > LEAST_SIGNAL:
        return betas
    if prediction == "noise":
        raise CheckpointError(
            f"checkpoint={where}: its chain ends without any signal (zero terminal SNR), where a network that predicts ε says "
            "nothing about the image; only v_prediction and sample can be imported with it"
        )
    return torch.cat([betas[:-1], 1 - LEAST_SIGNAL / before[None]])


def _named(betas: Tensor) -> list[tuple[str, Schedule, list[str]]]:
    """Schedules with a formula that might have these β: name, schedule, options beside the number of steps."""
    steps = len(betas)
    start, end = (float(f"{float(beta) * steps / 1000:.7g}") for beta in (betas[0], betas[-1]))
    found: list[tuple[str, Schedule, list[str]]] = [
        ("cosine", CosineSchedule(steps), []),
        ("sigmoid", SigmoidSchedule(steps), []),
    ]
    if start <= end and end * 1000 / steps < 1:
        options = [f"schedule.beta_start={start!r}", f"schedule.beta_end={end!r}"]
        found.insert(0, ("linear", LinearSchedule(steps, beta_start=start, beta_end=end), options))
    return found


def _log_snr(alpha_bar: Tensor) -> Tensor:
    return alpha_bar.log() - (-alpha_bar).log1p()
