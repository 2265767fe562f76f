from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.metrics.error_by_log_snr import errors_by_log_snr
from diffusion_lab.metrics.metric import Subject
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import silent
from diffusion_lab.models.diffusion_generator import Denoised
from tests.diffusion.oracles import posterior_mean

from .stand_ins import GaussianModel, TinyImages

LOG_SNRS = [6.0, 2.0, -2.0, -6.0]


def pair(log_snr):
    """α and σ with α² + σ² = 1."""
    share = torch.tensor(log_snr, dtype=torch.float64).sigmoid()
    return float(share.sqrt()), float((1 - share).sqrt())


class Denoiser(GaussianModel):
    """x̂_0 = the best there is, and a constant more."""

    def __init__(self, data, more=0.0, **of_model):
        super().__init__(**of_model)
        self.data, self.more = data, more

    def denoise(self, x_0, y, seed, indices, log_snr):
        signal, noise = pair(log_snr)
        eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed + int(indices[0])))
        x_t = signal * x_0 + noise * eps
        images, labels = self.data.splits["train"]
        rows = []
        for i, row in enumerate(x_t.flatten(1).double()):
            among = images.flatten(1).double()[slice(None) if y is None else labels == y[i]]
            rows.append(posterior_mean(row[None], signal, noise, among)[0])
        return Denoised(x_t, signal, noise, torch.stack(rows).view_as(x_0) + self.more, y)


class OfDenoiser(Subject):
    diffusion = Subject.generator


@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_best_denoiser_has_no_excess_and_another_has_what_it_adds(num_classes):
    """The posterior mean's error is orthogonal to a constant on average only, so the excess is (1 + SNR)·c² up to noise."""
    data = TinyImages()
    data.prepare()

    def errors_of(model):
        subject = OfDenoiser(SimpleNamespace(generator=model), data, [], Evaluation(seed=1), silent)
        return errors_by_log_snr(subject, LOG_SNRS, 40, 16)

    errors, least = errors_of(Denoiser(data, num_classes=num_classes))
    assert errors == pytest.approx(least, rel=1e-6)
    worse, same = errors_of(Denoiser(data, more=10.0, num_classes=num_classes))
    assert same == pytest.approx(least)
    for log_snr, a, b in zip(LOG_SNRS, worse, same, strict=True):
        snr = torch.tensor(log_snr).exp()
        assert a - b == pytest.approx(float((1 + snr) * 100), rel=0.05)
