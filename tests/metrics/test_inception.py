import pytest
import torch
import torch_fidelity
from torch.nn import functional as F  # noqa: N812

from diffusion_lab.data.densities import GaussianField
from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.metrics.features import inception
from diffusion_lab.metrics.features.inception import InceptionFeatures, InceptionSpatialFeatures
from diffusion_lab.metrics.frechet_distance import FrechetDistance
from diffusion_lab.metrics.inception_score import InceptionScore
from diffusion_lab.metrics.kernel_distance import KernelDistance
from diffusion_lab.metrics.metric import Naming
from diffusion_lab.metrics.precision_recall import PrecisionRecall
from diffusion_lab.metrics.score import check_measures
from diffusion_lab.report.drawing import to_uint8
from tests.metrics.stand_ins import Silent
from tests.metrics.test_score import scored


@pytest.fixture(scope="module")
def features(random_inception) -> InceptionFeatures:
    return InceptionFeatures(**random_inception._asdict())


@pytest.mark.parametrize(("shape", "said"), [([1, 16, 16], "has real numbers"), ([1, 16], "have shape")], ids=str)
def test_features_of_images_refuse_other_data(features: InceptionFeatures, shape: list[int], said: str) -> None:
    field = GaussianField(1, 0, shape=shape, num_train=2, num_test=2)
    with pytest.raises(ValueError, match=f"features=inception .*{said}.*features=pixels"):
        check_measures([features], [], field)


def pictures(seed: int, contrast: float, brightness: float, n: int = 12) -> torch.Tensor:
    """Smooth coloured images (n, 3, 32, 32) on 256 levels."""
    blobs = contrast * torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) + brightness
    return from_levels(to_levels(F.interpolate(blobs, size=32, mode="bilinear").tanh(), 256), 256)


class Coloured(DataModule):
    """Twelve training images; two for the floor."""

    name, shape, num_levels, num_classes, num_train, num_test = "coloured", (3, 32, 32), 256, None, 12, 2
    identity = "c" * 64

    def __init__(self) -> None:
        super().__init__(batch_size=8, seed=0)

    def _load(self) -> None:
        self.images = {"train": pictures(1, 1.5, 0.3), "test": pictures(2, 1.0, 0.0, n=2)}

    def _classes(self, split):
        return None

    def _show(self, split, picks):
        for indices in picks:
            yield self.images[split][indices], {}


class Painter(Silent):
    """Sample i is picture i."""

    def __init__(self) -> None:
        super().__init__(shape=(3, 32, 32), num_levels=256)
        self.pictures = pictures(0, 1.0, 0.0)

    def sample(self, indices, seed, y=None):
        return self.pictures[indices]


class AsBytes(torch.utils.data.Dataset):
    def __init__(self, x: torch.Tensor) -> None:
        self.x = to_uint8(x, 256)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.x[i]


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_scores_are_those_of_torch_fidelity(features, random_inception, tmp_path, monkeypatch):
    """Its KID is float32, three means of order 1 that cancel: the two sets are far enough apart to leave six digits."""
    assert features.metric_name == "fd_inception"  # with these weights; but let them be the published ones
    monkeypatch.setattr(inception, "SHA256", random_inception.sha256)
    metrics = [FrechetDistance(), KernelDistance(num_subsets=5, subset_size=10), PrecisionRecall(), InceptionScore()]
    scores = scored(tmp_path, Painter(), Coloured(), [features], metrics, num_samples=12, seed=3)
    theirs = torch_fidelity.calculate_metrics(
        input1=AsBytes(pictures(0, 1.0, 0.0)),
        input2=AsBytes(pictures(1, 1.5, 0.3)),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=random_inception.path,
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        kid_subsets=5,
        kid_subset_size=10,
        rng_seed=3,
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
    )
    for ours, name in (
        ("fid", "frechet_inception_distance"),
        ("kid", "kernel_inception_distance_mean"),
        ("inception_score", "inception_score_mean"),
        ("inception_score_std", "inception_score_std"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert scores.values[ours] == pytest.approx(theirs[name], rel=1e-5), ours
    assert scores.values["fid"] > 1
    assert scores.values["inception_score"] > 1.001
    assert not any(name.startswith(("fd_", "kd_")) for name in scores.values)
    assert "fid_floor" in scores.values
    assert scores.protocol["features"] == {"name": "inception", "identity": random_inception.sha256}
    assert scores.protocol["inception_score"] == {"num_parts": 10}


@pytest.fixture(scope="module")
def spatial(features) -> InceptionSpatialFeatures:
    (part,) = features.beside()
    return part


def test_spatial_features_are_seven_channels_of_a_layer_place_by_place(spatial):
    """The network up to Mixed_6c, then convolution, batch normalisation and ReLU as equations; rows of places, channels last."""
    x, network = pictures(0, 1.0, 0.0, n=2), spatial.network
    found = spatial(x)
    assert found.shape == (2, spatial.dim) == (2, 2023)
    assert found.dtype == torch.float32
    seen = []
    with network.Mixed_6c.register_forward_hook(lambda _, __, output: seen.append(output.clone())):
        network(to_levels(x, 256))
    layer = network.Mixed_6d.branch1x1
    z = torch.einsum("oc,bchw->bohw", layer.conv.weight[:7, :, 0, 0], seen[0])
    bn = layer.bn
    scale = (bn.weight / (bn.running_var + bn.eps).sqrt())[:7, None, None]
    y = ((z - bn.running_mean[:7, None, None]) * scale + bn.bias[:7, None, None]).relu()
    assert y.shape == (2, 7, 17, 17)
    for row, column, channel in ((0, 0, 0), (0, 0, 6), (0, 16, 3), (16, 2, 5)):
        place = (row * 17 + column) * 7 + channel
        torch.testing.assert_close(found[:, place], y[:, channel, row, column], rtol=1e-4, atol=1e-4)
    assert found.std() > 0.01


def test_the_distance_of_spatial_features_is_called_sfid_with_the_published_weights_only(
    spatial, features, monkeypatch
):
    assert spatial.metric_name == "fd_inception_spatial"
    monkeypatch.setattr(inception, "SHA256", spatial.sha256)
    assert (spatial.metric_name, features.metric_name) == ("sfid", "fid")
    assert spatial.identity != features.identity
    assert KernelDistance._name(Naming("inception_spatial", "sfid")) == "kd_inception_spatial"
    assert KernelDistance._name(Naming("inception", "fid")) == "kid"
