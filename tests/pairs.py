"""Few cells of a product in which every two choices of different axes meet: parts that are orthogonal need no more."""

from collections.abc import Collection
from itertools import combinations


def pairs(cells: Collection[tuple]) -> list[tuple]:
    """Those of the cells in which all pairs of choices that meet in any of them meet.

    Chosen greedily, so not the fewest that there are, but always the same.
    """

    def meetings(cell: tuple) -> set:
        return set(combinations(enumerate(cell), 2))

    meet = {cell: meetings(cell) for cell in cells}
    missing = set().union(*meet.values())
    chosen = []
    while missing:
        chosen.append(max(cells, key=lambda cell: len(meet[cell] & missing)))
        missing -= meet[chosen[-1]]
    return chosen
