"""Checks of the sizes of networks, whose messages name the option, and sizes that follow from the image."""

import math
from collections.abc import Sequence
from itertools import takewhile

Sides = int | Sequence[int]  # the side of a square, or the length of each spatial axis
Padding = str | Sequence[str]  # "zeros" or "circular", for all axes or for each of them
PADDINGS = ("zeros", "circular")


def check_counts(group: str = "network", /, **counts: int) -> None:
    """ValueError, naming it, for a size that is not a positive whole number. group: of the options."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{group}.{name}={count} must be a whole number of at least 1")


def check_dropout(dropout: float) -> None:
    """ValueError unless it is a probability below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"network.dropout={dropout} must be at least 0 and below 1")


def lengths(image_size: Sides, group: str = "network") -> tuple[int, ...]:
    """The length of each spatial axis. ValueError unless they are one to three positive whole numbers. group: of the option."""
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if not 1 <= len(sides) <= 3:
        raise ValueError(
            f"{group}.image_size={list(sides)} must be the side of a square, or the lengths of one to three axes"
        )
    check_counts(group, image_size=min(sides))
    return sides


def height_and_width(image_size: Sides, group: str = "network") -> tuple[int, int]:
    """(H, W). ValueError unless there are two spatial axes, of positive whole numbers. group: of the option."""
    sides = lengths(image_size, group)
    if len(sides) != 2:
        raise ValueError(
            f"{group}.image_size={list(sides)}: this network takes images of two axes only; model=diffusion takes one to three"
        )
    return sides[0], sides[1]


def halved(sides: Sequence[int], num_levels: int) -> list[tuple[int, ...]]:
    """The lengths of every level, finest first: each ⌈half⌉ of the level before."""
    return [tuple(-(-side // 2**level) for side in sides) for level in range(num_levels)]


def patch_for(sides: Sequence[int]) -> int:
    """The smallest power of two that divides every side and gives at most 64² patches."""
    powers = takewhile(lambda size: all(side % size == 0 for side in sides), (2**k for k in range(32)))
    fine = [size for size in powers if math.prod(sides) > 64**2 * (size // 2) ** len(sides)]
    return max(fine, default=1)


def patch_of_tokens(sides: Sequence[int], most: int = 256) -> int:
    """The smallest power of two that gives at most `most` patches, the last ones padded."""
    return next(size for size in (2**k for k in range(32)) if math.prod(-(-side // size) for side in sides) <= most)


def base_for(sides: Sequence[int]) -> int:
    """Channels of the finest level: a power of two from 4 to 32, 1024/√positions at most, so that a convolution costs the same
    at 32×32 as at 64×64."""
    return max(4, min(32, 2 ** int(math.log2(1024 / math.prod(sides) ** 0.5))))


def multipliers_for(sides: Sequence[int], base_channels: int) -> list[int]:
    """1, 2, 4, … to 128 channels, halving an image to 8 pixels of its longest side, or once."""
    halvings = max(1, math.ceil(math.log2(max(sides) / 8)))
    return [min(2**level, max(1, 128 // base_channels)) for level in range(halvings + 1 if max(sides) > 1 else 1)]


def paddings(padding: Padding, num_axes: int) -> tuple[str, ...]:
    """The padding of each of the axes. ValueError for another name, or another number of them."""
    found = (padding,) * num_axes if isinstance(padding, str) else tuple(padding)
    if len(found) != num_axes or not {*found} <= {*PADDINGS}:
        given = padding if isinstance(padding, str) else f"[{','.join(map(str, padding))}]"
        raise ValueError(
            f"network.padding={given} must be zeros or circular, or a list with one of them for each of {num_axes} axes"
        )
    return found
