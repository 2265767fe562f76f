import math

import pytest
import torch

from diffusion_lab.data import DataError
from diffusion_lab.data.clusters import Clusters, GradientClusters
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.in_memory import InMemoryDataModule, Split


def features(x):
    return GradientClusters(2, 5, 10).features(x)


def by_cell(x):
    """φ² of images of 28 × 28 or more: (B, 8, 7, 7)."""
    return features(x).square().reshape(-1, 8, 7, 7)


@pytest.fixture
def images():
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("degrees", [0, 10, 45, 60, 90, 135, 170, 200])
def test_a_slope_counts_for_its_orientation_alone(degrees):
    theta = math.radians(degrees)
    down, right = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    cell = by_cell((math.cos(theta) * right + math.sin(theta) * down)[None, None])[0, :, 3, 3]
    place = degrees % 180 / 22.5
    expected = torch.zeros(8, dtype=torch.float64)
    expected[int(place) % 8] += 1 - place % 1
    expected[(int(place) + 1) % 8] += place % 1
    torch.testing.assert_close(cell / cell.sum(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("contrast", "brightness"), [(0.3, 0.0), (1.0, 0.5), (-1.0, 0.0)])
def test_brightness_and_contrast_do_not_count(images, contrast, brightness):
    torch.testing.assert_close(features(contrast * images + brightness), features(images), atol=1e-3, rtol=0)


def test_they_have_length_one(images):
    torch.testing.assert_close(features(images).norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_a_quarter_turn_turns_cells_and_orientations(images):
    turned = by_cell(images.rot90(1, (2, 3)))
    torch.testing.assert_close(turned, by_cell(images).rot90(1, (2, 3)).roll(4, 1), atol=1e-6, rtol=0)


def test_of_several_channels_the_steepest_counts(images):
    flat = torch.zeros_like(images)
    torch.testing.assert_close(features(torch.cat([flat, images, images / 2], dim=1)), features(images))


def test_an_image_without_gradients_has_no_features(images):
    both = features(torch.cat([torch.ones(1, 1, 28, 28), images[:1]]))
    assert both[0].eq(0).all()
    assert both[1].ne(0).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (1, 8, 8), (3, 32, 20), (3, 5, 64)])
def test_images_of_any_size_have_them(shape):
    x = torch.rand(1001, *shape)
    cells = min(7, shape[1]) * min(7, shape[2])
    assert features(x).shape == (1001, 8 * cells)
    torch.testing.assert_close(features(x[1000:]), features(x)[1000:])  # whatever is looked at together


def test_points_have_no_gradients():
    with pytest.raises(DataError, match="works for images; use labels=clusters for points"):
        features(torch.rand(5, 2))


def test_every_cluster_has_an_image():
    """There are two outlines; only rounding makes more different features, which k-means cannot tell apart."""
    with pytest.raises(DataError, match=r"only [2-4] images with distinct features"):
        clustered_bars(GradientClusters(5, 50, 1000))


def clustered_bars(clusters):
    data = Bars(batch_size=1, seed=0)
    data.use_cluster_labels(clusters)
    data.prepare()
    return data


class Bars(InMemoryDataModule):
    """Every second image has upright bars, the others level ones, of any contrast but none and any brightness."""

    name, num_classes, num_levels = "bars", None, 256

    def _read(self):
        generator = torch.Generator().manual_seed(0)
        bars = (torch.arange(12) // 3 % 2).expand(200, 1, 12, 12).clone()
        bars[1::2] = bars[1::2].transpose(2, 3).clone()
        contrast, brightness = torch.randint(-60, 60, (2, 200, 1, 1, 1), generator=generator)
        contrast[contrast == 0] = 60  # without contrast there is no outline to tell
        images = (bars * contrast + brightness + 128).to(torch.uint8)
        return Split(images, None), Split(images.clone(), None)


@pytest.mark.parametrize(("kind", "tells"), [(GradientClusters, True), (Clusters, False)])
def test_they_tell_outlines_whatever_the_brightness(kind, tells):
    y = next(clustered_bars(kind(2, 50, 1000)).batches("test", 200))[1]
    upright, level = (y[start::2].bincount(minlength=2) for start in (0, 1))
    both_in_one_cluster = (upright * level).sum() > 0
    assert both_in_one_cluster == (not tells)


def test_they_come_nearer_to_the_classes_of_digits_than_pixels_do():
    plain = Digits(batch_size=1, seed=0)
    plain.prepare()
    labels = torch.cat([y for _, y in plain.batches("train", 2000)])

    def share_of_the_largest_class(clusters):
        data = Digits(batch_size=1, seed=0)
        data.use_cluster_labels(clusters)
        data.prepare()
        found = torch.cat([y for _, y in data.batches("train", 2000)])
        pairs = (10 * found + labels).bincount(minlength=100).reshape(10, 10)
        return float(pairs.max(1).values.sum() / len(labels))

    assert share_of_the_largest_class(GradientClusters(10, 50, 2000)) > 0.85
    assert share_of_the_largest_class(Clusters(10, 50, 2000)) < 0.85
