"""CIFAR-10 and CIFAR-100, 3×32×32, 50,000 + 10,000 images, through torchvision (A. Krizhevsky, Learning multiple layers of
features from tiny images, 2009).

The batches are pickles. torchvision opens them only if their MD5 is that of the published files, so nothing
else is unpickled.
"""

import torch
from torchvision import datasets

from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.published import Published, first_wrong


class CIFAR(Published, InMemoryDataModule):
    """Colour photographs, 3×32×32.

    batch_size, seed, flip: as in `DataModule`. root: the folder with the unpacked archive; None: the user's cache folder.
    download: fetch and unpack it if it is missing.
    """

    published: type[datasets.CIFAR10]  # lists the files and their MD5s
    num_levels = 256

    def __init__(
        self, batch_size: int, seed: int, flip: bool = True, root: str | None = None, download: bool = False
    ) -> None:
        super().__init__(batch_size, seed, flip)
        self._look_in(root, download)

    def _fetch(self, root: str) -> object:
        return self.published(root, download=True)

    @property
    def _by_hand(self) -> str:
        return f"put {self.published.filename} into {self.folder} and unpack it there"

    def _wrong(self) -> str | None:
        source = self.published
        listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return first_wrong((self.folder / source.base_folder / name, md5) for name, md5 in listed)

    def _read(self) -> tuple[Split, Split]:
        self._find()
        train, test = (self.published(str(self.folder), train=is_train) for is_train in (True, False))
        self.class_names = train.classes
        return _split(train), _split(test)


class CIFAR10(CIFAR):
    """Ten classes, 6,000 images of each."""

    name, title = "cifar10", "CIFAR-10"
    num_classes = 10
    published = datasets.CIFAR10


class CIFAR100(CIFAR):
    """A hundred classes, 600 images of each; the twenty superclasses are not used."""

    name, title = "cifar100", "CIFAR-100"
    num_classes = 100
    published = datasets.CIFAR100


def _split(source: datasets.CIFAR10) -> Split:
    return Split(torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets))
