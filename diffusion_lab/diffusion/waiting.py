"""Whether reading a value makes the host wait. On a GPU the host runs ahead, and reading one value waits for all queued work."""

from torch import Tensor


def is_on_host(values: Tensor) -> bool:
    """Whether the host can read them without waiting for a device, because they are in its own memory."""
    return values.device.type == "cpu"
