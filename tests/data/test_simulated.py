"""Series and volumes have the statistics that they state."""

import math

import numpy as np
import pytest
import torch

from diffusion_lab.data.simulated import Ellipsoids, Oscillators


def test_oscillators_have_their_variance_and_correlation():
    data = Oscillators(4, 0, length=16, num_train=20_000, num_test=2, together=0.7, damping=0.8)
    x = torch.cat([x for x, _ in data.batches("train", 4096)]).double()
    variance = torch.exp(-2 * 0.8 * torch.arange(16, dtype=torch.float64) / 16)
    assert x.mean(0).abs().max() < 5 / math.sqrt(len(x))
    assert torch.allclose((x**2).mean(0), variance.expand(2, 16), rtol=5 * math.sqrt(2 / len(x)))
    assert float((x[:, 0] * x[:, 1] / variance).mean()) == pytest.approx(0.4, abs=0.03)


def test_the_modes_of_oscillators_have_their_frequencies():
    data = Oscillators(4, 0, length=256, cycles=(5, 5), coupling=3, damping=0, num_train=50, num_test=2)
    x = next(data.batches("train", 50))[0].numpy()
    for mode, cycles in ((x[:, 0] + x[:, 1], 5), (x[:, 0] - x[:, 1], 10)):
        power = np.abs(np.fft.rfft(mode)) ** 2
        assert (power.argmax(1) == cycles).all()
        assert (power[:, cycles] > 0.99 * power.sum(1)).all()


def test_ellipsoids_have_their_volume_and_lie_inside():
    data = Ellipsoids(4, 0, num_train=1000, num_test=2)
    x = torch.cat([x for x, _ in data.batches("train", 256)])
    shares = (x > 0).double().flatten(1).mean(1)
    share_inside = 4 * math.pi / 3 * (sum(data.radii) / 2) ** 3 / data.side**3
    assert abs(float(shares.mean()) - share_inside) < 4 * float(shares.std()) / math.sqrt(len(shares))
    border = torch.ones(16, 16, 16, dtype=torch.bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert (x[:, 0, border] > 0).double().mean() < 0.005
    assert x.min() >= -1
    assert x.max() <= 1
