"""Published data sets: where their files are searched for, how they are checked, and how torchvision downloads them."""

import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

from torchvision.datasets.utils import check_integrity

from diffusion_lab.data.checks import DataError
from diffusion_lab.data.module import DataModule


def cache_folder(name: str) -> Path:
    """The user's own cache folder for the data set, or whatever else, of this name."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_lab" / name


class Published(DataModule):
    """Files in `folder`: the option `root`, or the user's cache folder. The option `download` fetches them if they are missing."""

    title: str  # the name in sentences
    fetched_into = ""  # where torchvision puts the files, inside its root

    def _look_in(self, root: str | None, download: bool) -> None:
        self.folder, self.download = Path(root) if root else cache_folder(self.name), download

    @abstractmethod
    def _wrong(self) -> str | None:
        """What is missing, or is not as it was published; None: nothing. Nothing is parsed."""

    @abstractmethod
    def _fetch(self, root: str) -> object:
        """torchvision's download into `root`."""

    @property
    @abstractmethod
    def _by_hand(self) -> str:
        """How the user puts the files into `folder`."""

    @property
    def _otherwise(self) -> str:
        return f"or {self._by_hand}"

    def missing(self) -> str | None:
        wrong = self._wrong()
        return wrong and f"{wrong}: set data.download=true, {self._otherwise}."

    def _find(self) -> None:
        """DataError unless the files are there, or can be downloaded."""
        if self.download and self._wrong():
            self._download()
        if missing := self.missing():
            raise DataError(missing)

    def _download(self) -> None:
        """The files are moved into `folder` one by one once all are there, so that two processes may download at the same time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as staging:
                self._fetch(staging)
                fetched = Path(staging, self.fetched_into)
                for path in sorted(path for path in fetched.rglob("*") if path.is_file()):
                    target = self.folder / path.relative_to(fetched)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
        except Exception as error:
            # torchvision and the network fail with RuntimeError, OSError, HTTPException, BadZipFile, EOFError and others.
            reason = " ".join(str(error).split())
            raise DataError(
                f"{self.title} could not be downloaded into {self.folder} ({reason}): {self._by_hand}."
            ) from error


def first_wrong(files: Iterable[tuple[Path, str]]) -> str | None:
    """What is wrong with the first of (path, MD5) that is missing or has other bytes, or None."""
    for path, md5 in files:
        if not check_integrity(path, md5):
            return f"{path} is {f'not the published file (its MD5 is not {md5})' if path.is_file() else 'missing'}"
    return None
