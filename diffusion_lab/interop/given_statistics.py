"""Reading means and covariances of features in the formats of published evaluators.

    npz   mu (D,), sigma (D, D)            clean-fid, EDM; without the images
          and arr_0, mu_s, sigma_s         openai/guided-diffusion: also images, and moments of spatial features (sFID)
    .pt   {"mu": …, "sigma": …}            torch-fidelity, a cached set of statistics

The formats do not state the features, the number of images, or how these were resized. Only arrays are unpickled.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.array_files import members, one_sentence, read_array
from diffusion_lab.data.checks import DataError, require
from diffusion_lab.interop.given_images import Images, read_images

MOST_BYTES = 2**30  # of sigma: 11,000 features
SPATIAL = "_s"  # suffix of the moments of spatial features


class MeanAndCovariance(NamedTuple):
    """Of feature vectors: (D,) and (D, D), float64."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class Published:
    """A reference given by the user: images, moments of features, or both.

    moments: by the suffix of their names, "" for mu and sigma, "_s" for mu_s and sigma_s.
    """

    name: str
    moments: Mapping[str, MeanAndCovariance]
    images: Images | None

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        content = hashlib.sha256((self.images.digest if self.images is not None else "").encode())
        for moments in self.moments.values():
            content.update(moments.mean.numpy().tobytes())
            content.update(moments.covariance.numpy().tobytes())
        return content.hexdigest()


def read_reference(path: Path) -> Published:
    """A reference from statistics, images, or both. DataError, in one sentence, for a file with neither."""
    if path.suffix.lower() in (".pt", ".pth") and path.is_file():
        return Published(path.name, {"": _moments(path, _of_torch(path))}, None)
    moments = {}
    if path.suffix.lower() == ".npz" and path.is_file():
        with one_sentence(path, "npz"), zipfile.ZipFile(path) as archive:
            there = members(archive)
            said = f"{path} holds the features of clean-fid's KID: give its file with mu and sigma, without _kid in its name."
            require("feats" not in there or "mu" in there, said)
            for suffix in ("", SPATIAL):
                names = f"mu{suffix}", f"sigma{suffix}"
                if not {*names}.isdisjoint(there):
                    found = {name: read_array(path, archive, name, MOST_BYTES) for name in names}
                    moments[suffix] = _moments(path, found, suffix)
            if moments and "arr_0" not in there:
                return Published(path.name, moments, None)
    return Published(path.name, moments, read_images(path))


def _of_torch(path: Path) -> Mapping[str, np.ndarray]:
    """The content of a torch-fidelity file. Its numpy arrays need only these names; a pickle with any other is refused."""
    rebuild: Any = np.zeros(1).__reduce__()[0]
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [rebuild, np.ndarray, np.dtype]
    allowed += [type(np.dtype(kind)) for kind in ("f4", "f8")]
    is_quiet = warnings.catch_warnings(action="ignore")  # torch warns about pickles before it refuses them
    with is_quiet, one_sentence(path, "file of statistics"), torch.serialization.safe_globals(allowed):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, MemoryError):
            raise DataError(
                f"{path} is not a readable file of statistics: it is damaged, claims more than fits into memory, or holds "
                "something other than arrays of numbers, which is not unpickled."
            ) from None
        fits = isinstance(content, Mapping) and {"mu", "sigma"} <= content.keys()
        require(
            fits, f"{path} has no mu and sigma: give the statistics that torch-fidelity caches for a set of images."
        )
        return {name: torch.as_tensor(content[name]).detach().numpy() for name in ("mu", "sigma")}


def _moments(path: Path, found: Mapping[str, np.ndarray], suffix: str = "") -> MeanAndCovariance:
    (mu_name, mu), (sigma_name, sigma) = ((name, found[name]) for name in (f"mu{suffix}", f"sigma{suffix}"))
    require(
        mu.ndim == 1 and sigma.shape == (len(mu), len(mu)) != (0, 0) and mu.dtype.kind == sigma.dtype.kind == "f",
        f"{path} has {mu_name} of shape {mu.shape} and {sigma_name} of shape {sigma.shape}: they must be floats of shape (D,) and "
        "(D, D).",
    )
    mean, covariance = torch.from_numpy(mu.astype(np.float64)), torch.from_numpy(sigma.astype(np.float64))
    fits = mean.isfinite().all() and covariance.isfinite().all()
    require(fits, f"{path} has numbers in {mu_name} or {sigma_name} that are not finite.")
    close = torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * float(covariance.abs().max()))
    said = "is not a covariance: it must be symmetric, with no negative number on its diagonal"
    require(close and covariance.diagonal().min() >= 0, f"{sigma_name} of {path} {said}.")
    return MeanAndCovariance(mean, (covariance + covariance.T) / 2)
