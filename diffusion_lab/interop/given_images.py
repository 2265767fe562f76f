"""Reading images of other programs: a folder, a zip, or an npz in the format of published evaluators.

An npz holds `arr_0`, uint8 (N, H, W, C), and may hold `arr_1`, the class of each (openai/guided-diffusion, `image_sample.py`).
An array may also be uint16, with any number of channels or no channel axis, with channels first, and, if it is the only array
of images, with another name.
Nothing is unpickled or written to the disk, and the limits below bound the decoded size.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from diffusion_lab.data.array_files import header, members, one_sentence, read_array
from diffusion_lab.data.arrays import as_labels
from diffusion_lab.data.checks import require
from diffusion_lab.data.read_image import SUFFIXES, read_as_it_is
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.store.records import printable

MOST_BYTES = 2**34  # of all images, decoded: 16 GiB, 80,000 of 3 × 256 × 256
MOST_NUMBERS = 2**24  # of one image
_LOSSY = frozenset({".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True, eq=False)
class Images:
    """Images of other programs. pixels: uint8 or uint16 (N, C, H, W), C = 1 if all are grey.

    labels: int64 (N,), the class of each; None if unknown. name: of the file or folder. lossy: whether some are in a format that
    changes pixels. read_as: the interpretation of an array, in words.
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
        """SHA-256 of shape and pixels, independent of the files."""
        content = hashlib.sha256(f"{tuple(self.pixels.shape)}".encode())
        for some in self.pixels.split(256):
            content.update(some.contiguous().numpy())
        return content.hexdigest()


