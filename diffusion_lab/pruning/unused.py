"""Parts of outputs/ that nothing refers to, and their removal: only our unchanged files are removed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from diffusion_lab.files import clear, remove_written
from diffusion_lab.store.lease import OvertakenError, give_up, hold
from diffusion_lab.written import PlaceError, is_ours


class InUseError(Exception):
    """The message says by whom."""


@dataclass(frozen=True)
class Unused:
    """path: a folder or a file, for who reads the list. why: half a sentence.

    files: what is removed, for its size. home: the folder that a process holds while it works with them, which goes too if it is
    `path`; None: no process holds such a thing, and it is computed again when it is needed.
    still: whether nothing refers to it, checked again while its folder is held.
    """

    path: Path
    why: str
    files: Sequence[Path]
    home: Path | None = None
    still: Callable[[], bool] = lambda: True

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(_size(file) for file in self.files)

    def remove(self) -> str | None:
        """None, or why it was left as it is. A process that is killed here leaves nothing that looks finished."""
        try:
            if self.home is None:
                self._remove_files()
            elif self.home.is_dir():
                with hold(self.home, refuse):
                    if not self.still():
                        return "it is needed again"
                    if self.path == self.home:
                        remove_written(self.home)
                        give_up(self.home)
                    else:
                        self._remove_files()
        except (InUseError, OvertakenError, PlaceError) as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or self.home}: {error.strerror or error}"
        return None

    def _remove_files(self) -> None:
        for file in filter(is_ours, self.files):
            clear(file)


def refuse(holder: str) -> NoReturn:
    """For `lease.hold`: this does not wait."""
    raise InUseError(f"{holder} is using it")


def _size(file: Path) -> int:
    try:
        return os.lstat(file).st_size
    except OSError:
        return 0
