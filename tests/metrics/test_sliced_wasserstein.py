"""The sliced Wasserstein distance of patches, against scipy and against what theory says of it."""

from math import prod

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.metrics.sliced_wasserstein import (
    enlarged,
    laplacian_pyramid,
    normalised,
    sampled_patches,
    sliced_wasserstein,
)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_pyramid_is_that_of_the_binomial_filter_with_mirrored_edges():
    x = noise(0, 2, 3, 64, 64)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / 256
    smaller = ndimage.convolve(x.numpy(), kernel, mode="mirror")[:, :, ::2, ::2]
    wide = np.zeros(x.shape, np.float32)
    wide[:, :, ::2, ::2] = smaller
    first, second, third = laplacian_pyramid(x)
    assert first.numpy() == pytest.approx(x.numpy() - ndimage.convolve(wide, 4 * kernel, mode="mirror"), abs=1e-5)
    assert (second.shape[-1], third.shape[-1]) == (32, 16)


@pytest.mark.parametrize("shape", [(64, 64), (33, 70), (32, 100), (40, 16), (8, 8), (70,), (32, 33, 34)])
def test_the_bands_sum_up_to_the_image(shape):
    x = noise(0, 2, 2, *shape)
    bands = laplacian_pyramid(x)
    assert all(min(band.shape[2:]) >= min(16, *shape) for band in bands)
    assert min(bands[-1].shape[2:]) < 32
    again = bands[-1]
    for band in reversed(bands[:-1]):
        again = band + enlarged(again, band.shape[2:])
    torch.testing.assert_close(again, x)


def test_a_patch_is_cut_out_of_its_image():
    x = torch.arange(3 * 2 * 9 * 8.0).view(3, 2, 9, 8)
    patches = sampled_patches(x, 5, torch.Generator().manual_seed(0))
    windows = x.unfold(2, 7, 1).unfold(3, 7, 1).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    for number, patch in enumerate(patches):
        assert (patch == windows[number // 5]).flatten(1).all(1).any()


@pytest.mark.parametrize("sides", [(40,), (9, 33), (8, 9, 8)])
def test_it_works_along_any_number_of_axes(sides):
    """Larger where the spectrum differs than between two draws of one."""
    x, y = (noise(seed, 60, 2, *sides) for seed in (0, 1))
    constant = y.flatten(2)[:, :, :1].expand(-1, -1, prod(sides)).reshape(y.shape)
    alike, other = (sum(sliced_wasserstein(x, each, 16, 0).values()) for each in (y, constant))
    assert alike < 0.5 * other


def test_each_channel_of_a_set_has_mean_0_and_deviation_1():
    patches = noise(0, 50, 2, 7, 7) * torch.tensor([3.0, 0.1])[:, None, None] + 5
    patches[:, 1] = 4.0
    flat = normalised(patches).view(50, 2, 49)
    assert flat[:, 0].mean().abs() < 1e-5
    assert flat[:, 0].square().mean() == pytest.approx(1, abs=1e-4)
    assert not flat[:, 1].any()


def test_it_is_the_mean_of_wasserstein_distances_along_directions():
    """Of images of one patch each nothing is drawn but the directions, which scipy is given too."""
    x, y = noise(0, 30, 1, 7, 7), noise(1, 30, 1, 7, 7) ** 3
    (found,) = sliced_wasserstein(x, y, patches=1, seed=4).values()
    generator = torch.Generator().manual_seed(4)
    sets = [normalised(sampled_patches(part, 1, generator)).numpy() for part in (x, y)]
    expected = []
    for _ in range(4):
        directions = torch.randn(49, 128, generator=generator)
        directions = (directions / directions.norm(dim=0)).numpy()
        projected = [part @ directions for part in sets]
        expected += [stats.wasserstein_distance(a, b) for a, b in zip(projected[0].T, projected[1].T, strict=True)]
    assert found == pytest.approx(1000 * np.mean(expected), rel=1e-4)


def test_it_sees_blur_in_the_fine_band_and_neither_brightness_nor_contrast():
    x, y = noise(0, 20, 1, 32, 32), noise(1, 20, 1, 32, 32)
    floor = sliced_wasserstein(x, y, 128, seed=0)
    assert list(floor) == ["32x32", "16x16"]
    again = sliced_wasserstein(x, 0.5 * y + 0.3, 128, seed=0)
    assert list(again.values()) == pytest.approx(list(floor.values()), rel=1e-4)
    blurred = sliced_wasserstein(x, torch.nn.functional.avg_pool2d(y, 3, 1, 1), 128, seed=0)
    assert blurred["32x32"] - floor["32x32"] > 3 * abs(blurred["16x16"] - floor["16x16"])
    assert blurred["32x32"] > 1.5 * floor["32x32"]


def test_images_smaller_than_a_patch_have_none():
    with pytest.raises(UnmeasurableError, match="patches of 7×7 pixels do not fit into images of 8×6"):
        sliced_wasserstein(noise(0, 3, 1, 6, 8), noise(0, 3, 1, 6, 8), 4, seed=0)