def read_images(path: Path, data_shape: Sequence[int] | None = None) -> Images:
    """The images of a folder (at any depth) or of a zip, sorted by name, or of an npz.

    data_shape: (C, H, W) of the data of the comparison, which determines the channel axis of an array. DataError, in one sentence,
    if `path` is anything else.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        return _decoded(path, {name: file.read_bytes for name, file in files.items() if _is_image(name)})
    known = f"{path} is not a folder, an .npz or a .zip: give the images in one of these forms."
    require(suffix in (".npz", ".zip"), known)
    require(path.is_file(), f"There is no {path}.")  # also excludes pipes, which may have no writer
    if suffix == ".npz":
        return _of_npz(path, data_shape)
    with one_sentence(path, "zip of images"), zipfile.ZipFile(path) as archive:
        images = [info for info in archive.infolist() if _is_image(info.filename)]
        contents = {info.filename: partial(archive.read, info) for info in images}
        require(len(contents) == len(images), f"{path} has two files of one name: give each its own name.")
        return _decoded(path, contents)


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _decoded(path: Path, contents: Mapping[str, Callable[[], bytes]]) -> Images:
    """All files decoded, sorted by name; sizes and channels must equal those of the first, but grey and colour may be mixed."""
    names = sorted(contents)
    require(
        len(names) > 1,
        f"{path} holds {'one image' if names else 'no images'}, but a score needs at least two: their names must end in one of "
        f"{', '.join(sorted(SUFFIXES))}.",
    )

    def decode(name: str) -> np.ndarray:
        return read_as_it_is(f"{printable(name)} in {path}", contents[name](), MOST_NUMBERS)

    first = decode(names[0])
    height, width, _ = first.shape
    _check_size(path, len(names), 3 * height * width, first.itemsize)
    pixels = np.empty((len(names), 3, height, width), first.dtype)
    with ThreadPoolExecutor(max_workers=8) as readers:
        for i, image in enumerate(
            track(readers.map(decode, names), f"reading {path.name}", len(names), transient=True)
        ):
            said = f"{printable(names[i])} in {path} has {_size_of(image)}, {printable(names[0])} {_size_of(first)}"
            require(_size_of(image) == _size_of(first), f"{said}: the samples of a score must have one size and depth.")
            pixels[i] = image.transpose(2, 0, 1)
    lossy = any(PurePosixPath(name).suffix.lower() in _LOSSY for name in names)
    return Images(path.name, _grey(torch.from_numpy(pixels)), lossy=lossy)


def _size_of(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]} pixels of {8 * image.itemsize} bits"


def _grey(pixels: Tensor) -> Tensor:
    """Images (N, C, H, W), with one channel if all channels are equal, as in grey images saved as RGB."""
    equal = all(torch.equal(pixels[:, i], pixels[:, 0]) for i in range(1, pixels.shape[1]))
    return pixels[:, :1] if equal else pixels


def _check_size(path: Path, count: int, numbers: int, itemsize: int) -> None:
    """DataError if `count` images of `numbers` values of `itemsize` bytes exceed the limits."""
    require(
        numbers <= MOST_NUMBERS and count * numbers * itemsize <= MOST_BYTES,
        f"{path} unpacks to {count:,} images of {numbers:,} numbers, more than {MOST_BYTES / 2**30:g} GiB: score fewer of them.",
    )


def _of_npz(path: Path, data_shape: Sequence[int] | None) -> Images:
    with one_sentence(path, "npz of images"), zipfile.ZipFile(path) as archive:
        there = members(archive)
        array = "arr_0" if "arr_0" in there else _only_images(path, archive)
        pixels = read_array(path, archive, array, MOST_BYTES)
        known = ("arr_1",) if array == "arr_0" else ("arr_1", "labels", "y")
        beside = next((name for name in known if name in there), None)
        labels = None if beside is None else read_array(path, archive, beside, 2**27)
    name = printable(array)
    shaped = f"{name} of {path} has the shape {pixels.shape}:"
    require(pixels.ndim in (3, 4), f"{shaped} it must be (N, H, W, C), (N, C, H, W) or (N, H, W).")
    require(
        pixels.dtype in (np.uint8, np.uint16),
        f"{name} of {path} is {pixels.dtype}: save it as uint8, as published evaluators read it; for images in 0 … 255: "
        "x.round().clip(0, 255).astype(np.uint8).",
    )
    require(len(pixels) > 1 and 0 not in pixels.shape, f"{shaped} a score needs at least two images.")
    _check_size(path, len(pixels), pixels[0].size, pixels.itemsize)
    axes = _axes(shaped, name, pixels.shape, data_shape)
    read_as = f"{name}, {pixels.dtype} {pixels.shape}, read as ({', '.join(axes)})"
    images = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[..., None])
    images = images if axes == "NCHW" else images.permute(0, 3, 1, 2)
    classes = None  # also if all are 0, as written for a model without classes
    if labels is not None and labels.any():
        classes = as_labels(labels, len(pixels), f"{beside} of {path}")
    return Images(path.name, _grey(images), classes, read_as=read_as)


def _only_images(path: Path, archive: zipfile.ZipFile) -> str:
    """The name of the only array that can hold images; arr_0 if none can."""
    headers = {name: header(archive, name) for name in members(archive)}
    shaped = [name for name, (shape, _) in headers.items() if len(shape) in (3, 4)]
    found = [name for name in shaped if headers[name][1] in (np.uint8, np.uint16)] or shaped
    several = ", ".join(map(printable, found[:8]))
    require(len(found) < 2, f"{path} has several arrays of images ({several}): save the samples as arr_0.")
    return found[0] if found else "arr_0"


def _axes(shaped: str, name: str, shape: tuple[int, ...], data_shape: Sequence[int] | None) -> str:
    """NHW, NHWC or NCHW: the order with the sides of the data; else NCHW if only axis 1 is small enough for channels."""
    if len(shape) == 3:
        return "NHW"
    sides = None if data_shape is None else tuple(data_shape)[1:]
    in_doubt = sides == shape[1:3] == shape[2:4] and name != "arr_0"
    require(not in_doubt, f"{shaped} any axis may be the channels: save it as (N, H, W, C) named arr_0.")
    if sides in (shape[1:3], shape[2:4]):
        return "NHWC" if sides == shape[1:3] else "NCHW"
    return "NCHW" if shape[1] <= 4 < shape[3] else "NHWC"


def levels(images: Images, shape: Sequence[int], num_levels: int, of: str) -> Tensor:
    """(N, *shape): the levels of data of this shape that are nearest to the pixels. Grey images are repeated in all channels.

    uint8, or uint16 for more than 256 levels. DataError if size or channels differ. of: a description of the data
    with that shape.
    """
    pixels, (channels, height, width) = images.pixels, images.shape
    require(
        (height, width) == tuple(shape[1:]),
        f"{images.name} has images of {width}×{height} pixels, {of} of {shape[2]}×{shape[1]}, and images are not resized here: "
        f"resize them, for example by Pillow's image.resize(({shape[2]}, {shape[1]}), Image.Resampling.BICUBIC), and report that "
        "with the score.",
    )
    said = f'{images.name} has coloured images, {of} grey ones: convert them (Pillow: image.convert("L")).'
    require((channels, shape[0]) != (3, 1), said)
    said = f"{images.name} has images of {channels} channels, {of} of {shape[0]}: convert them."
    require(channels in (1, shape[0]), said)
    if channels == 1:
        pixels = pixels.expand(-1, shape[0], -1, -1)
    highest, top = num_levels - 1 if num_levels < images.num_levels else 1, images.num_levels - 1
    require(
        int(pixels.numpy().max()) > highest,
        f"{images.name} has no pixel above {highest}: its pixels must go from 0 to {top}, not from 0 to {highest}. "
        f"Multiply them by {top}/{highest}.",
    )
    if num_levels == images.num_levels:
        return pixels
    return torch.cat([to_levels(from_levels(some, images.num_levels), num_levels) for some in pixels.split(256)])


def differences(images: Images, fitted: Tensor, num_levels: int, of: str) -> list[str]:
    """Sentences on properties of these files that increase a distance. fitted: the result of `levels`."""
    found = ["some are JPEG or WebP, whose compression artefacts count as differences"] if images.lossy else []
    if images.num_levels < num_levels:
        found.append(f"they have {images.num_levels} levels and {of} has {num_levels}: this counts as a difference")
    elif images.num_levels > num_levels:
        parts = zip(images.pixels.split(256), fitted.split(256), strict=True)
        spread = ((to_levels(from_levels(some, num_levels), images.num_levels), theirs) for theirs, some in parts)
        lie_on_levels = all(np.array_equal(ours.numpy(), theirs.numpy()) for ours, theirs in spread)
        if not lie_on_levels:
            found.append(f"they have {images.num_levels} levels and were rounded to the {num_levels} of {of}")
    return found
