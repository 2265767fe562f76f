"""Checks of the sizes of networks; a message names the option."""

from collections.abc import Sequence

Sides = int | Sequence[int]  # of an image: its side in pixels, or its height and its width


def check_counts(group: str = "network", /, **counts: int) -> None:
    """ValueError, naming it, for a size that is not a positive whole number. group: whose options they are."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{group}.{name}={count} must be a whole number of at least 1")


def check_dropout(dropout: float) -> None:
    """ValueError where it is no probability below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"network.dropout={dropout} must be at least 0 and below 1")


def height_and_width(image_size: Sides, group: str = "network") -> tuple[int, int]:
    """(H, W). ValueError unless image_size is a positive whole number, or two. group: whose option it is."""
    sides = list(image_size) if isinstance(image_size, Sequence) else [image_size, image_size]
    if len(sides) != 2:
        raise ValueError(f"{group}.image_size={sides} must be a side in pixels, or [height,width]")
    check_counts(group, image_size=min(sides))
    return sides[0], sides[1]


def halved(image_size: Sides, num_levels: int, group: str = "network") -> list[tuple[int, int]]:
    """(H, W) of every level, finest first: both sides ⌈half⌉ of the level before."""
    height, width = height_and_width(image_size, group)
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(num_levels)]
