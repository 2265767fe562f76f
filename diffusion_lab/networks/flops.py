"""The cost of a network: parameters, and floating-point operations of one evaluation on one sample."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusion_lab.diffusion.shapes import Conditions


@dataclass(frozen=True)
class NetworkCost:
    """parameters: numbers in the weights. forward_flops: operations for one sample, a multiply-add counted as 2."""

    parameters: int
    forward_flops: int


def network_cost(network: nn.Module, shape: tuple[int, ...], y: Conditions = None) -> NetworkCost:
    """Parameters of `network` and the FLOPs of network(x_t, timesteps) for one x_t of `shape` (C, H, W) or (D,).

    y: its conditions, if it uses any.

    Counted by torch.utils.flop_counter: convolutions, matrix products and attention, a multiply-add as 2; norms,
    activations and sums are omitted, as is usual. A training step costs about three forward evaluations. The network
    is evaluated once, in its current mode and on its device, and keeps its parameters and the random state.
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    device = next(network.parameters()).device
    x_t = torch.zeros(1, *shape, device=device)
    timesteps = torch.zeros(1, dtype=torch.int64, device=device)
    more = () if y is None else (y,)
    return NetworkCost(parameters, count_flops(lambda: network(x_t, timesteps, *more)))


@torch.no_grad()
def count_flops(evaluate: Callable[[], object]) -> int:
    """Floating-point operations of one call of `evaluate`; the random state is unchanged."""
    # The counter has no formula for some fused attentions; plain attention consists of two matrix products, which it supports.
    # By default fork_rng initialises every GPU of the machine.
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        evaluate()
    return counter.get_total_flops()
