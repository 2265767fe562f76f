"""Clusters: classes without labels, found in the images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from diffusion_lab.conditions.condition import MOST_VALUES, Condition, Source
from diffusion_lab.store.option_names import check_at_least


class Clusters(Condition):
    """y = argmin_k |P(φ(x) − m) − c_k|, by k-means on the principal components P of features φ of training images: their pixels.

    A model conditioned on y learns the data part by part, and classifier-free guidance works without labels
    (V. T. Hu et al., Self-Guided Diffusion Models, CVPR 2023, who cluster the features of a self-supervised network).
    Deterministic: the same images give the same clusters, up to rounding, with the same version of scikit-learn.

    num_clusters: at least 2. num_components: of P, at most the number of features. num_images: the most training images in which
    clusters are found; fewer if they are large.
    """

    option = "condition.clusters."
    kind = "clusters"

    def __init__(self, num_clusters: int, num_components: int, num_images: int) -> None:
        self.num_clusters, self.num_components, self.num_images = num_clusters, num_components, num_images
        check_at_least(2, self, "num_clusters", prefix=self.option)
        check_at_least(1, self, "num_components", "num_images", prefix=self.option)

    def prepare(self, data: Source) -> None:
        self.find(self.looked_at(data)[0])

    def features(self, x: Tensor) -> Tensor:
        """φ(x) of images (B, …), float64 (B, F)."""
        return x.flatten(1).double()

    def most_images(self, dim: int) -> int:
        return min(self.num_images, max(MOST_VALUES // dim, self.num_clusters))

    def find(self, x: Tensor) -> None:
        """Find the clusters of these images x (N, …): sets `identity`, their digest, and `counts`, their sizes.

        ValueError if fewer images than clusters have different features.
        """
        # Imported here, because it takes a second and most trainings do not need it.
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.exceptions import ConvergenceWarning

        if x.isnan().any():
            raise ValueError(
                f"condition={self.option.split('.')[1]}: no clusters are found in data with missing values; fill them in, or use "
                "another condition"
            )
        seen = self.features(x).numpy()
        self._check(len({row.tobytes() for row in seen}))
        components = PCA(min(self.num_components, *seen.shape), svd_solver="randomized", random_state=0).fit(seen)
        with warnings.catch_warnings():
            # For fewer clusters than requested `_check` has a better message.
            warnings.simplefilter("ignore", ConvergenceWarning)
            clusters = KMeans(self.num_clusters, n_init=3, random_state=0).fit(components.transform(seen))

        self.size = self.num_clusters
        self.description = (
            f"{self.num_clusters} {self.kind} of {len(seen)} images, {len(components.components_)} components"
        )
        self._mean, self._components = (torch.from_numpy(a) for a in (components.mean_, components.components_))
        self._centres = torch.from_numpy(clusters.cluster_centers_)
        self.count(torch.from_numpy(clusters.labels_).long())
        assert self.counts is not None
        self._check(int((self.counts > 0).sum()))  # features may differ only by rounding

    def _check(self, different: int) -> None:
        if different < self.num_clusters:
            raise ValueError(
                f"{self.option}num_clusters={self.num_clusters}: only {different} images with distinct features were found; "
                f"choose fewer clusters, more images with train_images or {self.option}num_images, or condition=none"
            )

    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        components = (self.features(x) - self._mean) @ self._components.T
        return torch.cdist(components, self._centres).argmin(1)


_AT_ONCE = 2**20  # values of h at a time, to bound the memory
_ORIENTATIONS = 8  # unsigned, of π/8 each
_CELLS = 7  # along each side, at most


class GradientClusters(Clusters):
    """Clusters by histograms of oriented gradients in place of pixels (Dalal & Triggs, CVPR 2005).

    φ(x) = √(h / |h|₁): h holds, for each cell of the image, the magnitude of the gradient by orientation, divided linearly between
    the two nearest of eight. The whole image is normalised, where theirs is block by block. The square root is that of
    Arandjelović & Zisserman (CVPR 2012): Euclidean distance is then √2 times Hellinger's. ValueError for points.
    """

    option = "condition.gradient_clusters."
    kind = "clusters by gradients"

    def features(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError("condition=gradient_clusters works for images only; use condition=clusters")
        at_once = max(1, _AT_ONCE // (_ORIENTATIONS * x.shape[2] * x.shape[3]))
        h = torch.cat([_histograms(images.double()).flatten(1) for images in x.split(at_once)])
        return (h / h.sum(1, keepdim=True).clamp(min=1e-12)).sqrt()


def _histograms(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 8, cells, cells). Of several channels, the one with the largest gradient is used at each pixel."""
    framed = pad(x, (1, 1, 1, 1), mode="replicate")
    down, right = framed[..., 2:, 1:-1] - framed[..., :-2, 1:-1], framed[..., 1:-1, 2:] - framed[..., 1:-1, :-2]
    magnitude, steepest = torch.hypot(down, right).max(1, keepdim=True)
    angle = torch.atan2(down.gather(1, steepest), right.gather(1, steepest))
    place = angle.remainder(torch.pi) * (_ORIENTATIONS / torch.pi)
    lower, share = place.floor(), place.frac()
    by_orientation = x.new_zeros(len(x), _ORIENTATIONS, *x.shape[2:])
    for orientation, part in ((lower, 1 - share), (lower + 1, share)):
        by_orientation.scatter_add_(1, orientation.long() % _ORIENTATIONS, magnitude * part)
    return adaptive_avg_pool2d(by_orientation, (min(_CELLS, x.shape[2]), min(_CELLS, x.shape[3])))
