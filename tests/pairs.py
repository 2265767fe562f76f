"""Few cells of a product in which every two choices of different axes meet: parts that are orthogonal need no more."""

from collections.abc import Hashable, Sequence
from itertools import combinations, product


def pairs(*axes: Sequence[Hashable]) -> list[tuple]:
    """Chosen greedily, so not the fewest that there are, but always the same."""

    def meetings(cell: tuple) -> set:
        return set(combinations(enumerate(cell), 2))

    cells = list(product(*axes))
    missing = set().union(*map(meetings, cells))
    chosen = []
    while missing:
        chosen.append(max(cells, key=lambda cell: len(meetings(cell) & missing)))
        missing -= meetings(chosen[-1])
    return chosen
