import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.data import DataError, DataModule
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.mnist import FashionMNIST
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.metrics.features import Features, Pixels, WeightsError
from diffusion_lab.metrics.features.classifiers import FOLDER, ClassifierFeatures, load_classifier
from diffusion_lab.metrics.features.self_supervised import Encoder, SelfSupervisedFeatures, written
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.reference import FeatureStatistics
from tests.metrics.random_vision import write_clip, write_dinov2

CONF = Path(__file__).parents[2] / "conf" / "features"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.json"))


def shipped(name: str) -> ClassifierFeatures | SelfSupervisedFeatures:
    return SelfSupervisedFeatures(name) if name.endswith("_ssl") else ClassifierFeatures(name)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(batch_size=1, seed=0)


def accuracy(features: ClassifierFeatures, data: DataModule) -> float:
    """Of the first 1000 test images at most."""
    batches = data.batches("test", 500, limit=min(1000, data.num_test))
    return torch.cat([features.classes(features(x)) == y for x, y in batches]).double().mean().item()


# Stored to four places, by another machine perhaps: one digit of 360 may fall the other way. Clothes: 2.5 standard errors.
@pytest.mark.needs("dataset-fashion-mnist")
@pytest.mark.parametrize(("kind", "least", "error"), [(Digits, 0.97, 1.1 / 360), (FashionMNIST, 0.92, 0.02)])
@pytest.mark.parametrize("network", ["cnn", "resnet"])
def test_a_card_tells_what_its_classifier_was_trained_on_and_how_well_it_does(network, kind, least, error) -> None:
    data, name = kind(batch_size=1, seed=0), f"{kind.name.removesuffix('_mnist')}_{network}"
    try:
        data.prepare()
    except DataError as missing:
        pytest.skip(str(missing))
    card = json.loads((FOLDER / f"{name}.json").read_text())
    assert card["data"] == {"name": kind.name, "identity": data.identity, "split": "train"}
    assert card["accuracy"]["test"] >= least
    assert accuracy(ClassifierFeatures(name), data) == pytest.approx(card["accuracy"]["test"], abs=error)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.thorough if path.stem.startswith("inception_") else ())
        for path in sorted(CONF.glob("*.yaml"))
    ],
    ids=lambda path: path.stem,
)
def test_the_features_of_a_yaml_carry_its_name_and_keep_the_interface(path: Path, random_inception, tmp_path) -> None:
    weights = random_inception._asdict() if path.stem.startswith("inception") else {}
    if path.stem.startswith(("dinov2", "clip")):
        write = write_dinov2 if path.stem.startswith("dinov2") else write_clip
        weights = {"path": tmp_path / "weights", "sha256": write(tmp_path / "weights")}
    if path.stem == "own":
        (tmp_path / "weights").write_bytes(written(Encoder((3, 4, 4))))
        weights = {"weights": tmp_path / "weights"}
    features = instantiate(OmegaConf.load(path)[path.stem], **weights)
    assert isinstance(features, Features)
    assert features.name == path.stem
    assert features.metric_name.removesuffix("_bilinear224") == f"fd_{path.stem}"  # random weights make no FID
    assert len(features.identity) == 64
    shape = (3, 4, 4)
    if isinstance(features, ClassifierFeatures):
        shape = features.classifier.shape
    elif isinstance(features, SelfSupervisedFeatures):
        shape = features.image_shape
    features.check(shape)
    x = torch.rand(5, *shape) * 2 - 1
    vectors = features(x)
    assert vectors.shape == (5, features.dim)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    assert not list(filter(lambda p: p.requires_grad, features.parameters()))
    assert (features.class_logits(vectors) is not None) == (path.stem == "inception")


def test_pixels_are_the_values_themselves() -> None:
    pixels = Pixels()
    pixels.check((1, 2, 2))
    assert pixels.dim == 4
    assert pixels(torch.arange(8.0).view(2, 1, 2, 2)).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    pixels.check((2,))
    assert pixels.dim == 2


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_feature_depends_on_its_image_alone(name: str) -> None:
    """Not on the mode, on autocast, or on the rest of the batch."""
    features, card = shipped(name), json.loads((FOLDER / f"{name}.json").read_text())
    assert features.identity == card["sha256"]
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 1_000_000
    x = torch.rand(6, *features.image_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    together = features(x)
    torch.testing.assert_close(torch.cat([features.train()(row[None]) for row in x]), together, rtol=1e-4, atol=1e-4)
    predicted = features.classes(together)
    assert (predicted is None) == name.endswith("_ssl")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(x), together)
        assert predicted is None or torch.equal(features.classes(together), predicted)
    features.check(list(features.image_shape))
    with pytest.raises(ValueError, match=rf"features={name} work for images of shape .*, but .* \(3, 5, 5\)"):
        features.check((3, 5, 5))


def test_a_changed_ruler_is_refused(tmp_path: Path) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(FOLDER / f"digits_cnn{suffix}", tmp_path)
    assert load_classifier("digits_cnn", tmp_path)[1] == ClassifierFeatures("digits_cnn").identity

    weights = tmp_path / "digits_cnn.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match=r"digits_cnn\.safetensors is not the file that its card describes"):
        load_classifier("digits_cnn", tmp_path)


def test_a_missing_ruler_is_named() -> None:
    with pytest.raises(WeightsError, match=r"no features 'nonesuch': .*digits_cnn"):
        ClassifierFeatures("nonesuch")


def moments(features: Features, x: torch.Tensor):
    return FeatureStatistics(features.dim, [features(from_levels(to_levels(x, 17), 17))]).compute()


@pytest.mark.parametrize("name", ["digits_cnn", "digits_ssl"])
def test_the_distance_grows_with_each_fault(digits: Digits, name: str) -> None:
    """Blur, noise, contrast, thickness: from half of the fault to all of it, and twice the floor at least."""
    features, (train, _), (x, y) = shipped(name), next(digits.batches("train", 1437)), next(digits.batches("test", 360))
    reference = moments(features, train)

    def distance(part: torch.Tensor) -> float:
        return frechet_distance(moments(features, part), reference)

    pool, floor = torch.nn.functional, distance(x)
    changes = {
        "blur": pool.avg_pool2d(pool.pad(x, (1, 1, 1, 1), value=-1.0), 3, stride=1) - x,
        "noise": 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        "contrast": -0.3 * (x + 1),
        "thicker": 0.4 * (pool.max_pool2d(x, 3, 1, 1) - x),
        "thinner": -0.4 * (pool.max_pool2d(-x, 3, 1, 1) + x),
    }
    for fault, change in changes.items():
        half, whole = (distance(x + s * change) for s in (0.5, 1.0))
        assert floor < half < whole, fault
        assert whole > 2 * floor, fault
    lacking = [distance(part) for part in (x, x[y != 3], x[y < 5], x[y == 3])]
    assert lacking == sorted(lacking)
    assert min(distance(x.flip(-1)), distance(x[:36])) > 3 * floor
