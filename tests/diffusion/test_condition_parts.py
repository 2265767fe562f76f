"""One condition, several or none are handled alike."""

import pytest
import torch

from diffusion_lab.diffusion.condition_parts import as_conditions, classes_in, joined, left_out, parts, rows, where

CLASSES, VECTORS = torch.tensor([0, 1, 2]), torch.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("y", "null"), [(None, None), (CLASSES, 3), (VECTORS, torch.nan), ((CLASSES, VECTORS), (3, torch.nan))]
)
def test_dropping_joining_and_choosing_go_part_by_part(y, null):
    dropped, chosen = left_out(y, null), torch.tensor([True, False, True])
    for own, empty, both, mixed, two in zip(
        *map(parts, (y, dropped, joined(y, dropped), where(chosen, y, dropped), rows(y, slice(2)))), strict=True
    ):
        assert empty.shape == own.shape
        assert bool((empty == 3).all() if own is CLASSES else empty.isnan().all())
        torch.testing.assert_close(both, torch.cat([own, empty]), equal_nan=True)
        torch.testing.assert_close(mixed, torch.stack([own[0], empty[1], own[2]]), equal_nan=True)
        assert torch.equal(two, own[:2])
    assert len(parts(y)) == (0 if y is None else len(y) if isinstance(y, tuple) else 1)


def test_the_classes_are_the_first_part_of_whole_numbers():
    assert classes_in((VECTORS, CLASSES)) is CLASSES
    assert classes_in(VECTORS) is classes_in(None) is None
    assert as_conditions([CLASSES]) is CLASSES
    assert as_conditions([]) is None
