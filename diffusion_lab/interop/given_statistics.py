"""Mean and covariance of features of real images, as published evaluators keep them.

    npz   mu (D,), sigma (D, D)            clean-fid, EDM; without the images
          and arr_0, mu_s, sigma_s         openai/guided-diffusion: images too, and the moments of spatial features (sFID)
    .pt   {"mu": …, "sigma": …}            torch-fidelity, a cached set of statistics

None of them says of which features, of how many images, or how these were resized. Nothing is unpickled but arrays.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.arrays import members, one_sentence, read_array
from diffusion_lab.data.module import DataError
from diffusion_lab.interop.checkpoints import CheckpointError, check_bombs
from diffusion_lab.interop.given_images import Images, read_images
from diffusion_lab.metrics.reference import Moments

_MOST_BYTES = 2**30  # of sigma: 11,000 features
_TORCH = (".pt", ".pth")
SPATIAL = "_s"  # at the end of the names of the moments of spatial features


@dataclass(frozen=True, eq=False)
class Published:
    """What somebody gave to compare with: images, moments of features, or both.

    moments: by the suffix of their names, "" for mu and sigma, "_s" for mu_s and sigma_s; float64; how many images is not known
    (n is nan).
    """

    name: str
    moments: Mapping[str, Moments]
    images: Images | None

    @property
    def digest(self) -> str:
        """SHA-256 of what is there."""
        content = hashlib.sha256((self.images.digest if self.images is not None else "").encode())
        for moments in self.moments.values():
            content.update(moments.mean.numpy())
            content.update(moments.covariance.numpy())
        return content.hexdigest()


def read_reference(path: Path) -> Published:
    """What samples are compared with: statistics, images, or both. DataError, in one sentence, for a file of neither."""
    if path.suffix.lower() in _TORCH and path.is_file():
        return Published(path.name, {"": _moments(path, _of_torch(path))}, None)
    if path.suffix.lower() == ".npz" and path.is_file():
        with one_sentence(path, "npz"), zipfile.ZipFile(path) as archive:
            there = members(archive)
            if "feats" in there and "mu" not in there:
                raise DataError(
                    f"{path} holds the features of clean-fid's KID: give its file with mu and sigma, without _kid in its name."
                )
            moments = {}
            for suffix in ("", SPATIAL):
                names = f"mu{suffix}", f"sigma{suffix}"
                if any(name in there for name in names):
                    found = {name: read_array(path, archive, name, _MOST_BYTES) for name in names}
                    moments[suffix] = _moments(path, found, suffix)
            if moments:
                return Published(path.name, moments, read_images(path) if "arr_0" in there else None)
    return Published(path.name, {}, read_images(path))


def _of_torch(path: Path) -> Mapping[str, np.ndarray]:
    """torch-fidelity saves numpy arrays, which are made of these few names; a pickle that has any other is refused."""
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path} is larger than {_MOST_BYTES / 2**20:g} MiB, too large for a file of statistics.")
    array = np.zeros(1)
    rebuild = array.__reduce__()[0]
    allowed = [rebuild, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8"))]
    with one_sentence(path, "file of statistics"), torch.serialization.safe_globals(allowed):
        try:
            check_bombs(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
        except CheckpointError as error:
            raise DataError(f"{error}.") from None
        except (UnpicklingError, MemoryError):
            raise DataError(
                f"{path} is not a readable file of statistics: it is damaged, claims more than fits into memory, or holds "
                "something other than arrays of numbers, which is not unpickled."
            ) from None
        if not isinstance(content, Mapping) or not {"mu", "sigma"} <= content.keys():
            raise DataError(
                f"{path} has no mu and sigma: give the statistics that torch-fidelity caches for a set of images."
            )
        return {name: torch.as_tensor(content[name]).detach().numpy() for name in ("mu", "sigma")}


def _moments(path: Path, found: Mapping[str, np.ndarray], suffix: str = "") -> Moments:
    mu_name, sigma_name = f"mu{suffix}", f"sigma{suffix}"
    mu, sigma = found[mu_name], found[sigma_name]
    size = mu.shape[0] if mu.ndim == 1 else 0
    if size == 0 or sigma.shape != (size, size) or mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise DataError(
            f"{path} has {mu_name} of shape {mu.shape} and {sigma_name} of shape {sigma.shape}: they must be floats of shape (D,) "
            "and (D, D)."
        )
    if 8 * sigma.size > _MOST_BYTES:  # a tensor may claim more than its file holds
        raise DataError(f"{path} has {sigma_name} of shape {sigma.shape}, more than {_MOST_BYTES / 2**20:g} MiB.")
    mean, covariance = torch.from_numpy(mu.astype(np.float64)), torch.from_numpy(sigma.astype(np.float64))
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise DataError(f"{path} has numbers in {mu_name} or {sigma_name} that are not finite.")
    close = torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * float(covariance.abs().max()))
    if not close or covariance.diagonal().min() < 0 or not _is_bounded(covariance):
        raise DataError(
            f"{sigma_name} of {path} is not a covariance: it must be symmetric, with no negative number on its diagonal and no "
            "correlation beyond 1."
        )
    return Moments(torch.tensor(float("nan"), dtype=torch.float64), mean, (covariance + covariance.T) / 2)


def _is_bounded(covariance: Tensor) -> bool:
    """|Σ_ij| ≤ √(Σ_ii·Σ_jj), up to rounding: what no set of vectors exceeds."""
    deviations = covariance.diagonal().sqrt()
    rounding = 1e-3 * float(covariance.abs().max())
    return bool((covariance.abs() <= deviations[:, None] * deviations + rounding).all())
