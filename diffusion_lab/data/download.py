"""The default folders of data sets, and downloads into them: complete, or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from diffusion_lab.data.error import DataError


def cache_folder(name: str) -> Path:
    """The user's own cache folder for the data set, or whatever else, of this name."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_lab" / name


def download(title: str, folder: Path, fetch: Callable[[str], object], made: str, by_hand: str) -> None:
    """`fetch(root)` fetches and checks files into root/made; they are moved into `folder` one by one once all are there.

    So another process may do the same at the same time. DataError, which ends in `by_hand`, if it fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            fetch(staging)
            fetched = Path(staging) / made
            for path in sorted(fetched.rglob("*")):
                if path.is_file():
                    target = folder / path.relative_to(fetched)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
    except Exception as error:
        # torchvision and the network fail with RuntimeError, OSError, HTTPException, BadZipFile, EOFError and others.
        reason = " ".join(str(error).split())
        raise DataError(f"{title} could not be downloaded into {folder} ({reason}): {by_hand}.") from error
