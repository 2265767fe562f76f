"""Emoji in colour: drawings with transparency in a file emoji.npz, which benchmarks/data/drawings.py makes.

The file has the drawings in RGBA, `images` uint8 (N, side, side, 4), their classes, `labels` and `names`, and their `groups`.
Background and size are applied when it is read.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_lab.data.array_files import one_sentence, read_array
from diffusion_lab.data.checks import DataError, check_fraction, require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.order import held_out_groups
from diffusion_lab.data.published import cache_folder
from diffusion_lab.data.read_image import colour_of

_MOST_IN_MEMORY = 2**30  # bytes, unpacked


class Emoji(InMemoryDataModule):
    """Emoji 16.0 in nine categories by two artists: Google's Noto (Apache-2.0) and Twitter's Twemoji (CC BY 4.0).

    They are shown on the colour `alpha`, and resized from `side` to `image_size` pixels. Drawings of one group (an emoji by both
    artists, in all skin tones, directions and genders) are in the same split: a fixed `test_fraction` of the groups is held out.
    root: the folder with emoji.npz; None: the user's cache folder. batch_size, seed, flip: as in `DataModule`.
    """

    name = "emoji"
    num_levels = 256
    side = 64

    def __init__(
        self,
        batch_size: int,
        seed: int,
        image_size: int = 32,
        alpha: str | Sequence[int] = "white",
        test_fraction: float = 0.2,
        flip: bool = False,
        root: str | None = None,
    ) -> None:
        super().__init__(batch_size, seed, flip)
        said = f"data.image_size={image_size} must be a side from 8 to {self.side} pixels."
        require(isinstance(image_size, int) and 8 <= image_size <= self.side, said)
        check_fraction(test_fraction)
        self.file = (Path(root) if root else cache_folder(self.name)) / f"{self.name}.npz"
        self.image_size, self.background, self.test_fraction = image_size, colour_of(alpha), test_fraction

    def missing(self) -> str | None:
        if self.file.is_file():
            return None
        how = f"make it with `python benchmarks/data/drawings.py {self.name}` of the repository"
        return f"{self.file} is missing: {how}, or name the folder that holds it with data.root=FOLDER."

    def _read(self) -> tuple[Split, Split]:
        if missing := self.missing():
            raise DataError(missing)
        with one_sentence(self.file, "file of drawings"), zipfile.ZipFile(self.file) as archive:
            images, labels, groups, names = (
                read_array(self.file, archive, name, _MOST_IN_MEMORY)
                for name in ("images", "labels", "groups", "names")
            )
            self.class_names = bytes(names).decode().split("\n")
            self.num_classes = len(self.class_names)
            values = torch.stack([self._shown(image) for image in images])
            of_image, classes = torch.from_numpy(groups).long(), torch.from_numpy(labels).long()
            is_test = held_out_groups(of_image, classes, self.test_fraction)
        self.groups = of_image[~is_test]
        train, test = (Split(values[of], classes[of]) for of in (~is_test, is_test))
        return train, test

    def _shown(self, image: np.ndarray) -> Tensor:
        """RGBA uint8 (side, side, 4) -> uint8 (3, image_size, image_size)."""
        drawing = Image.fromarray(image)
        on = Image.alpha_composite(Image.new("RGBA", drawing.size, self.background), drawing).convert("RGB")
        pixels = np.asarray(on.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
