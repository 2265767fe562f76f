"""Published weights that features need: hashed before anything looks into the file, fetched only where that is wanted."""

import hashlib
from pathlib import Path

import torch

from diffusion_lab.metrics.classifiers import WeightsError


def usual_place(file_name: str) -> Path:
    """Where torch hub keeps its checkpoints, and other toolkits put the same file."""
    return Path(torch.hub.get_dir(), "checkpoints", file_name)


def read_weights(file: Path, features: str, url: str, sha256: str, download: bool) -> bytes:
    """The content of a file with this SHA-256. download: fetch it first if it is not there.

    WeightsError, in one sentence, for a file that is missing, cannot be fetched, or is another one. features: their name.
    """
    if download and not file.is_file():
        _fetch(file, url, sha256)
    name = url.rsplit("/", 1)[1]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"features={features} needs the file {name}: download {url} to {file.absolute()}, or set "
            f"features.{features}.download=true or features.{features}.path=FILE."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(f"{file} is not {name}: its SHA-256 is {found}, not {sha256}; download it again from {url}.")
    return content


def _fetch(file: Path, url: str, sha256: str) -> None:
    """Whole or not at all: torch hub writes beside the target and checks the digest before it puts the file in place."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{url} could not be downloaded to {file} ({error}); put it there.") from error
