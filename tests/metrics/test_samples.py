import pytest
import torch

from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.metrics.samples import KEPT_IMAGES, KEPT_VALUES, Samples, num_kept


def test_samples_that_are_not_finite_have_no_moments():
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    moments = Samples(features[:4], features, 0, None).moments("cpu")
    torch.testing.assert_close(moments.dense(), features.double().T.cov())
    with pytest.raises(UnmeasurableError, match="2 of 40 samples are not finite"):
        Samples(features[:4], features, 2, None).moments("cpu")


def test_fewer_large_images_are_kept():
    assert num_kept((1, 8, 8)) == KEPT_VALUES // 64
    assert num_kept((3, 1024, 1024)) == KEPT_IMAGES
