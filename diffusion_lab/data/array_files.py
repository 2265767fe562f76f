"""Arrays in files: .npy, .npz, .zarr and HDF5, whose rows are read on demand.

Files may be untrusted: nothing is unpickled or unpacked to the disk, the size in the header of an array is checked
before memory is allocated, and an HDF5 file cannot show the content of other files.
"""

from __future__ import annotations

import importlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_lab.data.checks import DataError, require
from diffusion_lab.store.records import printable
from diffusion_lab.versions import is_installed

KNOWN = {"arr_0": "arr_1", "images": "labels", "x": "y"}  # names of images in an npz, and of their labels
NAMES = "channel_names"  # of an array in an npz, of an attribute in other files
_FILE = re.compile(r"(?P<file>.+?\.(npz|zarr|h5|hdf5|nc)):(?P<name>.+)")
_NUMBERS = "biuf"  # numpy's kinds of numbers: bool, int, unsigned, float
_SUFFIXES = (".npy", ".npz", ".zarr", ".h5", ".hdf5", ".nc")


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    where: its name in messages. shape, dtype: of the array. rows: a slice, or ascending indices -> these rows. names: of its
    channels, if the file has them. labels: the array of labels in the same file, if any.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[Any], np.ndarray]
    names: Sequence[str] | None = None
    labels: Stored | None = None

    @property
    def size(self) -> int:
        """The size in bytes."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def whole(self, most: int) -> np.ndarray:
        """All rows. DataError for more than `most` bytes."""
        require(self.size <= most, f"{self.where} has {self.size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB.")
        return self.rows(slice(None))


def open_array(option: str, text: str, root: Path, most: int) -> Stored:
    """The array that `data.<option>=text` names. DataError if it does not exist, holds objects, or is truncated.

    text: FILE.npy, or a FILE of several arrays, or FILE:NAME, below `root`. most: the largest size in bytes; of a row, for files
    that are read by rows.
    """
    named = _FILE.fullmatch(text)
    path, name = Path(root, named["file"] if named else text), named["name"] if named else ""
    where = f"data.{option}={path}"
    require(
        path.suffix in _SUFFIXES,
        f"{where}: give FILE.npy, FILE.npz or FILE.npz:NAME, or the same of .zarr, .h5 or .nc.",
    )
    require(path.exists(), f"{where}: there is no such file.")
    if path.suffix == ".npy":
        return _npy(path, where)
    if path.suffix == ".npz":
        return _npz(path, name, where, most)
    kind = "zarr" if path.suffix == ".zarr" else "hdf5"
    with one_sentence(path, f"file of {kind} arrays"):
        return _chunked(path, name, where, most, kind)


def _npy(path: Path, where: str) -> Stored:
    """The array of a .npy file, memory-mapped for each read, so that memory does not grow with the amount read."""

    def mapped() -> np.ndarray:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    with one_sentence(path, ".npy file"):
        shape, dtype = mapped().shape, mapped().dtype
    require(dtype.kind in _NUMBERS, f"{where} holds {dtype}, not numbers.")
    return Stored(where, shape, dtype, lambda which: np.array(mapped()[which]))


def read_npy(path: Path, most: int) -> np.ndarray:
    """The array of a .npy file. DataError if it holds objects, is truncated, or has more than `most` bytes."""
    return _npy(path, str(path)).whole(most)


def _npz(path: Path, name: str, where: str, most: int) -> Stored:
    with one_sentence(path, "npz of arrays"), zipfile.ZipFile(path) as archive:
        there = [member for member in members(archive) if member != NAMES]
        wanted = _chosen(name or next((known for known in KNOWN if known in there), ""), there, where)
        beside = "" if name else KNOWN.get(wanted, "")
        array = read_array(path, archive, wanted, most)
        names = _channel_names(read_array(path, archive, NAMES, 2**20, "U")) if NAMES in members(archive) else None
        labels = _held(read_array(path, archive, beside, most), where) if beside in there else None
    return _held(array, where, names, labels)


def _held(array: np.ndarray, where: str, names: Sequence[str] | None = None, labels: Stored | None = None) -> Stored:
    return Stored(where, array.shape, array.dtype, array.__getitem__, names, labels)


def _chunked(path: Path, name: str, where: str, most: int, kind: str) -> Stored:
    library = optional_package("zarr" if kind == "zarr" else "h5py", kind, where)
    there: list[str] = []
    if kind == "zarr":
        found = library.open(str(path), mode="r")
        array = found
        if isinstance(found, library.Group):
            there = [key for key, node in found.members(max_depth=None) if isinstance(node, library.Array)]
            array = found[_chosen(name, sorted(there), where)]
    else:
        array = _dataset(library, path, name, where)
    dtype, shape = np.dtype(array.dtype), tuple(array.shape)
    require(dtype.kind in _NUMBERS, f"{where} holds {dtype}, not numbers.")
    pieces = [array.chunks or (), shape[1:]]
    size = max(int(np.prod(piece, dtype=object)) for piece in pieces) * dtype.itemsize
    said = f"one row or chunk of {where} has {size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB."
    require(size <= most, said)

    def rows(which: Any) -> np.ndarray:
        return np.asarray(array.oindex[which] if kind == "zarr" and not isinstance(which, slice) else array[which])

    names = array.attrs.get(NAMES)
    return Stored(where, shape, dtype, rows, None if names is None else _channel_names(names))


def _dataset(library: Any, path: Path, name: str, where: str) -> Any:
    """A dataset whose values lie in this HDF5 file. DataError for the kinds that may read any file of this machine."""
    there: list[str] = []
    links: list[str] = []
    found = library.File(path, "r")
    found.visititems(lambda key, node: there.append(key) if isinstance(node, library.Dataset) else None)
    found.visititems_links(lambda key, link: None if isinstance(link, library.HardLink) else links.append(key))
    is_link = any(f"{name}/".startswith(f"{link}/") for link in links)
    name = name if is_link else _chosen(name, there or links, where)
    array = None if is_link or name in links else found[name]
    require(
        array is not None and not array.external and not array.is_virtual,
        f"{where}: {printable(name)} is a link, or external or virtual storage: copy its values into the file itself.",
    )
    return array


def _channel_names(found: Any) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]


def optional_package(module: str, extra: str, where: str) -> Any:
    """An optional package. DataError, naming the extra that installs it, if it is missing."""
    require(is_installed(module), f"{where} needs the package {module}: pip install 'diffusion-lab[{extra}]'.")
    return importlib.import_module(module)


def _chosen(name: str, there: Sequence[str], where: str) -> str:
    name = name or (there[0] if len(there) == 1 else "")
    shown = ", ".join(map(printable, there[:8]))
    require(there, f"{where} holds no arrays: name a file that has one.")
    lacks = f"has no array {printable(name)}; it holds" if name else "holds"
    require(name in there, f"{where} {lacks} {shown}: choose one with {Path(where).name}:NAME.")
    return name


def read_array(path: Path, archive: zipfile.ZipFile, name: str, most: int, kinds: str = _NUMBERS) -> np.ndarray:
    """The array `name` of an npz. DataError if it does not exist, holds objects, or has more than `most` bytes.

    path: of the file, for messages. archive: the opened file. kinds: the accepted kinds of numpy's dtypes; default: numbers.
    """
    if name not in members(archive):
        there = ", ".join(map(printable, members(archive)[:8])) or "nothing"
        raise DataError(f"{path} has no {name}: it holds {there}.")
    shown = f"{printable(name)} of {path}"
    shape, dtype = header(archive, name)
    require(dtype.kind in kinds, f"{shown} holds {dtype}, not numbers; objects are not unpickled.")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    require(size <= most, f"{shown} has {size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB.")
    with archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type in the header of an array of an npz, without reading its values."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(f"{name}.npy") as stream:
        shape, _, dtype = readers[np.lib.format.read_magic(stream)](stream)
    return shape, dtype


def members(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays of an npz."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


@contextmanager
def one_sentence(path: Path | str, what: str) -> Iterator[None]:
    """Turn any error of reading a damaged file in the block into a DataError. what: the kind of file, for the message.

    The errors are BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError and others.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{path} is not a readable {what} ({reason}).") from error
