"""Every data set that conf/data offers keeps the promises of a DataModule: a new one is tested the moment its yaml exists."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.data import DataModule
from diffusion_lab.diffusion.levels import from_levels, to_levels
from tests.data.small_sets import SMALL

CONF = Path(__file__).parents[2] / "conf" / "data"
FILES = sorted(CONF.glob("*.yaml"))
VALIDATION = 3


@pytest.fixture(scope="module", params=[pytest.param(path, id=path.stem) for path in FILES])
def whole_and_divided(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DataModule, DataModule]]:
    """The data set, and again with VALIDATION of its training images held back."""
    root = OmegaConf.create({"seed": 3, "data": OmegaConf.load(request.param).data})
    with pytest.MonkeyPatch.context() as patch:
        if write := SMALL.get(request.param.stem):
            root.data.root = str(write(tmp_path_factory.mktemp(request.param.stem) / "own", patch))
            if OmegaConf.is_missing(root.data, "train"):
                root.data.train = "train.npz"
        root.data.update({name: 40 for name in ("num_train", "num_test") if name in root.data})
        if "num_workers" in root.data and request.param.stem != "image_folder":  # one of them with processes
            root.data.num_workers = 0
        whole, divided = instantiate(root.data), instantiate(root.data)
        divided.hold_back(VALIDATION)
        whole.prepare()
        divided.prepare()
        yield whole, divided


@pytest.fixture(scope="module")
def data(whole_and_divided: tuple[DataModule, DataModule]) -> DataModule:
    return whole_and_divided[0]


def test_there_are_data_sets() -> None:
    known = {"digits", "gaussian", "gaussian_field", "mixture", "series", "two_moons", "volume", *SMALL}
    assert known <= {path.stem for path in FILES}


def test_the_yaml_is_the_name_and_the_options_arrive(data: DataModule, request: pytest.FixtureRequest) -> None:
    assert data.name == request.node.callspec.params["whole_and_divided"].stem
    assert data.seed == 3
    assert data.missing() is None
    assert len(data.identity) == 64
    assert int(data.identity, 16) > 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_facts_are_true_of_what_scoring_sees(data: DataModule, split: str) -> None:
    size = data.num_train if split == "train" else data.num_test
    batches = list(data.batches(split, 1024))
    assert sum(len(x) for x, _ in batches) == size
    for x, y in batches:
        check_batch(data, x, y)
    if data.num_classes is not None:
        assert torch.cat([y for _, y in batches]).max() == data.num_classes - 1
    if data.num_levels is not None:
        assert max(x.max() for x, _ in batches) == 1
    (x, _), *rest = data.batches(split, 5, limit=5)
    assert len(x) == min(5, size)
    assert rest == []


def test_the_facts_are_true_of_what_training_sees(data: DataModule) -> None:
    stream = iter(data.train_dataloader())
    for _ in range(3):
        x, y = next(stream)
        assert len(x) == data.batch_size
        check_batch(data, x, y)


def check_batch(data: DataModule, x: torch.Tensor, y: torch.Tensor | None) -> None:
    assert x.dtype == torch.float32
    assert x.shape == (len(x), *data.shape)
    assert x.isfinite().all()
    if data.num_levels is not None:
        assert x.abs().max() <= 1
        assert torch.equal(from_levels(to_levels(x, data.num_levels), data.num_levels), x)
    if data.num_classes is None:
        assert y is None
    else:
        assert y.dtype == torch.int64
        assert y.shape == (len(x),)
        assert y.min() >= 0
        assert y.max() < data.num_classes


def images(data: DataModule, split: str) -> Counter[tuple[bytes, bytes]]:
    """How often each image of a split occurs, with its class."""
    return Counter(
        (image.numpy().tobytes(), b"" if y is None else y[i].numpy().tobytes())
        for x, y in data.batches(split, 1024)
        for i, image in enumerate(x)
    )


def test_validation_images_are_no_longer_training_images(whole_and_divided: tuple[DataModule, DataModule]) -> None:
    whole, divided = whole_and_divided
    assert (divided.num_validation, divided.num_train) == (VALIDATION, whole.num_train - VALIDATION)
    train, validation = images(divided, "train"), images(divided, "validation")
    assert validation.total() == VALIDATION
    assert train + validation == images(whole, "train")
    assert images(divided, "test") == images(whole, "test")
    if whole.num_classes is not None:
        assert divided.class_shares("validation").sum() == pytest.approx(1)


def test_the_identity_is_that_of_the_whole(whole_and_divided: tuple[DataModule, DataModule]) -> None:
    """Images are found again in the cache whatever is held back; a model of fewer images is another model."""
    whole, divided = whole_and_divided
    assert whole.identity == whole.training_identity == divided.identity
    assert divided.training_identity != whole.training_identity
    assert [whole.named(split) for split in ("train", "test")] == ["train", "test"]
    assert divided.named("test") == "test"
    assert divided.named("train") != "train"


def test_the_density_is_known_as_a_whole_or_not_at_all(data: DataModule) -> None:
    x, _ = next(data.batches("test", 7))
    log_prob, entropy = data.log_prob(x), data.entropy_bits()
    assert (log_prob is None) == (entropy is None)
    if log_prob is not None:
        assert log_prob.shape == (len(x),)
        assert log_prob.dtype == torch.float64
