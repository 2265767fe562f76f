"""Images that somebody else made: a folder of them, a zip of them, or an npz as published evaluators read it.

An npz holds `arr_0`, uint8 (N, H, W, C), and may hold `arr_1`, the class of each (openai/guided-diffusion, `image_sample.py`).
An array may also be uint16, with any number of channels or no channel axis, with channels first, and, if it is the only array
of images, with another name.
Nothing is unpickled, nothing is written to the disk, and no more is decoded than the limits below allow.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from diffusion_lab.data.arrays import MOST_CLASSES, check_member, header, members, one_sentence, read_array
from diffusion_lab.data.image_files import SUFFIXES, read_as_it_is
from diffusion_lab.data.module import DataError
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.store.records import printable

MOST_BYTES = 2**34  # of all images, decoded: 16 GiB, 80,000 of 3 × 256 × 256
MOST_NUMBERS = 2**24  # of one image
_MOST_OF_A_FILE = 2**27  # bytes of one image file
_MOST_MEMBERS = 2**20  # of a zip
_LOSSY = frozenset({".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True, eq=False)
class Images:
    """pixels: uint8 or uint16 (N, C, H, W), C = 1 where all are grey.

    labels: int64 (N,), the class of each; None where nothing says so. name: of the file or folder. lossy: whether a format that
    changes pixels holds some of them. read_as: in words, how an array was read.
    """

    name: str
    pixels: Tensor
    labels: Tensor | None = None
    lossy: bool = False
    read_as: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    @property
    def num_levels(self) -> int:
        return 256 if self.pixels.dtype == torch.uint8 else 65536

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape and pixels, whatever files they came in."""
        content = hashlib.sha256(f"{tuple(self.pixels.shape)}".encode())
        for some in self.pixels.split(256):
            content.update(some.contiguous().numpy())
        return content.hexdigest()


def read_images(path: Path, data_shape: Callable[[], Sequence[int]] | None = None) -> Images:
    """The images of a folder (however deep) or of a zip, in the order of their names, or of an npz.

    data_shape: (C, H, W) of what they are compared with, from which the channels of an array are known. DataError, in one sentence,
    for whatever else `path` is.
    """
    if path.is_dir():
        return _of_folder(path)
    readers: dict[str, Callable[[Path], Images]] = {".npz": lambda path: _of_npz(path, data_shape), ".zip": _of_zip}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is not a folder, an .npz or a .zip: give the images in one of these forms.")
    if not path.is_file():  # nor a pipe, which may have no writer
        raise DataError(f"There is no {path}.")
    return readers[path.suffix.lower()](path)


def _of_folder(path: Path) -> Images:
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if _is_image(file) and file.is_file()}
    return _decoded(path, {name: lambda file=file: _content(file) for name, file in files.items()})


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(_MOST_OF_A_FILE + 1)
    if len(content) > _MOST_OF_A_FILE:
        raise DataError(f"{file} is larger than {_MOST_OF_A_FILE / 2**20:g} MiB, too large for an image of a sample.")
    return content


def _of_zip(path: Path) -> Images:
    with one_sentence(path, "zip of images"), zipfile.ZipFile(path) as archive:
        _check_names(path, archive)
        members = {info.filename: info for info in archive.infolist() if _is_image(PurePosixPath(info.filename))}
        if len(members) > _MOST_MEMBERS:
            raise DataError(f"{path} holds more than {_MOST_MEMBERS:,} files.")
        for info in members.values():
            check_member(path, info, _MOST_OF_A_FILE)
        return _decoded(path, {name: lambda info=info: archive.read(info) for name, info in members.items()})


def _check_names(path: Path, archive: zipfile.ZipFile) -> None:
    """Nothing is unpacked, but a name that leads out of the archive is suspicious, and other programs follow it.

    Of two files with one name, one would be lost.
    """
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two files of one name: give each its own name.")
    for name in names:
        there = PureWindowsPath(name)  # for both kinds of slashes, and drives
        if there.anchor or ".." in there.parts:
            raise DataError(f"{path} has a file named {printable(name)}, which points outside the zip: remove it.")


