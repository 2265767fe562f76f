"""Arrays of numbers in .npy and .npz files, which may be anybody's.

Nothing is unpickled, nothing is unpacked to the disk, and the size in the header of an array is checked before memory is allocated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from diffusion_lab.data.error import DataError
from diffusion_lab.store.records import printable

MOST_CLASSES = 2**20  # a label beyond is none: a model has a row of weights for each class


def read_npy(path: Path, most: int) -> np.ndarray:
    """The array of a .npy file. DataError if it holds objects, is cut short, or has more than `most` bytes."""
    with one_sentence(path, ".npy file"), path.open("rb") as stream:
        size = path.stat().st_size
        _check_header(stream, str(path), size, most)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_array(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    """One array of numbers of an npz. DataError if it is not there, holds objects, or has more than `most` bytes."""
    if name not in members(archive):
        there = ", ".join(map(printable, members(archive)[:8])) or "nothing"
        raise DataError(f"{path} has no {name}: it holds {there}.")
    info = archive.getinfo(f"{name}.npy")
    check_member(path, info, most)
    with archive.open(info) as stream:
        _check_header(stream, f"{printable(name)} of {path}", info.file_size, most)
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type in the header of an array of an npz. Its values are not read."""
    with archive.open(f"{name}.npy") as stream:
        shape, _, dtype = _header(stream)
    return shape, dtype


def members(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays of an npz."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def check_member(path: Path, info: zipfile.ZipInfo, most: int) -> None:
    """DataError for a file of a zip that is encrypted or unfolds to more than `most` bytes, which bounds what is read of it."""
    if info.flag_bits & 1:
        raise DataError(f"{path} is encrypted: save it without a password.")
    if info.file_size > most:
        name = printable(info.filename)
        raise DataError(
            f"{name} in {path} unpacks to {info.file_size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB, and may be a "
            "decompression bomb."
        )


def _check_header(stream: IO[bytes], name: str, there: int, most: int) -> None:
    """there: bytes that the file has, header included."""
    shape, _, dtype = _header(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DataError(f"{name} holds {dtype}, not numbers; objects are not unpickled.")
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted > there:
        raise DataError(f"{name} claims to have {wanted:,} bytes, but has {there:,} at most.")
    if wanted > most:
        raise DataError(f"{name} has {wanted / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB.")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"its npy format has version {version}")
    return readers[version](stream)


@contextmanager
def one_sentence(path: Path, what: str) -> Iterator[None]:
    """Damaged files raise BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError and others."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{path} is not a readable {what} ({reason}).") from error
