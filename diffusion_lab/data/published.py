"""Files of a published data set: checked byte for byte, or one sentence that says what to do."""

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from torchvision.datasets.utils import calculate_md5

from diffusion_lab.data.module import DataError


def first_wrong(files: Iterable[tuple[Path, str]]) -> str | None:
    """What is wrong with the first of (path, MD5) that is missing or has other bytes, or None. Nothing is parsed."""
    for path, md5 in files:
        if not path.is_file():
            return f"{path} is missing"
        try:
            found = calculate_md5(path)
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        if found != md5:
            return f"{path} is not the published file (its MD5 is {found}, not {md5})"
    return None


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
