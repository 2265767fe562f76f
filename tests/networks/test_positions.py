import itertools

import pytest
import torch

from diffusion_lab.networks.positions import grid_positions, rotated, rotations, sinusoidal_positions


def test_sinusoids_of_an_axis_are_those_of_vaswani():
    """p·10000^{−i/m} with m sines, then m cosines."""
    found = sinusoidal_positions([7], 6)
    angles = torch.arange(7.0)[:, None] * 10_000.0 ** -(torch.arange(3) / 3)
    torch.testing.assert_close(found, torch.cat([angles.sin(), angles.cos()], 1))


@pytest.mark.parametrize(("sides", "dim"), [([4, 5], 16), ([3, 4, 5], 20), ([6], 7)])
def test_every_place_of_a_grid_has_its_own_vector(sides, dim):
    found = sinusoidal_positions(sides, dim)
    assert found.shape == (len(grid_positions(sides)), dim)
    assert len(found.unique(dim=0)) == len(found)


@pytest.mark.parametrize("sides", [(9,), (4, 5), (3, 3, 4)])
def test_products_of_rotated_vectors_see_only_differences(sides):
    """And keep the norm: ⟨R_p q, R_s k⟩ depends on p − s only (Su et al. 2021, eq. 11)."""
    q, k = torch.randn(2, 12, dtype=torch.float64)
    cos, sin = (part.double() for part in rotations(sides, 12))
    places = [tuple(map(int, place)) for place in grid_positions(sides)]
    queries, keys = (rotated(x.expand(len(places), 12), cos, sin) for x in (q, k))
    torch.testing.assert_close(queries.norm(dim=1), q.norm().expand(len(places)))
    products, seen = queries @ keys.T, {}
    for (i, p), (j, s) in itertools.product(enumerate(places), repeat=2):
        difference = tuple(a - b for a, b in zip(p, s, strict=True))
        torch.testing.assert_close(products[i, j], seen.setdefault(difference, products[i, j]), atol=1e-5, rtol=0)
    assert max(seen.values()) - min(seen.values()) > 0.1


def test_the_first_place_is_not_rotated():
    cos, sin = rotations([2, 2], 8)
    assert torch.equal(cos[0], torch.ones(4))
    assert not sin[0].any()
