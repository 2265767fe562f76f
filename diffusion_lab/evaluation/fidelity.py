"""Kernel distance, precision and recall of features, and the Inception score, computed by torch-fidelity.

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

from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from diffusion_lab.evaluation.statistics import UnmeasurableError


def kernel_distance(samples: Tensor, reference: Tensor, num_subsets: int, subset_size: int, seed: int) -> float:
    """The kernel distance of samples (N, D) to reference (M, D): mean over `num_subsets` pairs of subsets.

    Raises UnmeasurableError unless 2 ≤ subset_size ≤ N, M.
    """
    if not 2 <= subset_size <= min(len(samples), len(reference)):
        raise UnmeasurableError(
            f"a kernel distance over subsets of {subset_size} images needs 2 or more, and as many samples and images of "
            f"the reference, got {len(samples)} and {len(reference)}"
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


def precision_recall(samples: Tensor, reference: Tensor, neighbours: int) -> tuple[float, float]:
    """(precision, recall) of samples (N, D) against reference (M, D), with balls to the k-th neighbour, k = neighbours.

    Raises UnmeasurableError unless N and M are larger than k.
    """
    if min(len(samples), len(reference)) <= neighbours:
        raise UnmeasurableError(
            f"precision and recall with {neighbours} neighbours need more images than that, "
            f"got {len(samples)} samples and {len(reference)} of the reference"
        )
    result = prc_features_to_metric(
        samples.double().cpu(),
        reference.double().cpu(),
        prc_neighborhood=neighbours,
        prc_batch_size=1000,
        save_cpu_ram=True,  # distances of 1000 rows at a time, not of all rows at once
        verbose=False,
    )
    return float(result[KEY_METRIC_PRECISION]), float(result[KEY_METRIC_RECALL])


def inception_score(logits: Tensor, seed: int, num_parts: int = 10) -> tuple[float, float]:
    """(mean, standard deviation) of the score over `num_parts` parts of logits (N, classes), shuffled by `seed`.

    Raises UnmeasurableError unless there is a sample for each part.
    """
    if len(logits) < num_parts:
        raise UnmeasurableError(f"an Inception score over {num_parts} parts needs as many samples, got {len(logits)}")
    result = isc_features_to_metric(logits.double().cpu(), num_parts, rng_seed=seed % 2**32)
    return float(result[KEY_METRIC_ISC_MEAN]), float(result[KEY_METRIC_ISC_STD])
