from itertools import combinations, product

import pytest

from .pairs import pairs


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (5, 2, 4), (1, 3), (2, 2, 2, 2, 2)])
def test_every_two_choices_meet_in_a_cell_and_there_are_few_cells(sizes):
    axes = [range(size) for size in sizes]
    cells = pairs(list(product(*axes)))
    for i, j in combinations(range(len(sizes)), 2):
        assert {(cell[i], cell[j]) for cell in cells} == set(product(axes[i], axes[j]))
    two_largest = sorted(sizes)[-2] * sorted(sizes)[-1]
    assert two_largest <= len(cells) <= 1.5 * two_largest


def test_what_may_not_meet_does_not():
    possible = [cell for cell in product("ab", "cd", "ef") if cell[:2] != ("a", "c")]
    assert {cell[:2] for cell in pairs(possible)} == {("a", "d"), ("b", "c"), ("b", "d")}
