import pytest
import torch

from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.report.drawing import to_uint8


def test_every_level_survives_the_round_trip() -> None:
    for num_levels in (*range(2, 258), 4096, 65535, 65536):
        levels = torch.arange(num_levels).to(torch.uint8 if num_levels <= 256 else torch.uint16)
        assert torch.equal(to_levels(from_levels(levels, num_levels), num_levels), levels)


def test_levels_span_minus_one_to_one_exactly_and_evenly() -> None:
    for num_levels in (*range(2, 258), 4096, 65536):
        x = from_levels(torch.arange(num_levels), num_levels)
        assert x.dtype == torch.float32
        assert (x[0], x[-1]) == (-1, 1)
        exact = 2 * torch.arange(num_levels, dtype=torch.float64) / (num_levels - 1) - 1
        assert (x.double() - exact).abs().max() < 1e-7


@pytest.mark.parametrize("num_levels", [2, 17, 256, 65536])
def test_x_goes_to_the_nearest_level_and_is_clamped(num_levels: int) -> None:
    x = torch.linspace(-1, 1, 9001)
    nearest = from_levels(to_levels(x, num_levels), num_levels)
    assert (nearest - x).abs().max() <= 1 / (num_levels - 1) + 1e-7
    assert to_levels(torch.tensor([-7.0, 1.01, 7.0]), 17).tolist() == [0, 16, 16]


def test_a_picture_spreads_the_levels_over_all_greys() -> None:
    x = from_levels(torch.arange(17).to(torch.uint8), 17)
    assert to_uint8(x, 17).tolist() == [round(255 * level / 16) for level in range(17)]
    assert to_uint8(torch.tensor([0.03]), 17).tolist() == to_uint8(torch.tensor([0.0]), 17).tolist()
    assert to_uint8(torch.tensor([0.03]), None).tolist() == [131]


@pytest.mark.parametrize("num_levels", [-1, 0, 1, 65537])
def test_numbers_of_levels_that_uint16_cannot_hold_are_refused(num_levels: int) -> None:
    with pytest.raises(ValueError, match=f"num_levels={num_levels} must lie between 2 and 65536"):
        to_levels(torch.zeros(1), num_levels)
    with pytest.raises(ValueError, match=f"num_levels={num_levels} must lie between 2 and 65536"):
        from_levels(torch.zeros(1, dtype=torch.uint8), num_levels)
