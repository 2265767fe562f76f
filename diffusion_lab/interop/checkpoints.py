"""The tensors of a checkpoint that somebody else made. Nothing is unpickled but tensors and plain containers."""

from __future__ import annotations

import mmap
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

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
