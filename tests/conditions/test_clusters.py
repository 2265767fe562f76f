"""Clusters of images stand in for classes: of pixels, and of gradients."""

import math

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffusion_lab.conditions import Clusters, GradientClusters
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.build import build_training_data
from diffusion_lab.data.densities import RingMixture
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.metrics.network_measurements import check_classes

GROUPS, EACH = 4, 50


class Groups(InMemoryDataModule):
    """Points around four corners, far from each other; every second image lies in the first group."""

    name, num_classes, num_levels = "groups", None, 256

    def _read(self) -> tuple[Split, Split]:
        generator = torch.Generator().manual_seed(0)
        group = torch.arange(GROUPS * EACH) % GROUPS * (torch.arange(GROUPS * EACH) % 2)
        corners = torch.tensor([[40, 40], [40, 200], [200, 40], [200, 200]])
        noise = torch.randint(-9, 10, (len(group), 2), generator=generator)
        levels = (corners[group] + noise).to(torch.uint8).reshape(-1, 1, 1, 2)
        self.group = group
        return Split(levels, None), Split(levels.clone(), None)


def clustered(num_clusters: int = 3, num_images: int = 1000, data: InMemoryDataModule | None = None, **options):
    data = data or Groups(batch_size=20, seed=0, **options)
    data.condition_on({"clusters": Clusters(num_clusters, 50, num_images)})
    data.prepare()
    return data


def test_groups_that_lie_apart_are_the_clusters() -> None:
    data = clustered()
    _, y = next(data.batches("train", GROUPS * EACH))
    assert data.num_classes == 3  # the fourth corner has no image
    assert len({*zip(y.tolist(), data.group.tolist(), strict=True)}) == 3
    torch.testing.assert_close(y.bincount().double() / len(y), data.class_shares("train"), atol=0.01, rtol=0)


def test_they_are_the_same_each_time_and_whatever_the_batches() -> None:
    data, again = (clustered(8, 700, Digits(batch_size=7, seed=seed)) for seed in (1, 2))
    whole = torch.cat([y for _, y in data.batches("test", 360)])
    assert torch.equal(whole, torch.cat([y for _, y in again.batches("test", 7)]))


def test_a_mirrored_image_keeps_the_cluster_of_the_image() -> None:
    data = clustered(flip=True)
    order = torch.cat([y for _, y in data.batches("train", 500)])
    images = torch.cat([x for x, _ in data.batches("train", 500)]).flatten(1)
    batches = iter(data.train_dataloader())
    turned = 0
    for _ in range(10):
        for x, y in zip(*next(batches), strict=True):
            upright = (images == x.flatten()).all(1)
            turned += not upright.any()
            same = upright if upright.any() else (images == x.flatten().flip(0)).all(1)
            assert y in order[same]
    assert turned > 50


def test_the_images_stay_those_of_the_data() -> None:
    plain, data = Digits(batch_size=1, seed=0), clustered(5, 500, Digits(batch_size=1, seed=0))
    plain.prepare()
    assert data.identity == plain.identity
    assert torch.equal(next(data.batches("test", 50))[0], next(plain.batches("test", 50))[0])


def test_the_shares_of_the_classes_are_those_of_the_split() -> None:
    data = Digits(batch_size=1, seed=0)
    shares = data.class_shares("test")
    y = next(data.batches("test", 360))[1]
    assert shares.tolist() == [float((y == k).double().mean()) for k in range(10)]
    assert Groups(batch_size=1, seed=0).class_shares("train") is None


def test_only_images_that_training_shows_are_looked_at() -> None:
    data = Digits(batch_size=1, seed=0)
    data.train_on(30)
    data = clustered(4, 500, data)
    assert data.clusters.description == "4 clusters of 30 images, 30 components"


def test_the_bits_of_all_clusters_are_a_code() -> None:
    clusters = clustered().clusters
    assert (2 ** -clusters.bits(torch.arange(3))).sum() == pytest.approx(1)
    assert clusters.shares.min() > 0


def test_more_clusters_than_images_are_refused() -> None:
    data = Digits(batch_size=1, seed=0)
    data.train_on(30)
    with pytest.raises(ValueError, match=r"condition.clusters.num_clusters=40: only 30 images with distinct features"):
        clustered(40, 500, data)


@pytest.mark.parametrize("kind", [Clusters, GradientClusters])
def test_missing_values_have_no_clusters(kind):
    with pytest.raises(ValueError, match="no clusters are found in data with missing values"):
        kind(2, 2, 10).find(torch.full((10, 1, 4, 4), torch.nan))


def test_large_images_are_clustered_by_fewer() -> None:
    clusters = Clusters(10, 50, 20_000)
    assert clusters.most_images(784) == 20_000
    assert clusters.most_images(3 * 256 * 256) < 200
    assert clusters.most_images(10**9) == 10
    assert math.log2(clusters.most_images(12288) * 12288) <= 25


def test_what_a_model_is_told_tells_clusters_from_labels() -> None:
    told = [
        data.training_identity
        for data in (clustered(5, 500, Digits(1, 0)), clustered(6, 500, Digits(1, 0)), clustered(5, 700, Digits(1, 0)))
    ]
    plain = Digits(1, 0)
    plain.prepare()
    assert plain.training_identity == plain.identity
    assert len({*told, plain.training_identity}) == 4
    assert clustered(5, 500, Digits(3, 1)).training_identity == told[0]


def test_a_known_density_stays_what_it_is() -> None:
    plain, data = RingMixture(1, 0), clustered(5, 500, RingMixture(1, 0))
    x = next(data.batches("test", 50))[0]
    assert data.entropy_bits() == plain.entropy_bits()
    assert torch.equal(data.log_prob(x), plain.log_prob(x))


def test_two_images_of_each_cluster_are_needed_for_their_moments() -> None:
    data = Digits(1, 0)
    data.train_on(30)
    with pytest.raises(ValueError, match=r"class \d+ has fewer: use start=noise, or fewer clusters"):
        check_classes(clustered(25, 500, data))
    check_classes(clustered(2, 500, Digits(1, 0)))


def test_the_clusters_of_digits_are_the_same_everywhere() -> None:
    """A model on clusters is found again on another machine: so far with scikit-learn 1.5 to 1.9, four kernels of BLAS."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["condition=clusters"])
    data = build_training_data(cfg)
    assert data.num_classes == 30
    assert data.clusters.identity.startswith("f7602535b0d3")


# ---- gradients ----


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
    with pytest.raises(ValueError, match="works for images only; use condition=clusters"):
        features(torch.rand(5, 2))


def test_every_cluster_has_an_image():
    """There are two outlines; only rounding makes more different features, which k-means cannot tell apart."""
    with pytest.raises(ValueError, match=r"only [2-4] images with distinct features"):
        clustered_bars(GradientClusters(5, 50, 1000))


def clustered_bars(clusters):
    data = Bars(batch_size=1, seed=0)
    data.condition_on({"clusters": clusters})
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
        data.condition_on({"clusters": clusters})
        data.prepare()
        found = torch.cat([y for _, y in data.batches("train", 2000)])
        pairs = (10 * found + labels).bincount(minlength=100).reshape(10, 10)
        return float(pairs.max(1).values.sum() / len(labels))

    assert share_of_the_largest_class(GradientClusters(10, 50, 2000)) > 0.85
    assert share_of_the_largest_class(Clusters(10, 50, 2000)) < 0.85
