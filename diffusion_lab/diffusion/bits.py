"""1 bit = log 2 nats."""

import math
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


def in_bits(nats: Number, num_dims: int = 1) -> Number:
    """Nats of all of num_dims dimensions -> bits per dimension."""
    return nats / (num_dims * math.log(2))


def in_nats(bits: Number, num_dims: int = 1) -> Number:
    """Bits per dimension -> nats of all of them."""
    return bits * (num_dims * math.log(2))
