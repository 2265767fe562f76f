"""Features trained without labels: the loss, what training reads, and files of weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_lab.data.digits import Digits
from diffusion_lab.data.in_memory import Split
from diffusion_lab.metrics.features import WeightsError
from diffusion_lab.metrics.features.classifiers import FOLDER
from diffusion_lab.metrics.features.self_supervised import (
    Encoder,
    read_encoder,
    shifted,
    train_encoder,
    vicreg,
    written,
)


def test_vicreg_is_the_papers_formula() -> None:
    """Sums written out for single numbers: equations 1 to 6 with λ = μ = 25, ν = 1."""
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double() * 0.7
    wanted = 25 * sum(float((a - b) ** 2) for a, b in zip(first.flatten(), second.flatten(), strict=True)) / 15
    for z in (first.numpy(), second.numpy()):
        covariance = np.cov(z, rowvar=False)
        wanted += 25 / 2 * sum(max(0.0, 1 - np.sqrt(covariance[j, j] + 1e-4)) for j in range(3)) / 3
        wanted += sum(covariance[i, j] ** 2 for i in range(3) for j in range(3) if i != j) / 3
    assert float(vicreg(first, second)) == pytest.approx(wanted, rel=1e-9)


def test_a_shift_moves_whole_pixels() -> None:
    x = torch.arange(2 * 9.0).view(2, 1, 3, 3)
    moved = shifted(x.expand(2, 1, 3, 3), 1, torch.Generator().manual_seed(0), fill=-1.0)
    for before, after in zip(x, moved, strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1), value=-1.0)
        places = [padded[..., i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
        assert any(torch.equal(after, place) for place in places)


class OtherLabels(Digits):
    """The same images with other labels."""

    def __init__(self, labels: torch.Tensor | None) -> None:
        super().__init__(batch_size=32, seed=0)
        self.labels = labels
        self.num_classes = None if labels is None else 10

    def _read(self) -> tuple[Split, Split]:
        train, test = super()._read()
        return Split(train.values, self.labels), test


def test_training_reads_no_label() -> None:
    """Equal weights to the bit without labels and with garbage; the global random numbers stay where they were."""
    garbage = torch.arange(1437).flip(0)
    before = torch.get_rng_state()
    sets = Digits(32, seed=0), OtherLabels(None), OtherLabels(garbage)
    weights = [written(train_encoder(data, num_steps=3, seed=0)) for data in sets]
    assert weights[0] == weights[1] == weights[2]
    assert torch.equal(before, torch.get_rng_state())
    assert written(train_encoder(Digits(32, seed=0), num_steps=3, seed=1)) != weights[0]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64), (3, 20, 33), (2, 1, 5)], ids=str)
def test_an_encoder_is_read_as_it_was_written(shape: tuple[int, ...]) -> None:
    encoder = Encoder(shape, num_features=5).half().float()
    content = written(encoder)
    read, identity = read_encoder(content, Path("x"))
    x = torch.randn(3, *shape)
    torch.testing.assert_close(read(x), encoder(x))
    assert len(content) < 1_000_000
    assert len(identity) == 64


def test_a_file_that_is_no_encoder_is_refused() -> None:
    other = (FOLDER / "digits_cnn.safetensors").read_bytes()
    for content in (b"", b"no weights", written(Encoder((1, 8, 8)))[:-1], other):
        with pytest.raises(WeightsError, match=r"x\.safetensors holds no features"):
            read_encoder(content, Path("x.safetensors"))
