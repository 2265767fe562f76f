import pytest
from torch_fidelity.metric_prc import prc_features_to_metric

from diffusion_lab.metrics.precision_recall import in_manifolds
from diffusion_lab.metrics.reference import UnmeasurableError
from tests.metrics.test_kernel_distance import cloud


def precision_recall(samples, reference, neighbours):
    return tuple(float(hits.double().mean()) for hits in in_manifolds(samples, reference, neighbours))


def test_precision_and_recall_are_those_of_torch_fidelity():
    x, y = cloud(5, 90, 0.4), cloud(6, 70)
    peer = prc_features_to_metric(
        x.double(), y.double(), prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=False, verbose=False
    )
    assert precision_recall(x, y, 3) == pytest.approx((peer["precision"], peer["recall"]), abs=1e-6)


def test_too_few_images_have_a_reason():
    with pytest.raises(UnmeasurableError, match="3 neighbours"):
        precision_recall(cloud(0, 3), cloud(1, 80), 3)
