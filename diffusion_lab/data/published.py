"""Published data sets: the search for files, their checks, and downloads with torchvision."""

import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

from torchvision.datasets.utils import check_integrity

from diffusion_lab.data.checks import DataError
from diffusion_lab.data.module import DataModule


def cache_folder(name: str) -> Path:
    """The folder `name` in the user's cache folder, for a data set or anything else."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_lab" / name


class Published(DataModule):
    """Files in `folder`: the option `root`, or the user's cache folder. The option `download` fetches them if they are missing."""

    title: str  # the name in messages

    def _look_in(self, root: str | None, download: bool) -> None:
        self.folder, self.download = Path(root) if root else cache_folder(self.name), download

    @abstractmethod
    def _wrong(self) -> str | None:
        """A phrase on a file that is missing or differs from the published one; None if all are right. Nothing is parsed."""

    @abstractmethod
    def _fetch(self, root: str) -> object:
        """torchvision's download into `root`."""

    @property
    @abstractmethod
    def _by_hand(self) -> str:
        """Instructions for putting the files into `folder`."""

    def missing(self) -> str | None:
        wrong = self._wrong()
        return wrong and f"{self.title}: {wrong}: set data.download=true, or {self._by_hand}."

    def _find(self) -> None:
        """DataError unless the files exist or can be downloaded."""
        if self.download and self._wrong():
            self._download()
        if missing := self.missing():
            raise DataError(missing)

    def _download(self) -> None:
        """Download; complete files are moved into `folder` one by one, so two processes may download at the same time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as staging:
                self._fetch(staging)
                for path in sorted(path for path in Path(staging).rglob("*") if path.is_file()):
                    target = self.folder / path.relative_to(staging)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
        except Exception as error:
            # Errors of torchvision and the network: RuntimeError, OSError, HTTPException, BadZipFile, EOFError and others.
            reason = " ".join(str(error).split())
            raise DataError(f"{self.title} could not be put into {self.folder} ({reason}): {self._by_hand}.") from error


def first_wrong(files: Iterable[tuple[Path, str]]) -> str | None:
    """A phrase on the first file of (path, MD5) that is missing or differs, or None."""
    for path, md5 in files:
        if not check_integrity(path, md5):
            return f"{path} is {f'not the published file (its MD5 is not {md5})' if path.is_file() else 'missing'}"
    return None
