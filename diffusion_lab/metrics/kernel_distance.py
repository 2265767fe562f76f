"""The kernel distance of features: the KID of Bińkowski et al. (2018) on Inception features.

The unbiased squared MMD with the kernel (x·y/D + 1)³, averaged over random subsets, as in torch-fidelity. Being unbiased
it may be slightly negative, and unlike a Fréchet distance it does not grow with fewer samples. float64, because in float32 the
three kernel means, each of order 1, cancel to noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from diffusion_lab.data.order import evenly_spaced
from diffusion_lab.metrics.metric import FeatureMetric, Naming, Need, Scores, View
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import LOW, REAL_IMAGES, SAMPLES, STANDARD_ERROR, Measure

_COLUMNS = 4096  # converted to float64 at a time
_MOST_ROWS = 2048  # of each side, used for the uncertainty of a kernel distance


@dataclass(frozen=True)
class KernelDistance(FeatureMetric):
    """The kernel distance (KID on Inception features): the mean over pairs of random subsets."""

    needs = (Need.SAMPLES, Need.REAL_IMAGES)
    least = (("num_subsets", 1), ("subset_size", 2))

    num_subsets: int = 100
    subset_size: int = 1000

    @staticmethod
    def _name(naming: Naming) -> str:
        """The name: "kid" beside "fid"; "kd_…" beside "fd_…" and other names of Fréchet distances."""
        if naming.distance == "fid" or naming.distance.startswith("fd_"):
            return "k" + naming.distance[1:]
        return f"kd_{naming.features}"

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        name, agrees = self._name(naming), naming.agrees("kernel_distance")
        yield Measure(name, name, "", LOW, f"kernel distance by {naming.kind}", agrees, logs=True, brief=False)

    def score_view(self, view: View) -> Scores:
        scores = Scores()
        name = self._name(view.naming)
        size = min(self.subset_size, len(view.drawn.features), len(view.some_real))
        scores.protocol["kernel_distance"] = {
            "kernel": "(x·y/D + 1)³",
            "num_subsets": self.num_subsets,
            "subset_size": size,
            "num_reference": len(view.some_real),
        }
        x, y = few_columns(view.drawn.vectors(), view.some_real, 3 * self.num_subsets * size**2)
        scores.record(name, kernel_distance(x, y, self.num_subsets, size, view.settings.seed))
        scores.details[name] = f"mean over {self.num_subsets} pairs of subsets of {size} images"
        # The standard error and its sources. For many images it is computed on some and scaled by √n.
        some = y[evenly_spaced(len(y), min(len(y), _MOST_ROWS))]
        of_samples, of_real, error = kernel_influences(x[:_MOST_ROWS], some)
        fewer = (len(of_samples) / len(x)) ** 0.5, (len(some) / len(y)) ** 0.5
        scores.record(name + STANDARD_ERROR, error * max(fewer))
        scores.spread(name, SAMPLES, of_samples * fewer[0])
        scores.spread(name, REAL_IMAGES, of_real * fewer[1])
        return scores


def few_columns(x: Tensor, y: Tensor, num_products: int) -> tuple[Tensor, Tensor]:
    """x (n, D) and y (m, D), or n + m columns with the same x_i·y_j/(number of columns) for all pairs of rows.

    A kernel distance depends only on these products. If n + m columns are cheaper, they are computed from the eigenvectors of
    all products.
    """
    count, dim = len(x) + len(y), x.shape[1]
    if dim <= count or num_products * dim < count**2 * (dim + 5 * count):
        return x, y
    rows = torch.cat([x, y])
    gram = torch.zeros(count, count, dtype=torch.float64, device=rows.device)
    for columns in rows.split(_COLUMNS, dim=1):
        gram.addmm_(columns.double(), columns.double().T)
    values, vectors = torch.linalg.eigh(gram)
    same = vectors * (values.clamp(min=0) * count / dim).sqrt()
    return same[: len(x)], same[len(x) :]


def kernel_distance(samples: Tensor, reference: Tensor, num_subsets: int, subset_size: int, seed: int) -> float:
    """The kernel distance of samples (N, D) to reference (M, D): mean over `num_subsets` pairs of subsets.

    subset_size: vectors of each subset, from each side. seed: of the random subsets.
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
    """(contributions of the samples (n,), contributions of the reference's images (m,), standard error) of the kernel distance.

    For the estimate from all pairs: k̂ = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2·mean k(x_i, y_j). x_i contributes
    2·(mean_j k(x_i, x_j) − mean_j k(x_i, y_j)), and V = var/n + var/m of the contributions. Like every U-statistic it keeps some
    variance where these vanish, V_2 = 2·(E h(x, x′)²/n² + E h(y, y′)²/m² + 2·E h(x, y)²/(n·m)), h = k minus its means over rows and
    columns; V contains it twice, so the error is √(V − V_2), and at least √(V/2). Memory: (n + m)² float64.
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
    """E h² over pairs, with h the kernel minus its means over rows and columns. same: pairs of one set, without the diagonal."""
    rows, columns = (size - 1 if same else size for size in (kernel.shape[1], kernel.shape[0]))
    of_rows, of_columns, pairs = kernel.sum(1, keepdim=True), kernel.sum(0, keepdim=True), rows * kernel.shape[0]
    h = kernel - of_rows / rows - of_columns / columns + kernel.sum() / pairs
    if same:
        h.fill_diagonal_(0)
    return float(h.square().sum()) / pairs
