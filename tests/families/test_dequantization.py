"""From a density to grey levels: the scale is exact, the bound is one."""

import math

import pytest
import torch

from diffusion_lab.diffusion import Gaussian, SampleNoise
from diffusion_lab.diffusion.bound import in_bits, in_nats
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.families.flow.couplings import standard_normal_log_prob
from diffusion_lab.families.flow.flow import (
    dequantise,
    scale_bits,
    undo,
    uniform_from_normal,
)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_bins_are_the_levels_and_every_level_comes_back(num_levels):
    levels = torch.arange(num_levels)
    x = from_levels(levels, num_levels)
    for u in (0.001, 0.25, 0.5, 0.999):
        y = dequantise(x, torch.full((num_levels,), u), num_levels)
        torch.testing.assert_close(y, 2 * (levels + u) / num_levels - 1, rtol=0, atol=1e-6)
        assert torch.equal(((y + 1) / 2 * num_levels).floor().long(), levels)
        assert torch.equal(to_levels(undo(y, num_levels), num_levels).long(), levels)
    middle = dequantise(x, torch.full((num_levels,), 0.5), num_levels)
    torch.testing.assert_close(undo(middle, num_levels), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_the_identity_flow_on_uniform_data_has_exactly(num_levels):
    """The identity flow on uniform data has exactly the bits of its levels.

    A uniform density on [−1, 1)^D, log p(y) = −D·log 2.
    """
    bits = in_bits(torch.full((3,), 64 * math.log(2), dtype=torch.float64), 64) + scale_bits(num_levels)
    torch.testing.assert_close(bits, torch.full_like(bits, math.log2(num_levels)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("std", [0.05, 0.3, 2.0])
def test_the_mean_over_the_noise_is_a_bound(std):
    """The mean over the noise is a bound on the mass of a level.

    E_u log p(x + u) ≤ log P(x), with P by the density's own distribution function; equal where p is flat in the bin.
    """
    num_levels = 17
    x = from_levels(torch.arange(num_levels), num_levels).double()[:, None]
    u = (torch.arange(20000, dtype=torch.float64) + 0.5)[None] / 20000
    y = dequantise(x.expand(-1, 20000), u.expand(num_levels, -1), num_levels)
    density = Gaussian(torch.zeros_like(y), torch.full_like(y, 2 * math.log(std)))
    bound = in_bits(-density.log_prob(y).mean(1)) + scale_bits(num_levels)
    edges = 2 * torch.arange(num_levels + 1, dtype=torch.float64) / num_levels - 1
    mass = torch.special.ndtr(edges / std).diff()
    gap = (bound + mass.log2())[mass > 1e-6]  # a difference of distribution functions has no digits far out
    assert float(gap.min()) >= -1e-6
    assert (float(gap.max()) < 0.001) == (std == 2.0)


def test_bits_are_nats_over_dimensions_and_log_two():
    assert in_bits(6 * math.log(2), 3) == pytest.approx(2)
    assert in_nats(in_bits(1.7, 5), 5) == pytest.approx(1.7)
    z = torch.tensor([[0.3, -1.2, 2.0]])
    expected = Gaussian(torch.zeros(1, 3), torch.zeros(1, 3)).log_prob(z).sum()
    assert float(standard_normal_log_prob(z)) == pytest.approx(float(expected), rel=1e-6)


def test_keyed_uniform_noise_is_uniform():
    u = uniform_from_normal(SampleNoise(0, torch.arange(500))(1, torch.zeros(500, 40, dtype=torch.float64)))
    counts = torch.histc(u, 10, 0, 1) / 2000
    assert float((counts - 1).abs().max()) < 0.1
    assert 0 <= float(u.min()) < 1e-3 < 0.999 < float(u.max()) <= 1
