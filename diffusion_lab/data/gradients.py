"""Clusters of images of a similar outline and texture, whatever their brightness."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from diffusion_lab.data.clusters import Clusters
from diffusion_lab.data.error import DataError

_AT_ONCE = 2**20  # values of h at a time, to bound the memory
_ORIENTATIONS = 8  # unsigned, of π/8 each
_CELLS = 7  # along each side, at most


class GradientClusters(Clusters):
    """Clusters by histograms of oriented gradients in place of pixels (Dalal & Triggs, CVPR 2005).

    φ(x) = √(h / |h|₁): h has, for each cell of the image, the magnitude of the gradient by its orientation, shared linearly between
    the two nearest of eight. The whole image is normalised, where theirs is block by block. The square root is that of
    Arandjelović & Zisserman (CVPR 2012): Euclidean distance is then √2 times Hellinger's. DataError for points.
    """

    kind = "clusters by gradients"

    def features(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise DataError("labels=gradient_clusters works for images; use labels=clusters for points.")
        at_once = max(1, _AT_ONCE // (_ORIENTATIONS * x.shape[2] * x.shape[3]))
        h = torch.cat([_histograms(images.double()).flatten(1) for images in x.split(at_once)])
        return (h / h.sum(1, keepdim=True).clamp(min=1e-12)).sqrt()


def _histograms(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 8, cells, cells). Of several channels the one with the steepest gradient counts, pixel by pixel."""
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
