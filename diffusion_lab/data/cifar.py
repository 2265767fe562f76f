"""CIFAR-10 and CIFAR-100, 3×32×32, 50,000 + 10,000 images, through torchvision (A. Krizhevsky, Learning multiple layers of
features from tiny images, 2009).

The batches are pickles. torchvision opens them only after the MD5 of each is that of the published file, so nothing
else is ever unpickled.
"""

from abc import abstractmethod
from pathlib import Path

import torch
from torchvision import datasets

from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.module import DataError
from diffusion_lab.data.published import cache_folder, download, first_wrong


class CIFAR(InMemoryDataModule):
    """Colour photographs. `root` holds the unpacked archive; null: the user's cache folder. `download` fetches it."""

    title: str  # the name in sentences
    num_levels = 256

    def __init__(
        self, batch_size: int, seed: int, flip: bool = True, root: str | None = None, download: bool = False
    ) -> None:
        super().__init__(batch_size, seed, flip)
        self.root = root
        self.download = download

    @property
    @abstractmethod
    def _published(self) -> type[datasets.CIFAR10]:
        """torchvision's class, which lists the files and their MD5s."""

    def missing(self) -> str | None:
        wrong = self._first_wrong()
        return wrong and f"{self.title}: {wrong}: set data.download=true, or {self._by_hand}."

    def _read(self) -> tuple[Split, Split]:
        source, folder = self._published, self._folder
        missing = self.missing()
        if missing and self.download:
            download(self.title, folder, lambda root: source(root, download=True), "", self._by_hand)
            missing = self.missing()
        if missing:
            raise DataError(missing)
        train, test = (source(str(folder), train=is_train) for is_train in (True, False))
        self.class_names = train.classes
        return _split(train), _split(test)

    @property
    def _folder(self) -> Path:
        return Path(self.root) if self.root else cache_folder(self.name)

    @property
    def _by_hand(self) -> str:
        return f"put {self._published.filename} into {self._folder} and unpack it there"

    def _first_wrong(self) -> str | None:
        source = self._published
        listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return first_wrong((self._folder / source.base_folder / name, md5) for name, md5 in listed)


class CIFAR10(CIFAR):
    """Ten classes, 6,000 images of each."""

    name = "cifar10"
    title = "CIFAR-10"
    num_classes = 10

    @property
    def _published(self) -> type[datasets.CIFAR10]:
        return datasets.CIFAR10


class CIFAR100(CIFAR):
    """A hundred classes, 600 images of each; the twenty superclasses are not used."""

    name = "cifar100"
    title = "CIFAR-100"
    num_classes = 100

    @property
    def _published(self) -> type[datasets.CIFAR10]:
        return datasets.CIFAR100


def _split(source: datasets.CIFAR10) -> Split:
    return Split(torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets))