def _is_image(path: Path | PurePosixPath) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _decoded(path: Path, contents: dict[str, Callable[[], bytes]]) -> Images:
    """Every file decoded, in the order of the names; all have the size and the channels of the first, or are grey among colours."""
    names = sorted(contents)
    if len(names) < 2:
        raise DataError(
            f"{path} holds {'one image' if names else 'no images'}, but a score needs at least two: their names must end in one of "
            f"{', '.join(sorted(SUFFIXES))}."
        )

    def decode(name: str) -> np.ndarray:
        return read_as_it_is(f"{printable(name)} in {path}", contents[name](), MOST_NUMBERS)

    first = decode(names[0])
    height, width, _ = first.shape
    _check_size(path, len(names), 3 * height * width, first.itemsize)
    pixels = np.empty((len(names), 3, height, width), first.dtype)
    with ThreadPoolExecutor(max_workers=8) as readers:
        decoded = readers.map(decode, names) if path.is_dir() else map(decode, names)  # a zip is one stream
        for i, image in enumerate(track(decoded, f"reading {path.name}", len(names), transient=True)):
            if image.shape[:2] != (height, width):
                raise DataError(
                    f"{printable(names[i])} in {path} has {image.shape[1]}×{image.shape[0]} pixels, {printable(names[0])} has "
                    f"{width}×{height}: the samples of a score must have one size."
                )
            if image.dtype != first.dtype:
                raise DataError(
                    f"{printable(names[i])} in {path} has {8 * image.itemsize} bits a channel, {printable(names[0])} has "
                    f"{8 * first.itemsize}: the samples of a score must have one depth."
                )
            pixels[i] = image.transpose(2, 0, 1)
    lossy = any(PurePosixPath(name).suffix.lower() in _LOSSY for name in names)
    return Images(path.name, _grey(torch.from_numpy(pixels)), lossy=lossy)


def _grey(pixels: Tensor) -> Tensor:
    """Images (N, C, H, W), in one channel where all channels are equal: grey ones are often kept as RGB."""
    equal = all(torch.equal(pixels[:, i], pixels[:, 0]) for i in range(1, pixels.shape[1]))
    return pixels[:, :1] if equal else pixels


def _check_size(path: Path, count: int, numbers: int, itemsize: int) -> None:
    """numbers: of one image, each of itemsize bytes."""
    if numbers > MOST_NUMBERS or count * numbers * itemsize > MOST_BYTES:
        raise DataError(
            f"{path} unpacks to {count:,} images of {numbers:,} numbers, more than {MOST_BYTES / 2**30:g} GiB: score fewer of them."
        )


def _of_npz(path: Path, data_shape: Callable[[], Sequence[int]] | None) -> Images:
    with one_sentence(path, "npz of images"), zipfile.ZipFile(path) as archive:
        there = members(archive)
        array = "arr_0" if "arr_0" in there else _only_images(path, archive)
        pixels = read_array(path, archive, array, MOST_BYTES)
        known = ("arr_1",) if array == "arr_0" else ("arr_1", "labels", "y")
        beside = next((name for name in known if name in there), None)
        labels = None if beside is None else read_array(path, archive, beside, 2**27)
    name = printable(array)
    if pixels.ndim not in (3, 4):
        raise DataError(
            f"{name} of {path} has the shape {pixels.shape}: it must be (N, H, W, C), (N, C, H, W) or (N, H, W)."
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{name} of {path} is {pixels.dtype}: save it as uint8, as published evaluators read it; for images in 0 … 255: "
            "x.round().clip(0, 255).astype(np.uint8)."
        )
    if len(pixels) < 2 or 0 in pixels.shape:
        raise DataError(f"{name} of {path} has the shape {pixels.shape}: a score needs at least two images.")
    _check_size(path, len(pixels), pixels[0].size, pixels.itemsize)
    axes = _axes(path, name, pixels.shape, data_shape)
    read_as = f"{name}, {pixels.dtype} {pixels.shape}, read as ({', '.join(axes)})"
    images = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[..., None])
    images = images if axes == "NCHW" else images.permute(0, 3, 1, 2)
    return Images(path.name, _grey(images), _labels(path, beside, labels, len(pixels)), read_as=read_as)


def _only_images(path: Path, archive: zipfile.ZipFile) -> str:
    """The name of the one array that may hold images; arr_0 where none does."""
    headers = {name: header(archive, name) for name in members(archive)}
    shaped = [name for name, (shape, _) in headers.items() if len(shape) in (3, 4)]
    found = [name for name in shaped if headers[name][1] in (np.uint8, np.uint16)] or shaped
    if len(found) > 1:
        raise DataError(
            f"{path} has several arrays of images ({', '.join(map(printable, found[:8]))}): save the samples as arr_0."
        )
    return found[0] if found else "arr_0"


