"""A file appears whole or not at all. Imports neither torch nor anything of this package."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to the disk, then put it in place in one step.

    A reader, and whoever looks after a crash, sees the old file or the new one, never a part. Beside the target and not
    in a temporary folder, because a move across file systems is a copy. Folders above `path` are made. On any error
    (OSError: disk full, no permission) the old file stays and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(staged, "xb") as file:  # not tempfile: its files are readable by their owner only
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    with suppress(OSError):  # the rename itself; some file systems and systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
