import hashlib
import io
from pathlib import Path

import pytest
import torch
import torch_fidelity
from torch.nn import functional as F  # noqa: N812
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from diffusion_lab.data.module import DataModule
from diffusion_lab.data.pictures import to_uint8
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.metrics import FrechetDistance, InceptionScore, KernelDistance, Naming, PrecisionRecall
from diffusion_lab.metrics.features import WeightsError, inception
from diffusion_lab.metrics.features.inception import FILE_NAME, SHA256, InceptionFeatures, InceptionSpatialFeatures
from diffusion_lab.metrics.reference import references_of
from diffusion_lab.metrics.score import score
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.sources import TrainedModel
from tests.metrics.stand_ins import Silent


@pytest.fixture(scope="module")
def features(random_inception) -> InceptionFeatures:
    return InceptionFeatures(**random_inception._asdict())


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
        for indices, _ in picks:
            yield self.images[split][indices], None


class Painter(Silent):
    """Sample i is picture i."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.num_levels = (3, 32, 32), 256
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


@pytest.fixture
def each_image_once(monkeypatch):
    """Networks of the same weights need not look at the same bytes again: an image takes a third of a second."""
    forward, names, seen = FeatureExtractorInceptionV3.forward, ["2048", "logits_unbiased"], {}

    def looked_up(network, images):
        weights = tuple(float(weight.double().sum()) for weight in network.state_dict().values())
        keys = [(weights, image.numpy().tobytes()) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in seen}
        wanted = network.features_list
        if new:
            monkeypatch.setattr(network, "features_list", names)
            seen.update(zip(new, zip(*forward(network, torch.stack([*new.values()])), strict=True), strict=True))
            monkeypatch.setattr(network, "features_list", wanted)
        return tuple(torch.stack([seen[key][names.index(name)] for key in keys]) for name in wanted)

    monkeypatch.setattr(FeatureExtractorInceptionV3, "forward", looked_up)


@pytest.mark.thorough
@pytest.mark.usefixtures("each_image_once")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_scores_are_those_of_torch_fidelity(features, random_inception, tmp_path, monkeypatch):
    """Its KID is float32, three means of order 1 that cancel: the two sets are far enough apart to leave six digits."""
    assert features.metric_name == "fd_inception"  # with these weights; but let them be the published ones
    monkeypatch.setattr(inception, "SHA256", random_inception.sha256)
    settings = Evaluation(num_samples=12, weights="raw", seed=3)
    metrics = [FrechetDistance(), KernelDistance(num_subsets=5, subset_size=10), PrecisionRecall(), InceptionScore()]
    scores = score(
        TrainedModel(Painter(), ["painter"], tmp_path),
        references_of(Coloured(), [features], tmp_path, "cpu"),
        metrics,
        settings,
    )
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


def test_grey_images_of_few_levels_are_shown_as_bytes_in_three_channels(features):
    levels = torch.randint(0, 17, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x = from_levels(levels, 17)
    seen = features(x)
    bytes_seen = (levels.float() * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1)
    assert torch.equal(seen, features.network(bytes_seen)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(x), seen)


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


def test_training_mode_does_not_change_the_ruler(features):
    x = pictures(5, 1.0, 0.0, n=2)
    before = features(x)
    assert torch.equal(features.train()(x), before)
    torch.testing.assert_close(features(x[1:]), before[1:], rtol=1e-4, atol=1e-5)


def test_points_and_other_channels_are_refused(features):
    for shape in ((2,), (4, 8, 8)):
        with pytest.raises(ValueError, match="images with 1 or 3 channels"):
            features.check(shape)
    features.check([1, 28, 28])


def one_sentence(error) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


def test_without_the_file_it_is_said_which_from_where_and_to_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        InceptionFeatures()
    said = one_sentence(error)
    for part in (FILE_NAME, "https://github.com/", str(tmp_path / "hub" / "checkpoints" / FILE_NAME), "download=true"):
        assert part in said
    assert SHA256.startswith(FILE_NAME.removesuffix(".pth").rsplit("-", 1)[1])


def test_a_file_with_another_digest_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    for content in (b"", b"truncated", b"\x80\x04cos\nsystem\n"):
        path = tmp_path / "other.pth"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="its SHA-256 is") as error:
            InceptionFeatures(path)
        assert str(path) in one_sentence(error)


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled_even_if_the_digest_is_right(tmp_path):
    trace = tmp_path / "it ran"
    for content in ({"fc.weight": Payload(trace)}, {"fc.weight": torch.zeros(2)}, [1, 2]):
        file = io.BytesIO()
        torch.save(content, file)
        path = tmp_path / "weights.pth"
        path.write_bytes(file.getvalue())
        with pytest.raises(WeightsError, match=r"does not hold the weights of this Inception-v3") as error:
            InceptionFeatures(path, sha256=hashlib.sha256(file.getvalue()).hexdigest())
        one_sentence(error)
    assert not trace.exists()


def test_download_fetches_once_and_checks(tmp_path, random_inception, monkeypatch):
    """Over a file:// address; the folder is made, a wrong digest leaves nothing behind."""
    source = Path(random_inception.path)
    monkeypatch.setattr("diffusion_lab.metrics.features.inception.URL_INCEPTION_V3", source.as_uri())
    target = tmp_path / "new" / "weights.pth"
    with pytest.raises(WeightsError, match="could not be downloaded") as error:
        InceptionFeatures(target, download=True)
    one_sentence(error)
    assert list(target.parent.iterdir()) == []
    InceptionFeatures(target, download=True, sha256=random_inception.sha256)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("fetched twice"))
    InceptionFeatures(target, download=True, sha256=random_inception.sha256)
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_lab.metrics.features.inception.URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(WeightsError, match=r"could not be downloaded .* put it there") as error:
        InceptionFeatures(tmp_path / "weights.pth", download=True)
    one_sentence(error)