def _axes(path: Path, name: str, shape: tuple[int, ...], data_shape: Callable[[], Sequence[int]] | None) -> str:
    """NHW, NHWC or NCHW: the order that has the sides of the data; else NCHW if only axis 1 is small enough for channels."""
    if len(shape) == 3:
        return "NHW"
    sides = None if data_shape is None else tuple(data_shape())[1:]
    if sides == shape[1:3] == shape[2:4] and name != "arr_0":
        raise DataError(
            f"{name} of {path} has the shape {shape}, in which any axis may be the channels: save it as (N, H, W, C) named arr_0."
        )
    if sides in (shape[1:3], shape[2:4]):
        return "NHWC" if sides == shape[1:3] else "NCHW"
    return "NCHW" if shape[1] <= 4 < shape[3] else "NHWC"


def _labels(path: Path, name: str | None, labels: np.ndarray | None, count: int) -> Tensor | None:
    """None as well where all are 0, which is what is written for a model without classes."""
    if labels is None or not labels.any():
        return None
    if (
        labels.shape != (count,)
        or labels.dtype.kind not in "iu"
        or not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES
    ):
        raise DataError(
            f"{name} of {path} is {labels.dtype} of shape {labels.shape}: it must be the class of each image, whole numbers from "
            f"0, of shape ({count},)."
        )
    return torch.from_numpy(labels.astype(np.int64))


def levels(images: Images, shape: Sequence[int], num_levels: int, of: str) -> Tensor:
    """(N, *shape): the levels that data of this shape have, nearest to the pixels. Grey images are shown in all channels.

    uint8, or uint16 where there are more than 256. DataError if their size is another, or their channels are others. of: what
    has that shape.
    """
    pixels, (channels, height, width) = images.pixels, images.shape
    if (height, width) != tuple(shape[1:]):
        size = f"({shape[2]}, {shape[1]})"
        raise DataError(
            f"{images.name} has images of {width}×{height} pixels, {of} of {shape[2]}×{shape[1]}, and images are not resized here: "
            f"resize them, for example by Pillow's image.resize({size}, Image.Resampling.BICUBIC), and report that with the score."
        )
    if channels == 3 and shape[0] == 1:
        raise DataError(
            f'{images.name} has coloured images, {of} grey ones: convert them (Pillow: image.convert("L")).'
        )
    if channels not in (1, shape[0]):
        raise DataError(f"{images.name} has images of {channels} channels, {of} of {shape[0]}: convert them.")
    if channels == 1:
        pixels = pixels.expand(-1, shape[0], -1, -1)
    highest = num_levels - 1 if num_levels < images.num_levels else 1
    if int(pixels.numpy().max()) <= highest:
        top = images.num_levels - 1
        raise DataError(
            f"{images.name} has no pixel above {highest}: its pixels must go from 0 to {top}, not from 0 to {highest}. "
            f"Multiply them by {top}/{highest}."
        )
    if num_levels == images.num_levels:
        return pixels
    return torch.cat([to_levels(from_levels(some, images.num_levels), num_levels) for some in pixels.split(256)])


def differences(images: Images, fitted: Tensor, num_levels: int, of: str) -> list[str]:
    """What of these files makes a distance larger, in words. fitted: what `levels` returned."""
    found = ["some are JPEG or WebP, whose compression artefacts count as differences"] if images.lossy else []
    if images.num_levels < num_levels:
        found.append(f"they have {images.num_levels} levels and {of} has {num_levels}: this counts as a difference")
    elif images.num_levels > num_levels and _is_rounded(images, fitted, num_levels):
        found.append(f"they have {images.num_levels} levels and were rounded to the {num_levels} of {of}")
    return found


def _is_rounded(images: Images, fitted: Tensor, num_levels: int) -> bool:
    """Whether some pixels lie between the levels, which are spread evenly over the pixels."""
    parts = zip(images.pixels.split(256), fitted.split(256), strict=True)
    return any(
        not np.equal(to_levels(from_levels(some, num_levels), images.num_levels).numpy(), pixels.numpy()).all()
        for pixels, some in parts
    )
