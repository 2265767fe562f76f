import pytest
import torch

from diffusion_lab.data import DataError
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.in_memory import InMemoryDataModule, Split


class Toy(InMemoryDataModule):
    """Three training images and two test images of two pixels each, with levels 0 … 4."""

    name = "toy"
    num_classes = 2
    num_levels = 5
    train = ((0, 1), (2, 3), (4, 0))

    def _read(self) -> tuple[Split, Split]:
        train = torch.tensor(self.train, dtype=torch.uint8).view(3, 1, 1, 2)
        test = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(2, 1, 1, 2)
        return Split(train, torch.tensor([0, 1, 0])), Split(test, torch.tensor([1, 0]))


def all_of(data: InMemoryDataModule, split: str, **options) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(data.batches(split, 7, **options))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_scoring_shows_the_split_in_order_and_never_mirrored() -> None:
    data = Toy(batch_size=2, seed=0, flip=True)
    for _ in range(5):
        x, y = all_of(data, "train")
        assert ((x + 1) * 2).view(3, 2).tolist() == [[0, 1], [2, 3], [4, 0]]
        assert y.tolist() == [0, 1, 0]


def test_a_limit_is_a_subset_that_every_seed_shares_and_start_skips() -> None:
    x, y = all_of(Digits(batch_size=1, seed=0), "test", limit=50)
    assert len(x) == 50
    assert torch.equal(x, all_of(Digits(batch_size=9, seed=1), "test", limit=50)[0])
    assert torch.equal(x[20:], all_of(Digits(batch_size=1, seed=0), "test", limit=50, start=20)[0])
    # Half of all digits are below 5; 50 of them with five standard deviations.
    assert 7 < (y < 5).sum() < 43


def test_the_digits_are_the_same_for_everybody() -> None:
    data = Digits(batch_size=1, seed=0)
    data.prepare()
    assert data.identity == "0daebb48b7272af26691f3de846d05f5fa0af651c39b2f461e78ec79567df32b"
    train, test = (all_of(data, split)[0].flatten(1) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    # scikit-learn's set holds no scan twice, so equal rows would be a leak from one split to the other.
    assert torch.cat([train, test]).unique(dim=0).shape[0] == 1797


def test_the_identity_follows_the_content_and_nothing_else() -> None:
    first, again = Toy(batch_size=1, seed=0), Toy(batch_size=2, seed=1, flip=True)
    other = Toy(batch_size=1, seed=0)
    other.train = ((0, 1), (2, 3), (4, 1))
    for data in (first, again, other):
        data.prepare()
    assert first.identity == again.identity
    assert first.identity != other.identity


def test_impossible_options_are_named() -> None:
    with pytest.raises(DataError, match="batch_size=0"):
        Digits(batch_size=0, seed=0)
    with pytest.raises(DataError, match="seed=-1"):
        Digits(batch_size=1, seed=-1)
    with pytest.raises(DataError, match="'validation'"):
        Digits(batch_size=1, seed=0).batches("validation", 1)
