import math

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.build import build_training_data
from diffusion_lab.data import DataError
from diffusion_lab.data.clusters import Clusters
from diffusion_lab.data.densities import RingMixture
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.metrics.measuring import check_classes

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
    data.use_cluster_labels(Clusters(num_clusters, 50, num_images))
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
    assert data.clusters.name == "4 clusters of 30 images, 30 components"


def test_the_bits_of_all_clusters_are_a_code() -> None:
    clusters = clustered().clusters
    assert (2 ** -clusters.bits(torch.arange(3))).sum() == pytest.approx(1)
    assert clusters.shares.min() > 0


@pytest.mark.parametrize("options", [(1, 50, 100), (3, 0, 100), (3, 50, 0)])
def test_impossible_numbers_are_refused(options: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match=r"labels\.num_"):
        Clusters(*options)


def test_more_clusters_than_images_are_refused() -> None:
    data = Digits(batch_size=1, seed=0)
    data.train_on(30)
    with pytest.raises(DataError, match=r"labels.num_clusters=40: only 30 images with distinct features"):
        clustered(40, 500, data)


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
    with pytest.raises(ValueError, match=r"class \d+ has fewer: use start=noise, or a smaller labels.num_clusters"):
        check_classes(clustered(25, 500, data))
    check_classes(clustered(2, 500, Digits(1, 0)))


def test_the_clusters_of_digits_are_the_same_everywhere() -> None:
    """A model on clusters is found again on another machine: so far with scikit-learn 1.5 to 1.9, four kernels of BLAS."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["labels=clusters"])
    data = build_training_data(cfg)
    assert data.num_classes == 30
    assert data.clusters.identity.startswith("f7602535b0d3")
