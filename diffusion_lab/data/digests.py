"""The SHA-256 of each file, remembered between starts: a file that has not changed since is not read again.

A file counts as unchanged while its size, its inode, its time of change and its time of status change are what they
were: whoever writes into it, or puts another in its place, changes one of them, and the last cannot be set back. What
was changed within the last seconds is not remembered, because a second change within one tick of the file system's
clock would not show.
"""

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path

from diffusion_lab.data.download import cache_folder
from diffusion_lab.store.files import write_whole

_SETTLED_SECONDS = 2.0


class RememberedDigests:
    """Digests of the files below `root`, by state of the file, in the user's cache folder.

    `rules` is whatever else a digest was given for, such as the checks that a file had passed: under other rules
    nothing is remembered.
    """

    def __init__(self, root: Path, rules: str) -> None:
        key = hashlib.sha256(f"{root.resolve()}\n{rules}".encode()).hexdigest()
        self._file = cache_folder("digests") / f"{key}.json"
        self._known: dict[str, list] = {}
        self._fresh: dict[str, list] = {}
        with suppress(OSError, ValueError):  # none yet, or broken: every file is read
            known = json.loads(self._file.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def find(self, path: Path, state: list[int]) -> str | None:
        """The digest of the file, if it is in the state in which it was remembered."""
        match self._known.get(str(path)):
            case [remembered, str(digest)] if remembered == state:
                return digest
        return None

    def remember(self, path: Path, state: list[int], digest: str) -> None:
        """`state` is that of before the file was read."""
        _, _, *changed = state
        if max(changed) < (time.time() - _SETTLED_SECONDS) * 1e9:
            self._fresh[str(path)] = [state, digest]

    def save(self) -> None:
        """For the next start. A folder that cannot be written only makes that one slower."""
        if self._fresh:
            with suppress(OSError):
                write_whole(self._file, json.dumps({**self._known, **self._fresh}).encode())


def state_of(path: Path) -> list[int]:
    """Size, inode, times of change and of status change in nanoseconds. OSError if there is no such file."""
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
