import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusion_lab.conditions import Clusters
from diffusion_lab.metrics.network_measurements import LARGEST, data_moments
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store import CacheDirectory

from .stand_ins import TinyImages


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
