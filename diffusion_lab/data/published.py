"""Files of a published data set: checked byte for byte, or one sentence that says what to do."""

from collections.abc import Iterable
from pathlib import Path

from torchvision.datasets.utils import calculate_md5


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
