"""What a network costs: parameters, and floating-point operations of one evaluation."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def network_cost(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """(parameters, FLOPs of one evaluation of one sample); a multiplication with its addition counts as two.

    Matrix products, convolutions and attention are counted, as everybody counts; norms and activations are not.
    """
    device = next(network.parameters()).device
    x_t, timesteps = torch.zeros(1, *shape, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x_t, timesteps, None)
    network.train(was_training)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops()
