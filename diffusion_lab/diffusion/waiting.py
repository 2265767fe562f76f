"""Does looking cost anything? On a GPU the host runs ahead of the work, and a look at one value waits for all of it."""

from torch import Tensor


def at_hand(values: Tensor) -> bool:
    """Whether the host can look at them without waiting for a device: they lie in its own memory."""
    return values.device.type == "cpu"
