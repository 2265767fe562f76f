"""One pass for all who ask, which a fault only delays."""

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusion_lab.conditions import Clusters
from diffusion_lab.metrics.network_measurements import LARGEST, SHARD_IMAGES, Measurements, data_moments
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.metrics.stored import silent
from diffusion_lab.store import CacheDirectory

from .stand_ins import GaussianModel, TinyImages


class Measuring(GaussianModel):
    """Says of each image what it is, and counts the images that it is asked about."""

    def __init__(self, num_classes=None, mean=0.0):
        super().__init__(num_classes, mean)
        self.asked = 0

    def measure(self, x_0, y, seed, indices):
        assert not torch.is_grad_enabled()
        assert (y is None) == (self.num_classes is None)
        self.asked += len(x_0)
        rows = [x_0.double().flatten(1).sum(dim=1), indices.double(), self.mean.double().expand(len(x_0))]
        return {"rows": torch.stack(rows, dim=1)}


def measured(tmp_path, model=None, num_images=40, identity="mine", data=None, facts=None):
    model, measurements = model or Measuring(), Measurements(False, None, False, num_images, identity, "tiny")
    about = facts or {}, model, data or TinyImages(), CacheDirectory(tmp_path), silent, "train"
    return measurements._means(type(model).measure, *about), model.asked


def shards(tmp_path):
    return sorted(tmp_path.glob("statistics/*/*.safetensors"))


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("num_images", [SHARD_IMAGES, 40, 300, 1000])
def test_the_means_are_those_of_the_first_training_images_each_with_its_index(tmp_path, num_images, num_classes):
    data = TinyImages()
    x_0, _ = next(data.batches("train", 300, limit=num_images))
    found, asked = measured(tmp_path, Measuring(num_classes), num_images)
    assert asked == len(x_0) == min(300, num_images)
    expected = torch.tensor([float(x_0.double().flatten(1).sum(1).mean()), (len(x_0) - 1) / 2, 0.0]).double()
    torch.testing.assert_close(found.means["rows"], expected, rtol=1e-12, atol=1e-6)
    assert found.about.startswith(f"{len(x_0)} training images, ")


def test_who_asks_again_measures_nothing(tmp_path):
    first, _ = measured(tmp_path)
    again, asked = measured(tmp_path)
    assert asked == 0
    assert again.about == first.about
    torch.testing.assert_close(again.means, first.means, rtol=0, atol=0)


def test_a_pass_that_was_stopped_goes_on(tmp_path):
    class Stopped(Measuring):
        def measure(self, x_0, y, seed, indices):
            if self.asked:
                raise KeyboardInterrupt
            return super().measure(x_0, y, seed, indices)

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, Stopped())
    assert len(shards(tmp_path)) == 1
    found, asked = measured(tmp_path)
    assert asked == 40 - SHARD_IMAGES
    torch.testing.assert_close(found.means, measured(tmp_path / "at once")[0].means, rtol=0, atol=0)


def test_other_weights_images_data_and_code_are_measured_for_themselves(tmp_path):
    before, _ = measured(tmp_path)
    changes = [{"model": Measuring(mean=1.0)}, {"facts": {"of": "x"}}, {"identity": "other"}, {"num_images": 64}]
    for number, change in enumerate([*changes, {"data": TinyImages(seed=1)}], start=2):
        found, asked = measured(tmp_path, **change)
        assert asked == change.get("num_images", 40)
        assert len(list((tmp_path / "statistics").iterdir())) == number
        assert float(found.means["rows"][2]) == ("model" in change)
    assert (tmp_path / "statistics").joinpath(shards(tmp_path)[0].parent.name).name.startswith("tiny-")
    assert measured(tmp_path)[0].about == before.about


# ---- mean and covariance of the data ----


def covariance_of(moments):
    return moments.basis @ moments.eigenvalues.diag() @ moments.basis.T


def images(data):
    x, y = data.splits["train"]
    return x.flatten(1).double(), y


def test_without_classes_they_are_those_of_all_training_images(tmp_path):
    data = TinyImages()
    found = data_moments(data, False, CacheDirectory(tmp_path))
    x, _ = images(data)
    torch.testing.assert_close(found.mean, x.mean(dim=0, keepdim=True))
    torch.testing.assert_close(covariance_of(found), torch.cov(x.T))
    assert found.of == f"300 training images, {data.identity[:12]}"
    reads = data.reads
    data_moments(data, False, CacheDirectory(tmp_path))
    assert data.reads == reads, "they are computed once"


def test_by_class_there_is_a_mean_for_each_and_the_covariance_within(tmp_path):
    data = TinyImages()
    with Shapes() as made:
        found = data_moments(data, True, CacheDirectory(tmp_path))
    x, y = images(data)
    means = torch.stack([x[y == label].mean(dim=0) for label in range(3)])
    centred = x - means[y]
    torch.testing.assert_close(found.mean, means)
    torch.testing.assert_close(covariance_of(found), centred.T @ centred / (len(x) - 3))
    # No class has a covariance of its own: those of CIFAR-100 would take 7.5 GB.
    kept = {tuple(tensor.shape) for file in tmp_path.glob("[!.]*") for tensor in load_file(file).values()}
    assert kept == {(), (3,), (4,), (3, 4), (4, 4)}
    assert made.shapes.isdisjoint({(3, 4, 4), (3, 5, 5)})


class Shapes(TorchDispatchMode):
    """Of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.shapes |= {tuple(part.shape) for part in tree_leaves(result) if isinstance(part, torch.Tensor)}
        return result


@pytest.mark.parametrize("by_class", [False, True])
def test_images_of_one_value_have_them_too(tmp_path, by_class):
    data = OneValue()
    found = data_moments(data, by_class, CacheDirectory(tmp_path))
    assert found.mean.shape == ((3 if by_class else 1), 1)
    x, y = images(data)
    centred = x - (torch.stack([x[y == label].mean() for label in range(3)])[y, None] if by_class else x.mean())
    torch.testing.assert_close(covariance_of(found), centred.T @ centred / (len(x) - (3 if by_class else 1)))


def test_those_of_other_clusters_of_the_same_name_do_not_serve(tmp_path):
    """As another version of scikit-learn finds them."""

    def means(kind):
        data = TinyImages()
        data.condition_on({"clusters": kind(3, 4, 300)})
        return data_moments(data, True, CacheDirectory(tmp_path)).mean, data.clusters

    class Numbered(Clusters):
        """The same clusters, numbered from the end."""

        def find(self, x):
            super().find(x)
            self._centres, self.identity = self._centres.flip(0), "another"

    (first, clusters), (second, other) = means(Clusters), means(Numbered)
    assert clusters.description == other.description
    torch.testing.assert_close(second, first.flip(0))


class OneValue(TinyImages):
    """The first value of each image."""

    shape = (1, 1, 1)

    def _load(self):
        super()._load()
        self.splits = {split: (x[:, :, :1, :1], y) for split, (x, y) in self.splits.items()}


class Large(TinyImages):
    shape = (1, 128, 128)


class LackingOne(TinyImages):
    num_classes = 4


@pytest.mark.parametrize(
    ("data", "said"),
    [(Large, f"16384 values, more than {LARGEST}: use start=noise"), (LackingOne, "class 3 has fewer")],
)
def test_what_has_none_is_refused_in_one_sentence(tmp_path, data, said):
    with pytest.raises(UnmeasurableError, match=said):
        data_moments(data(), True, CacheDirectory(tmp_path))
