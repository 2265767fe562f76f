"""Kernel distance, precision and recall of features, and the Inception score, as torch-fidelity computes them.

The kernel distance is the KID of Bińkowski et al. (2018): the unbiased squared MMD with the kernel
(x·y/D + 1)³, averaged over random subsets. Being unbiased it may be slightly negative, and unlike a Fréchet distance it
does not grow when there are fewer samples. Precision and recall are those of Kynkäänniemi et al. (2019, eq. 1 and 2):
the share of samples inside the manifold of the reference, and the reverse; a manifold is the union of the balls around
its points that reach to the k-th nearest neighbour.

The Inception score (Salimans et al. 2016) is exp E_x KL(p(class|x) ‖ p(class)), from 1 to the number of classes; it never
sees the reference. As published: the mean over ten random parts of the samples, and the deviation between the parts.

float64 throughout: in float32 the three kernel means, each of order 1, cancel to noise, and distances go through x·y.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from diffusion_lab.metrics.statistics import UnmeasurableError


def kernel_distance(samples: Tensor, reference: Tensor, num_subsets: int, subset_size: int, seed: int) -> float:
    """The kernel distance of samples (N, D) to reference (M, D): mean over `num_subsets` pairs of subsets.

    Raises UnmeasurableError unless 2 ≤ subset_size ≤ N, M.
    """
    if not 2 <= subset_size <= min(len(samples), len(reference)):
        raise UnmeasurableError(
            f"a kernel distance over subsets of {subset_size} images needs subsets of at least 2, and as many samples and "
            f"images of the reference, got {len(samples)} and {len(reference)}"
        )
    result = kid_features_to_metric(
        samples.double().cpu(),
        reference.double().cpu(),
        kid_subsets=num_subsets,
        kid_subset_size=subset_size,
        rng_seed=seed % 2**32,
        verbose=False,
    )
    return float(result[KEY_METRIC_KID_MEAN])


def kernel_influences(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, float]:
    """(what each sample adds to the kernel distance (n,), what each image of the reference adds (m,), its standard error).

    Of the estimate from all pairs: k̂ = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2·mean k(x_i, y_j). x_i adds
    2·(mean_j k(x_i, x_j) − mean_j k(x_i, y_j)), and V = var/n + var/m of what all add. Like every U-statistic it keeps some
    variance where these vanish, V_2 = 2·(E h(x, x′)²/n² + E h(y, y′)²/m² + 2·E h(x, y)²/(n·m)), h = k less its means over rows and
    columns; V holds that twice, so the error is √(V − V_2), and √(V/2) at least. Memory: (n + m)² float64.
    """
    n, rows = len(samples), torch.cat([samples, reference]).double()
    kernel = (rows @ rows.T / rows.shape[1] + 1) ** 3
    parts = {"xx": kernel[:n, :n], "yy": kernel[n:, n:], "xy": kernel[:n, n:]}
    for same in (parts["xx"], parts["yy"]):
        same.fill_diagonal_(0)
    of_samples = 2 * (parts["xx"].sum(1) / (n - 1) - parts["xy"].mean(1))
    of_reference = 2 * (parts["yy"].sum(1) / (len(rows) - n - 1) - parts["xy"].mean(0))
    m = len(of_reference)
    total = float(of_samples.var() / n + of_reference.var() / m)
    weights = {"xx": 1 / n**2, "yy": 1 / m**2, "xy": 2 / (n * m)}
    pairs = 2 * sum(weight * _interaction(parts[name], name != "xy") for name, weight in weights.items())
    return of_samples, of_reference, max(total - pairs, total / 2) ** 0.5


def _interaction(kernel: Tensor, same: bool) -> float:
    """E h² of pairs: the kernel less its means over rows and columns. same: pairs of one set, whose diagonal is left out."""
    rows, columns = (size - 1 if same else size for size in (kernel.shape[1], kernel.shape[0]))
    h = (
        kernel
        - kernel.sum(1, keepdim=True) / rows
        - kernel.sum(0, keepdim=True) / columns
        + kernel.sum() / (rows * kernel.shape[0])
    )
    if same:
        h.fill_diagonal_(0)
    return float(h.square().sum()) / (rows * kernel.shape[0])


def in_manifolds(samples: Tensor, reference: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """(which samples (N, D) lie among the reference (M, D), which of the reference lie among the samples), bool (N,) and (M,).

    Their shares are precision and recall, with balls to the k-th neighbour, k = neighbours. Raises UnmeasurableError unless N and M
    are larger than k.
    """
    if min(len(samples), len(reference)) <= neighbours:
        raise UnmeasurableError(
            f"precision and recall with {neighbours} neighbours need more images than neighbours, "
            f"got {len(samples)} samples and {len(reference)} of the reference"
        )
    x, y = samples.double().cpu(), reference.double().cpu()
    return _among(x, y, neighbours), _among(y, x, neighbours)


def _among(points: Tensor, others: Tensor, neighbours: int) -> Tensor:
    """Which points lie within one of the balls around the others; distances of 1000 rows at a time, not of all rows at once."""
    radii = torch.cat([torch.cdist(rows, others).kthvalue(neighbours + 1).values for rows in others.split(1000)])
    return torch.cat([(torch.cdist(rows, others) <= radii).any(dim=1) for rows in points.split(1000)])


def inception_score(logits: Tensor, seed: int, num_parts: int = 10) -> tuple[float, float]:
    """(mean, standard deviation) of the score over `num_parts` parts of logits (N, classes), shuffled by `seed`.

    Raises UnmeasurableError unless there is a sample for each part.
    """
    if len(logits) < num_parts:
        raise UnmeasurableError(
            f"an Inception score over {num_parts} parts needs at least as many samples, got {len(logits)}"
        )
    result = isc_features_to_metric(logits.double().cpu(), num_parts, rng_seed=seed % 2**32)
    return float(result[KEY_METRIC_ISC_MEAN]), float(result[KEY_METRIC_ISC_STD])
